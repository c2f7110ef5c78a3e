"""How fast a program was measured to be, where its calls run and for whom a run waits. Pure.

The first choice is made from what was measured when the program was loaded. It is looked at again
once a second, from what the runs really took: a machine that is shared, or rows that cost more
than the example's, make a program slow that was quick. Each way has its own bound, so that a
program near a bound stays where it is.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

INLINE_MAX_S = 500e-6
"""The longest run on the event loop: ten times what a thread hop costs here, and short enough for
those who wait for it."""

_LEAVES = 2.0
_RETURNS = 0.7
"""A limit of rows is lowered when its runs take twice what is allowed, and raised when they would
take less than this part of it."""

_PAYS = 1.05
"""Twice the rows in a run are worth it where they raise the rate by this factor."""
_LEAST_SIZES = 4
_FLAT_SIZES = 2
_MOST_BUDGETS = 4.0

_WAITED_SHARE = 0.5
_NEARLY_ALL = 0.8
"""A mean of so much more than a whole number of rows is that of one row more, late now and then."""

_HOT_SHARE = 0.5
_COOL_SHARE = 0.25
_HOT_RUN_S = 100e-6
"""Runs shorter than this are not worth a thread, however many they are: the hop costs as much."""


class Stretch(NamedTuple):
    """From `rows` on, which take `run_s`, each further row adds `row_s`."""

    rows: int
    run_s: float
    row_s: float


_first_rows = attrgetter("rows")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a program was measured to be, here.

    Attributes:
        one_row_s: The time of a run of one row.
        inline_rows: The most rows that run on the event loop; 0 sends every call to the thread.
        batch_rows: The rows per run from which on more do not raise the rate, within the limit.
        row_s: What each further row of a run adds, on average up to where batches end.
        stretches: The same between the sizes that were measured: from so many rows on, which take
            so long, what each further row adds. Empty for a program of one price a row: many are
            not, such as trees, which cost most a row where there are a hundred.
    """

    one_row_s: float
    inline_rows: int
    batch_rows: int
    row_s: float = 0.0
    stretches: tuple[Stretch, ...] = field(default=(), compare=False)

    def run_s(self, rows: float) -> float:
        """How long one run of so many rows should take."""
        if rows <= 1:
            return self.one_row_s
        if not self.stretches:
            return self.one_row_s + (rows - 1) * self.row_s
        place = bisect_right(self.stretches, rows, key=_first_rows) - 1
        stretch = self.stretches[place]
        return stretch.run_s + (rows - stretch.rows) * stretch.row_s

    def rows_within(self, allowed_s: float) -> int:
        """The most rows whose run takes no longer."""
        stretches = self.stretches or (Stretch(1, self.one_row_s, self.row_s),)
        for stretch in reversed(stretches):
            if stretch.run_s <= allowed_s:
                if stretch.row_s <= 0:
                    return 1 << 62
                return stretch.rows + int((allowed_s - stretch.run_s) / stretch.row_s)
        return 0


def goes_on_measuring(run_s: Mapping[int, float], spent_s: float, budget_s: float) -> bool:
    """Whether twice the rows are to be measured as well.

    Args:
        run_s: The time of a run by its rows: 1, 2, 4...
        spent_s: On measuring so far.
        budget_s: To spend. A few sizes are measured beyond it: one alone says nothing of the rest.

    One size at which the rate does not grow may be noise, or a step of the program's own.
    """
    if len(run_s) < _LEAST_SIZES:
        return spent_s < _MOST_BUDGETS * budget_s
    rates = [rows / seconds for rows, seconds in sorted(run_s.items())]
    is_flat = max(rates[-_FLAT_SIZES:]) < _PAYS * max(rates[:-_FLAT_SIZES])
    return spent_s < budget_s and not is_flat


def pace_of(run_s: Mapping[int, float]) -> Pace:
    """The pace of a program from the time of a run by its rows: 1 row, and others or none."""
    stretches = _stretches(run_s)
    one_row_s = stretches[0].run_s
    best_rate = max(rows / seconds for rows, seconds in run_s.items())
    batch_rows = min(rows for rows, seconds in run_s.items() if rows / seconds * _PAYS >= best_rate)
    # The slope up to where batches end, since that is where many wait.
    slope_rows = max(batch_rows, min(2, max(run_s)))
    row_s = max(0.0, run_s[slope_rows] - one_row_s) / max(1, slope_rows - 1)
    inline = [rows for rows, seconds in run_s.items() if seconds <= INLINE_MAX_S]
    inline_rows = max(inline) if one_row_s <= INLINE_MAX_S else 0
    if inline_rows > 1:
        # Measuring may have stopped early; large cheap requests are judged by the rate.
        inline_rows = max(inline_rows, int(INLINE_MAX_S * best_rate))
    return Pace(one_row_s, inline_rows, batch_rows, row_s, stretches)


