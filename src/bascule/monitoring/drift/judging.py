"""All columns of a model over its windows. Pure: profiles in, tests and sentences out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from statistics import median

import numpy as np

from bascule.core import Invalid
from bascule.monitoring.drift.budgets import Budget, Effect
from bascule.monitoring.drift.deciding import (
    DAY_DEVIATION,
    ENOUGH_ROWS,
    MIN_ROWS,
    SAME,
    ColumnWatch,
)
from bascule.monitoring.drift.results import QUANTILES, ColumnDrift, WindowDrift
from bascule.monitoring.drift.sentences import with_sentence
from bascule.stats import ColumnProfile, Profile, Value

_FREQUENT = 5
_OVERDISPERSED = 1.5
_STANDARD_ERRORS = 4.5
"""That a shift has to be, about, at the level of one of some ten to hundred columns."""
_FAR = 0.5
"""An extreme is reported when it is out of the baseline's range by half its width."""


@dataclass(slots=True)
class _Watched:
    """A column of the baseline, and its watch."""

    where: str
    name: str
    then: ColumnProfile
    watch: ColumnWatch
    effect: Effect


class ModelWatch:
    """The watches of all columns that are tested, which share one budget.

    Attributes:
        level: Of one column in one window.
        day: That of the last window with a date.
    """

    def __init__(
        self,
        baseline: Mapping[str, Profile | None],
        budget: float = 4.0,
        *,
        windows_a_year: int = 365,
        kinds: int = 2,
        effects: Mapping[str, Effect] | None = None,
        others: int = 0,
        tolerance: float = SAME,
    ) -> None:
        """Watch from the first window on.

        Args:
            baseline: Profiles by what they are of: `input`, `answer`, `truth`.
            budget: False alarms a year that are acceptable, over all columns.
            windows_a_year: How many windows a year are tested.
            kinds: 1 for tests of single windows, 2 with detectors of slow changes.
            effects: The least change that matters, by column; `Effect()` for others.
            others: Columns that share the budget and are judged elsewhere.
            tolerance: By how much two programs of the model may differ in a number.

        Raises:
            Invalid: An option is out of range, or an effect is of a column that is not there.
        """
        columns = {
            (where, name): column
            for where, profile in baseline.items()
            for name, column in tested(profile).items()
        }
        split = Budget(budget, windows_a_year, max(1, len(columns) + others), kinds)
        effects = effects or {}
        _check_names(
            effects, {name for one in baseline.values() if one for name in one.columns} | {"loss"}
        )
        self.level = split.level
        self._watched = [
            _Watched(
                where,
                name,
                column,
                ColumnWatch(column, split, effect, tolerance=max(SAME, tolerance)),
                effect,
            )
            for (where, name), column in columns.items()
            for effect in [effects.get(name, Effect())]
        ]

    def judge(
        self,
        profiles: Mapping[str, Profile],
        day: date | None = None,
        type_errors: Mapping[str, float] | None = None,
    ) -> WindowDrift:
        """One window; they come in order.

        Args:
            profiles: As the baseline: `input`, `answer`, `truth`. What is absent is not tested.
            day: Of a dated window.
            type_errors: The share of an input's values that are of a wrong type, by column.
        """
        wrong = type_errors or {}
        found = []
        for one in self._watched:
            now = _of_kind(profiles.get(one.where, Profile()).columns.get(one.name), one.then.kind)
            if now is not None:
                share = wrong.get(one.name, 0.0) if one.where == "input" else 0.0
                found.append(_column(one, now, day, share))
        return WindowDrift(
            day, max((one.rows for one in profiles.values()), default=0), tuple(found)
        )

    def notes(self) -> Iterator[str]:
        """Whether the budget can hold."""
        known = [one.watch.overdispersion for one in self._watched if one.where == "input"]
        found = [one for one in known if one is not None]
        if found and median(found) > _OVERDISPERSED:
            yield (
                f"windows vary {median(found):.1f} times as much as independent rows would: only "
                "changes that are larger than that raise an alarm"
            )
        fewest = min((one.then.rows for one in self._watched), default=ENOUGH_ROWS)
        if 0 < fewest < ENOUGH_ROWS:
            least = _STANDARD_ERRORS * math.sqrt(1 / fewest + DAY_DEVIATION**2)
            yield (
                f"the baseline has {fewest} rows: a shift of less than about {least:.1f} "
                f"deviations raises no alarm; {ENOUGH_ROWS} rows are enough"
            )
        stuck = [one.name for one in self._watched if not one.watch.is_alarmable]
        if stuck:
            yield (
                f"not alarmable: {', '.join(stuck[:10])}: the windows depend so much on one "
                "another that no budget can be kept"
            )


