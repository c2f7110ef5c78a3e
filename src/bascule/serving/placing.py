"""How fast a program was measured to be, and where its calls run: on the loop, or on its thread. Pure.

The first choice is made from what was measured when the program was loaded. It is looked at again
once a second, from what the runs really took: a machine that is shared, or rows that cost more than
the example's, make a program slow that was quick. Each way has its own bound, so that a program near
a bound stays where it is.
"""  # noqa: E501 -- the first sentence is one

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

INLINE_MAX_S = 500e-6
"""The longest run on the event loop: ten times what a thread hop costs here, and short enough for
those who wait for it."""

_LEAVES = 2.0
_RETURNS = 0.7
"""A limit of rows is lowered when its runs take twice what is allowed, and raised when they would
take less than this part of it."""

_HOT_SHARE = 0.5
_COOL_SHARE = 0.25
_HOT_RUN_S = 100e-6
"""Runs shorter than this are not worth a thread, however many they are: the hop costs as much."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a program was measured to be, here.

    Attributes:
        one_row_s: The median time of a run of one row.
        inline_rows: The most rows that run on the event loop; 0 sends every call to the thread.
        batch_rows: The number of rows per run with the highest rate, within the limit.
        row_s: What each further row of a run adds.
    """

    one_row_s: float
    inline_rows: int
    batch_rows: int
    row_s: float = 0.0

    def run_s(self, rows: int) -> float:
        """How long one run of so many rows should take."""
        return self.one_row_s + (rows - 1) * self.row_s

    def rows_within(self, allowed_s: float) -> int:
        """The most rows whose run takes no longer."""
        if self.one_row_s > allowed_s:
            return 0
        if self.row_s <= 0:
            return 1 << 62
        return 1 + int((allowed_s - self.one_row_s) / self.row_s)


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
    return running_s + slowness * (runs * pace.one_row_s + (rows - runs) * pace.row_s)
