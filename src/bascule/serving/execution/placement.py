"""The measured speed of a program, where its calls run, and how long a batch waits. Pure.

The first choice is made from the measurement at loading. Once a second it is made again from the
time that runs really took: a shared machine, or rows that cost more than the example's, slow down a
program. Each direction has its own threshold, so that a program near a threshold stays where it is.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

INLINE_MAX_S = 500e-6
"""The longest run on the event loop: ten times the cost of a thread hop, and a delay that other
requests can bear."""

_LEAVES = 2.0
_RETURNS = 0.7
"""A limit of rows is lowered when its runs take `_LEAVES` times the allowed time, and raised when
they would take less than `_RETURNS` of it."""

_PAYS = 1.05
"""A run of twice the rows pays off if it raises the rate by this factor."""
_LEAST_SIZES = 4
_FLAT_SIZES = 2
_MOST_BUDGETS = 4.0

_WAITED_SHARE = 0.5
_NEARLY_ALL = 0.8
"""A mean with at least this fraction above a whole number of rows is rounded up: one of the rows
is late now and then."""

_HOT_SHARE = 0.5
_COOL_SHARE = 0.25
_HOT_RUN_S = 100e-6
"""Shorter runs are not worth a thread, however many there are: the hop costs as much."""


class Stretch(NamedTuple):
    """A run of `rows` takes `run_s` seconds; each further row adds `row_s` seconds."""

    rows: int
    run_s: float
    row_s: float


_first_rows = attrgetter("rows")


@dataclass(frozen=True, slots=True)
class Pace:
    """The measured speed of a program on this machine.

    Attributes:
        one_row_s: The time of a run of one row.
        inline_rows: The most rows that run on the event loop; 0 sends every call to the thread.
        batch_rows: The rows per run above which the rate does not grow, within the limit.
        row_s: The time that each further row adds, on average up to `batch_rows`.
        stretches: The same between the measured sizes. Empty for a program whose rows all cost the
            same; those of trees, for example, cost most in runs of about a hundred.
    """

    one_row_s: float
    inline_rows: int
    batch_rows: int
    row_s: float = 0.0
    stretches: tuple[Stretch, ...] = field(default=(), compare=False)

    def run_s(self, rows: float) -> float:
        """The expected time of one run of so many rows."""
        if rows <= 1:
            return self.one_row_s
        if not self.stretches:
            return self.one_row_s + (rows - 1) * self.row_s
        place = bisect_right(self.stretches, rows, key=_first_rows) - 1
        stretch = self.stretches[place]
        return stretch.run_s + (rows - stretch.rows) * stretch.row_s

    def rows_within(self, allowed_s: float) -> int:
        """The most rows whose run takes at most `allowed_s`."""
        stretches = self.stretches or (Stretch(1, self.one_row_s, self.row_s),)
        for stretch in reversed(stretches):
            if stretch.run_s <= allowed_s:
                if stretch.row_s <= 0:
                    return 1 << 62
                return stretch.rows + int((allowed_s - stretch.run_s) / stretch.row_s)
        return 0


def goes_on_measuring(run_s: Mapping[int, float], spent_s: float, budget_s: float) -> bool:
    """Whether to measure runs of twice the rows as well.

    Args:
        run_s: The time of a run by its rows: 1, 2, 4...
        spent_s: The time spent on measuring so far.
        budget_s: The time for it. A few sizes are measured beyond it: one size alone says nothing
            about the rest.

    The rate may fail to grow at one size by noise, or by a step of the program's own.
    """
    if len(run_s) < _LEAST_SIZES:
        return spent_s < _MOST_BUDGETS * budget_s
    rates = [rows / seconds for rows, seconds in sorted(run_s.items())]
    is_flat = max(rates[-_FLAT_SIZES:]) < _PAYS * max(rates[:-_FLAT_SIZES])
    return spent_s < budget_s and not is_flat


def pace_of(run_s: Mapping[int, float]) -> Pace:
    """The pace of a program from the time of a run by its rows: 1, and further sizes or none."""
    stretches = _stretches(run_s)
    one_row_s = stretches[0].run_s
    best_rate = max(rows / seconds for rows, seconds in run_s.items())
    batch_rows = min(rows for rows, seconds in run_s.items() if rows / seconds * _PAYS >= best_rate)
    # The slope up to where batches end: that is the size of runs while many calls wait.
    slope_rows = max(batch_rows, min(2, max(run_s)))
    row_s = max(0.0, run_s[slope_rows] - one_row_s) / max(1, slope_rows - 1)
    inline = [rows for rows, seconds in run_s.items() if seconds <= INLINE_MAX_S]
    inline_rows = max(inline) if one_row_s <= INLINE_MAX_S else 0
    if inline_rows > 1:
        # Measuring may have stopped early; large cheap requests are judged by the rate.
        inline_rows = max(inline_rows, int(INLINE_MAX_S * best_rate))
    return Pace(one_row_s, inline_rows, batch_rows, row_s, stretches)


def _stretches(run_s: Mapping[int, float]) -> tuple[Stretch, ...]:
    """The curve through the measured times; it goes on beyond the last size with the last slope."""
    sizes = sorted(run_s)
    times = [run_s[rows] for rows in sizes]
    # A run of more rows takes no less: if it seems to, the run of fewer rows was held up.
    for place in range(len(times) - 2, -1, -1):
        times[place] = min(times[place], times[place + 1])
    prices = [
        (times[place + 1] - times[place]) / (sizes[place + 1] - sizes[place])
        for place in range(len(sizes) - 1)
    ]
    return tuple(map(Stretch, sizes, times, [*prices, *(prices or [0.0])[-1:]]))


class Placement(NamedTuple):
    """Where calls run.

    Attributes:
        inline_rows: Calls of up to so many rows run on the event loop.
        is_hot: The model takes so much of the loop's time that other models would wait: all its
            calls run on its thread.
    """

    inline_rows: int
    is_hot: bool = False


class RunStatistics(NamedTuple):
    """The runs of a model in the last second.

    Attributes:
        slowness: The time of inline runs as a multiple of the expected; None if they are too few.
        mean_inline_s: The mean time of an inline run.
        inline_share: The fraction of the time in which the model ran on the event loop.
        busy_share: The fraction of the time in which it ran, on the loop or on its thread.
        others_called: Whether other models had calls as well.
    """

    slowness: float | None
    mean_inline_s: float = 0.0
    inline_share: float = 0.0
    busy_share: float = 0.0
    others_called: bool = False

    def __str__(self) -> str:
        """A sentence for the log, with units."""
        runs = ""
        if self.slowness is not None:
            runs += f"runs took {self.slowness:.1f} times the expected time, "
        if self.mean_inline_s:
            runs += f"a run on the event loop took {self.mean_inline_s * 1e3:.3f} ms on average, "
        others = "other models had calls" if self.others_called else "no other model had calls"
        return (
            f"{runs}the model was busy for {self.busy_share:.0%} of the time, "
            f"for {self.inline_share:.0%} on the event loop, and {others}"
        )


def revisited(pace: Pace, now: Placement, runs: RunStatistics) -> Placement:
    """Where calls run from now on.

    A program that was too slow for the loop when it was loaded never runs there: it may block.
    """
    if now.is_hot:
        return now._replace(is_hot=runs.busy_share >= _COOL_SHARE)
    rows = now.inline_rows
    if runs.slowness is not None:
        allowed_s = INLINE_MAX_S / runs.slowness
        if rows > pace.rows_within(_LEAVES * allowed_s):
            rows = pace.rows_within(allowed_s)
        else:
            rows = max(rows, pace.rows_within(_RETURNS * allowed_s))
    is_hot = (
        runs.others_called and runs.inline_share > _HOT_SHARE and runs.mean_inline_s >= _HOT_RUN_S
    )
    return Placement(min(rows, pace.inline_rows), is_hot)


def expected_wait_s(
    pace: Pace, slowness: float, *, rows: int, calls: int, running_s: float
) -> float:
    """The expected time until all waiting calls have run.

    Args:
        pace: The measured speed.
        slowness: The recent time of runs, as a multiple of `pace`.
        rows: The number of waiting rows.
        calls: The number of waiting calls, which bounds the number of runs.
        running_s: The expected rest of the current run.
    """
    runs = min(calls, math.ceil(rows / pace.batch_rows))
    return running_s + slowness * runs * pace.run_s(rows / max(1, runs))


class BatchWait(NamedTuple):
    """How long a batch waits for more rows before it runs.

    Attributes:
        wait_s: The longest wait; 0 to run at once.
        rows: The batch runs as soon as it has so many rows.
    """

    wait_s: float
    rows: int


def longest_wait_s(pace: Pace, slowness: float) -> float:
    """How long a batch may wait for more rows: a part of the cost of running them separately."""
    return _WAITED_SHARE * slowness * max(0.0, pace.one_row_s - pace.row_s)


def worth_waiting_for(pace: Pace, slowness: float, *, rows: int, coming_rows: float) -> BatchWait:
    """Whether a batch of `rows` waits for rows that are about to arrive.

    Args:
        pace: The measured speed.
        slowness: The recent time of runs, as a multiple of `pace`.
        rows: The number of queued rows.
        coming_rows: The rows that recently arrived within `longest_wait_s` after such a moment.

    Delays a batch when the expected saving for late arrivals exceeds the delay cost of queued rows:
    a row that arrives just after a run has begun waits for all of it. A few clients that send again
    as soon as they have an answer arrive so, and one client alone never does; independent arrivals
    are so many only when the thread is busy all the time.
    """
    wait_s = longest_wait_s(pace, slowness)
    if rows >= pace.batch_rows or not wait_s:
        return BatchWait(0.0, rows)
    saved_s = coming_rows * (slowness * pace.run_s(rows) - wait_s)
    if saved_s <= rows * wait_s:
        return BatchWait(0.0, rows)
    return BatchWait(wait_s, min(pace.batch_rows, rows + math.floor(coming_rows + _NEARLY_ALL)))
