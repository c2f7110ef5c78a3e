"""Which program runs: the fastest for the batch at hand, or one for all requests. Pure.

Every program of a bundle was found equal to the original before it was put in, so this is a matter
of time alone. A batch job takes whichever is fastest for its batches, and the original itself where
that is the fastest by far. A server takes one program per version and keeps to it, so that a row's
bits do not depend on how many rows came with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

LatencyUs = Mapping[str, Mapping[int, float]]
"""By program, by batch size: the time of one call in microseconds; see `statements.cost.Cost`."""

REQUEST_ROWS = (1, 8, 64, 512)
"""The batch sizes that stand for requests, each as important as another."""

ORIGINAL_SHARE = 0.8
"""The original is taken for a batch where it needs less than this share of the best program's time:
its framework has to be loaded, and what lies closer together is noise."""


def fastest(
    programs: Sequence[str], latency_us: LatencyUs, rows: int, *, last: str | None = None
) -> str:
    """The program that takes the least time for `rows` rows; the first of equals.

    Args:
        programs: Those that can run.
        latency_us: What they were measured to take.
        rows: The size of the batch.
        last: What `latency_us` calls the original, where it can run; see `ORIGINAL_SHARE`.

    Between measured sizes, time is drawn as a straight line over both logarithms; beyond the last
    one it grows with the rows. A program that was not measured is taken only if none was.
    """

    def expected_us(name: str) -> float:
        return _expected_us(latency_us.get(name, {}), rows)

    best = min(programs, key=expected_us)
    if last is not None and expected_us(last) < ORIGINAL_SHARE * expected_us(best):
        return last
    return best


def is_ever_fastest(programs: Sequence[str], latency_us: LatencyUs, last: str) -> bool:
    """Whether the original would be taken for a batch of some size that was measured."""
    return any(
        fastest(programs, latency_us, rows, last=last) == last for rows in latency_us.get(last, {})
    )


def pinned(programs: Sequence[str], latency_us: LatencyUs) -> str:
    """The program that serves requests: the least product of times over `REQUEST_ROWS`."""
    return min(
        programs,
        key=lambda name: sum(
            math.log(_expected_us(latency_us.get(name, {}), rows)) for rows in REQUEST_ROWS
        ),
    )


@dataclass(frozen=True, slots=True)
class Roles:
    """Which program does what.

    Attributes:
        requests: The one that serves requests.
        batches: From how many rows on which one runs batches; the first from 1.
    """

    requests: str
    batches: tuple[tuple[int, str], ...]

    def batches_in_words(self) -> str:
        """`onnx; from 300 rows on llvm`."""
        (_, first), *later = self.batches
        return "; ".join([first, *(f"from {rows:,} rows on {name}" for rows, name in later)])


def roles(programs: Sequence[str], latency_us: LatencyUs, *, last: str | None = None) -> Roles:
    """What each of the programs, of which there is at least one, is for by its measured times.

    `last` is what `fastest` means by it.
    """

    def for_rows(rows: int) -> str:
        return fastest(programs, latency_us, rows, last=last)

    sizes = sorted({1, *(size for name in programs for size in latency_us.get(name, ()))})
    batches = [(1, for_rows(1))]
    for small, large in pairwise(sizes):
        before, after = batches[-1][1], for_rows(large)
        if after != before:
            # The last size at which it is not yet another is between the two that were measured.
            while large - small > 1:
                middle = (small + large) // 2
                if for_rows(middle) == before:
                    small = middle
                else:
                    large = middle
            batches.append((large, after))
    return Roles(pinned(programs, latency_us), tuple(batches))


def _expected_us(times: Mapping[int, float], rows: int) -> float:
    known = [(size, max(times[size], 1e-3)) for size in sorted(times)]
    if not known:
        return math.inf
    for (small, small_us), (large, large_us) in pairwise(known):
        if small <= rows <= large:
            share = math.log(rows / small) / math.log(large / small)
            return math.exp((1 - share) * math.log(small_us) + share * math.log(large_us))
    size, us = known[0] if rows < known[0][0] else known[-1]
    return us * max(1.0, rows / size)