def _check_names(effects: Mapping[str, Effect], known: set[str]) -> None:
    for name in effects:
        if name not in known:
            raise Invalid(
                f"effect: the baseline has no column {name!r}",
                hint=f"its columns are {', '.join(sorted(known)[:20])}",
                field=name,
            )


def _of_kind(now: ColumnProfile | None, kind: str) -> ColumnProfile | None:
    """None for a column of another kind, unless all of it is missing."""
    if now is None or now.kind == kind:
        return now
    return _all_missing(kind, now.rows) if now.missing == now.rows else None


def tested(profile: Profile | None) -> Mapping[str, ColumnProfile]:
    """The columns whose rows have one value each, without the first of two probabilities.

    The second probability is 1 less the first. The values of one image are not independent, and no
    test here holds for them.
    """
    known = {} if profile is None else profile.columns
    columns = {name: one for name, one in known.items() if profile and one.rows == profile.rows}
    probabilities = [name for name in columns if name.startswith("probabilities.")]
    if len(probabilities) == 2:
        del columns[probabilities[0]]
    return columns


def _all_missing(kind: str, rows: int) -> ColumnProfile:
    made = ColumnProfile(kind)
    made.add(np.full(rows, None, object) if kind == "text" else np.full(rows, np.nan))
    return made


def _column(one: _Watched, now: ColumnProfile, day: date | None, type_errors: float) -> ColumnDrift:
    findings = tuple(_findings(one.then, now, type_errors))
    missing = (one.then.missing / max(1, one.then.rows), now.missing / max(1, now.rows))
    is_broken = 0 < type_errors >= one.effect.share
    tests = one.watch.judge(now, day)
    names: dict[Value, None] = {value: None for value, _ in [*_top(one.then), *_top(now)]}
    known = {str(value): value for value in [*one.then.frequent.counts, *now.frequent.counts]}
    names |= {known[test.what]: None for test in tests if test.what in known}
    then_shown, now_shown = (_shown(side, one.then, list(names)) for side in (one.then, now))
    found = ColumnDrift(
        one.name, one.where, tests, then_shown, now_shown, missing, findings, is_broken
    )
    return with_sentence(found)


def _top(column: ColumnProfile) -> list[tuple[Value, int]]:
    return column.frequent.top()[:_FREQUENT]


def _findings(then: ColumnProfile, now: ColumnProfile, type_errors: float) -> Iterator[str]:
    """Faults of the data itself: types, infinite values, far extremes, a constant."""
    if type_errors:
        yield f"{type_errors:.1%} of the values are of another type than the model takes"
    if now.infinite and not then.infinite:
        yield f"{now.infinite:,} values are infinite, none in the baseline"
    ends = (now.moments.least, now.moments.most, then.moments.least, then.moments.most)
    least, most, low, high = (math.nan if end is None else end for end in ends)
    far = (high - low) * _FAR
    if least < low - far:
        yield f"the least value is {least:.6g}, {low:.6g} in the baseline"
    if most > high + far:
        yield f"the largest value is {most:.6g}, {high:.6g} in the baseline"
    present = now.rows - now.missing - now.infinite
    if present >= MIN_ROWS and now.distinct == 1 < then.distinct:
        yield f"all {present:,} values are the same"


def _shown(column: ColumnProfile, then: ColumnProfile, names: list[Value]) -> dict[str, float]:
    """The quantiles of numbers; of other columns the shares of the named values."""
    if column.kind == "number" and then.distinct > 2:
        if not column.quantiles.rows:
            return {}
        values = column.quantiles.quantiles(list(QUANTILES.values()))
        return dict(zip(QUANTILES, values.tolist(), strict=True))
    rows = max(1, column.rows - column.missing - column.infinite)
    return {str(name): column.frequent.counts.get(name, 0) / rows for name in names}