def _stretches(run_s: Mapping[int, float]) -> tuple[Stretch, ...]:
    """The curve through what was measured; beyond the last size it goes on as before it."""
    sizes = sorted(run_s)
    times = [run_s[rows] for rows in sizes]
    # A run of more rows takes no less: where it seems to, the one of fewer was held up.
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
        is_hot: The model takes so much of the loop that others would wait: all its calls go to
            its thread.
    """

    inline_rows: int
    is_hot: bool = False


class Seen(NamedTuple):
    """What became of the runs of the last second.

    Attributes:
        slowness: What inline runs took, as a multiple of what they should have; None for too few.
        mean_inline_s: What an inline run took.
        inline_share: The part of the time that the model held the loop.
        busy_share: The part of the time that it ran, there or on its thread.
        others_called: Whether other models were asked as well.
    """

    slowness: float | None
    mean_inline_s: float = 0.0
    inline_share: float = 0.0
    busy_share: float = 0.0
    others_called: bool = False


def revisited(pace: Pace, now: Placement, seen: Seen) -> Placement:
    """Where calls run from now on.

    A program that was not put on the loop when it was measured never is: it may wait for others.
    """
    if now.is_hot:
        return now._replace(is_hot=seen.busy_share >= _COOL_SHARE)
    rows = now.inline_rows
    if seen.slowness is not None:
        allowed_s = INLINE_MAX_S / seen.slowness
        if rows > pace.rows_within(_LEAVES * allowed_s):
            rows = pace.rows_within(allowed_s)
        else:
            rows = max(rows, pace.rows_within(_RETURNS * allowed_s))
    is_hot = (
        seen.others_called and seen.inline_share > _HOT_SHARE and seen.mean_inline_s >= _HOT_RUN_S
    )
    return Placement(min(rows, pace.inline_rows), is_hot)


def expected_wait_s(
    pace: Pace, slowness: float, *, rows: int, calls: int, running_s: float
) -> float:
    """How long until all that waits has run.

    Args:
        pace: As it was measured.
        slowness: What runs take of late, as a multiple of that.
        rows: How many wait.
        calls: In how many runs at most.
        running_s: How much longer the run under way should take.
    """
    runs = min(calls, math.ceil(rows / pace.batch_rows))
    return running_s + slowness * runs * pace.run_s(rows / max(1, runs))


class Company(NamedTuple):
    """For whom a run waits before it begins.

    Attributes:
        wait_s: For so long at most; 0 where it does not wait.
        rows: It begins as soon as so many are there.
    """

    wait_s: float
    rows: int


def longest_wait_s(pace: Pace, slowness: float) -> float:
    """How long a run may wait for more rows: a part of what it costs to run them by themselves."""
    return _WAITED_SHARE * slowness * max(0.0, pace.one_row_s - pace.row_s)


def worth_waiting_for(pace: Pace, slowness: float, *, rows: int, coming_rows: float) -> Company:
    """Whether a run of `rows` is to wait for those who are about to come.

    Args:
        pace: As it was measured.
        slowness: What runs take of late, as a multiple of that.
        rows: How many are there.
        coming_rows: How many came of late within `longest_wait_s` after such a moment.

    It waits where those who come are spared more than those who wait are made to lose: whoever
    comes just after a run has begun waits for all of it. A few clients that ask again as soon as
    they are answered come so, and one alone never does; and where arrivals are independent, they
    are that many only when the thread is busy all the time.
    """
    wait_s = longest_wait_s(pace, slowness)
    if rows >= pace.batch_rows or not wait_s:
        return Company(0.0, rows)
    saved_s = coming_rows * (slowness * pace.run_s(rows) - wait_s)
    if saved_s <= rows * wait_s:
        return Company(0.0, rows)
    return Company(wait_s, min(pace.batch_rows, rows + math.floor(coming_rows + _NEARLY_ALL)))
