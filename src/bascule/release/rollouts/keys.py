"""Sticky keys: which of their requests are evidence. Pure.

A plan gives a key its arm by the hash of the key, so requests of a key have one arm for a whole
stage, and a key that is in the candidate's arm stays there. Keys have error rates of their own, so
counting each of their requests as evidence errs: users whose rates are Beta with a mean of 1 % and
a concentration of 10 rolled back 7 to 42 % of equal versions. Here each key counts once in a stage,
with its first request, and only while its arm is open:

- The hash of a key is a number u from 0 to 1, the same in all stages, and a stage with the share s
  gives the key to the candidate where u < s. After stages with shares below and above s, the arm of
  a key is open where u lies between the nearest of these shares: (low, high). Keys beyond have the
  arm that they had, which says nothing new, and do not count.
- Given all that was seen before, u of a key that counts is uniform on (low, high), independent of
  the key's habits and of when its requests come. So the first requests of a stage are assigned to
  the arms at random, with the probability (s - low) / (high - low) for the candidate, as
  `stats.two_proportions` demands of requests without a key. The evidence of all stages multiplies.
- Workers do not keep keys. They keep a byte for each of `KEY_UNITS` equal parts of (0, 1): the
  first request in a part counts, whichever key it has, and the others do not. All keys of a part
  have one arm, and come to it by chance. The parts in which a share ends are left out.

A version that begins to fail when each key has counted would not be seen. So keys count again in
*rounds*, ever more seldom. A round of a stage is a test of its own: by Ville's inequality its
evidence ever reaches x with a probability of at most 1/x, although its assignment was known. It is
not multiplied with others; the k-th one has the stake 1 / (k (k + 1)), so the sum of all errors
stays below what they have together (`REPEATED_STAKE` of alpha).
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.endpoints import KEY_UNITS
from bascule.release.rollouts.evidence import ArmCounts, Interval
from bascule.serving.telemetry import FIRST_ANSWERED, FIRST_FAILED, FIRST_FELL_BACK, ROUND_BITS

REPEATED_STAKE = 0.2
"""Of alpha, what the rounds after the first one have together."""
_SLACK = 1e-9

Bytes = NDArray[np.uint8]
Units = tuple[int, int]
"""The first unit, and the one after the last."""


class Told(Interval, frozen=True, omit_defaults=True):
    """What a source has counted for a plan since it began.

    Attributes:
        firsts: The bytes of all units, packed; empty where no request has a key.
        low: See `Cell`.
        high: See `Cell`.
    """

    firsts: str = ""
    low: float = 0.0
    high: float = 1.0


class Cell(NamedTuple):
    """The hashes of keys whose arm is open in a stage: from `low` to `high`, and `share` splits."""

    low: float
    share: float
    high: float

    @property
    def candidate(self) -> Units:
        """The units whose keys are all in the candidate's arm."""
        return _units(self.low, self.share)

    @property
    def current(self) -> Units:
        """The units whose keys are all in the current version's arm."""
        return _units(self.share, self.high)

    @property
    def key_share(self) -> float:
        """The candidate's share of the units."""
        sizes = [max(last - first, 0) for first, last in (self.candidate, self.current)]
        return sizes[0] / sum(sizes) if all(sizes) else 0.0


def _units(low: float, high: float) -> Units:
    return math.ceil(low * KEY_UNITS - _SLACK), math.floor(high * KEY_UNITS + _SLACK)


def cells_of(shares: Sequence[float]) -> list[Cell]:
    """The cell of each stage, by the candidate's shares in order, each from 0 to 1.

    A share that an earlier stage had opens no arm.
    """
    cells = []
    for place, share in enumerate(shares):
        before = shares[:place]
        if share in before:
            cells.append(Cell(share, share, share))
        else:
            low = max((lower for lower in before if lower < share), default=0.0)
            high = min((higher for higher in before if higher > share), default=1.0)
            cells.append(Cell(low, share, high))
    return cells


def packed(firsts: Iterable[bytes]) -> str:
    """The bytes of units of several arms as one text; empty where there are none."""
    known = [np.frombuffer(units, np.uint8) for units in firsts if units]
    return _text(np.maximum.reduce(known)) if known else ""


def _text(units: Bytes) -> str:
    return base64.b85encode(zlib.compress(units.tobytes(), 1)).decode()


def _unpacked(text: str) -> Bytes:
    if not text:
        return np.zeros(KEY_UNITS, np.uint8)
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8).copy()


def add_keys(interval: Interval, sources: Sequence[Told], seen: str) -> tuple[list[Interval], str]:
    """An interval with the units of keys that are new; those of later rounds as intervals.

    Args:
        interval: What all sources have counted in a stage since the last one.
        sources: In an order that depends on no answer: what each has counted so far. Of a
            unit that two sources have at once, the first source counts.
        seen: The units that have counted in this stage, as returned before; empty at first.

    Returns:
        The intervals, and the units that have counted now.
    """
    if not any(source.firsts for source in sources):
        return [interval], seen
    counted = _unpacked(seen)  # of each unit, one more than the latest round in which it counted
    cell = Cell(sources[0].low, sources[0].share, sources[0].high)
    intervals = {interval.round_number: msgspec.structs.replace(interval, key_share=cell.key_share)}
    for source in sources:
        units = _unpacked(source.firsts)
        rounds = units >> ROUND_BITS
        is_new = (units & FIRST_ANSWERED > 0) & (rounds >= counted)
        counted[is_new] = rounds[is_new] + 1
        for number in map(int, np.unique(rounds[is_new])):
            before = intervals.get(number) or Interval(
                interval.number, interval.stage, key_share=cell.key_share, round_number=number
            )
            these = np.where(is_new & (rounds == number), units, 0)
            intervals[number] = msgspec.structs.replace(
                before,
                candidate=_with_keys(before.candidate, these[slice(*cell.candidate)]),
                current=_with_keys(before.current, these[slice(*cell.current)]),
            )
    return [intervals[number] for number in sorted(intervals)], _text(counted)


def _with_keys(arm: ArmCounts, units: Bytes) -> ArmCounts:
    return msgspec.structs.replace(
        arm,
        keys=arm.keys + int(np.count_nonzero(units)),
        key_errors=arm.key_errors + int(np.count_nonzero(units & FIRST_FAILED)),
        key_fallbacks=arm.key_fallbacks + int(np.count_nonzero(units & FIRST_FELL_BACK)),
    )
