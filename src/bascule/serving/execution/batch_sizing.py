"""How many rows run together, learnt from what runs take. Pure.

What was measured when the program was loaded is noise where the machine was busy then. So now and
then, where enough rows wait, a run is given twice the rows or half of them, and the size becomes
the better one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_TRIED_EVERY = 6
_TRIED_AT_LEAST_EVERY = 96
_TRIALS = 6
"""Three of either neighbour."""
_GROWS = 1.08
_SHRINKS = 1.02
"""Twice the rows must raise the rate by the one; half of them may lower it by the other."""
_FULL_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many rows run together now, and what was seen of that size and its neighbours.

    Attributes:
        rows: The most rows of a run.
        most: What they may never be more than.
        every: In how many runs another size is tried: a trial costs something, and is made less
            often where those before it changed nothing.
        full_runs: How many runs there were for which more rows waited than they took.
        best_hz: The highest rate of rows by the size of the run. Not the mean: what else goes on
            here makes runs longer, never shorter.
    """

    rows: int
    most: int
    every: int = _TRIED_EVERY
    full_runs: int = 0
    best_hz: Mapping[int, float] = field(default_factory=dict)

    def next_rows(self, waiting_rows: int) -> int:
        """The most rows of the next run, where so many wait."""
        trial, rest = divmod(self.full_runs, self.every)
        if waiting_rows < self.rows or rest or not trial:
            return self.rows
        if trial % 2:
            return max(1, self.rows // 2)
        twice = 2 * self.rows
        return twice if twice <= self.most else self.rows

    def noted(self, limit: int, rows: int, took_s: float) -> Sizing:
        """After a run that might have had `limit` rows, and had `rows`."""
        if rows < _FULL_SHARE * limit or took_s <= 0:
            # A trial for which too few came is over as well.
            return replace(self, full_runs=self.full_runs + 1) if limit > self.rows else self
        best_hz = {**self.best_hz, limit: max(self.best_hz.get(limit, 0.0), rows / took_s)}
        if self.full_runs < _TRIALS * self.every:
            return replace(self, full_runs=self.full_runs + 1, best_hz=best_hz)
        half, twice = self.rows // 2, 2 * self.rows
        here_hz = best_hz.get(self.rows, 0.0)
        if best_hz.get(twice, 0.0) > _GROWS * here_hz:
            return Sizing(twice, self.most)
        if best_hz.get(half, 0.0) * _SHRINKS > here_hz:
            return Sizing(half, self.most)
        return Sizing(self.rows, self.most, min(2 * self.every, _TRIED_AT_LEAST_EVERY))
