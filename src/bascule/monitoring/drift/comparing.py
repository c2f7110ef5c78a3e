"""The story: a bundle and a table in, a report of drift out. No server is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, is_missing, take
from bascule.bundle.statements import answer_columns, profile_of
from bascule.core import BasculeError, Columns, Invalid, Signature
from bascule.monitoring.drift.budgets import Budget, Effect
from bascule.monitoring.drift.columns import CurrentTable, read_current
from bascule.monitoring.drift.influence import influences
from bascule.monitoring.drift.report import DriftReport
from bascule.monitoring.drift.results import ColumnDrift, WindowDrift
from bascule.monitoring.drift.sentences import sentence
from bascule.monitoring.drift.watching import MIN_ROWS, ColumnWatch
from bascule.stats import ColumnProfile, Profile

_SHARES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
_FREQUENT = 5
_OVERDISPERSED = 1.5
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


def measure_drift(
    bundle: Bundle,
    current: Any,
    *,
    budget: float = 4.0,
    windows_a_year: int = 365,
    time_column: str | None = None,
    effects: Mapping[str, Effect] | None = None,
    score: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> DriftReport:
    """Compare a table with the baseline of a bundle.

    Args:
        bundle: With a baseline.
        current: Any table or matrix with the columns of the model; further columns are ignored.
        budget: False alarms a year that are acceptable, over all columns.
        windows_a_year: How many such tables a year are compared.
        time_column: Its column of times: each UTC day is a window, in order.
        effects: The least change that matters, by column; `Effect()` for others.
        score: Whether the model answers the rows, and the answers are compared too.
        progress: Called with the windows that are done, and all of them.

    Raises:
        Invalid: The bundle has no baseline, the table does not fit, or an option is out of range.
    """
    baseline = bundle.baseline
    if baseline is None:
        raise Invalid(
            f"{bundle.name} has no baseline to compare with",
            hint="pack the model again with train=, or test= for its answers",
        )
    table = read_current(current, bundle.signature, time_column)
    answers = baseline.answers if score else None
    inputs = baseline.inputs or Profile()
    columns = len(_tested(inputs)) + len(_tested(answers))
    kinds = 1 if table.days is None else 2
    limits = Budget(budget, windows_a_year, max(1, columns), kinds)
    watched = list(_watched(inputs, answers, limits, effects or {}))
    notes: list[str] = []
    windows = []
    split = list(_split(table))
    for done, (day, rows) in enumerate(split):
        windows.append(_window(bundle, table, watched, day, rows, notes, score=answers is not None))
        progress(done + 1, len(split))
    weighed = _with_influence(bundle, windows)
    return DriftReport(
        bundle.name, bundle.digest, budget, windows_a_year, limits.level, weighed,
        tuple(dict.fromkeys([*_notes(baseline.inputs, watched, table), *notes])),
    )  # fmt: skip


def _watched(
    inputs: Profile, answers: Profile | None, budget: Budget, effects: Mapping[str, Effect]
) -> Iterator[_Watched]:
    known = {*inputs.columns, *(answers.columns if answers else ())}
    for name in effects:
        if name not in known:
            raise Invalid(
                f"effect: the baseline has no column {name!r}",
                hint=f"its columns are {', '.join(sorted(known)[:20])}",
                field=name,
            )
    for where, profile in (("input", inputs), ("answer", answers)):
        for name, column in _tested(profile).items():
            effect = effects.get(name, Effect())
            yield _Watched(where, name, column, ColumnWatch(column, budget, effect), effect)


def _tested(profile: Profile | None) -> Mapping[str, ColumnProfile]:
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


def _split(table: CurrentTable) -> Iterator[tuple[date | None, NDArray[np.int64] | slice]]:
    if table.days is None:
        yield None, slice(None)
        return
    order = np.argsort(table.days, kind="stable")
    days, starts = np.unique(table.days[order], return_index=True)
    yield from zip(days.tolist(), np.split(order, starts[1:]), strict=True)


def _window(
    bundle: Bundle,
    table: CurrentTable,
    watched: list[_Watched],
    day: date | None,
    rows: NDArray[np.int64] | slice,
    notes: list[str],
    *,
    score: bool,
) -> WindowDrift:
    profiles = {"input": profile_of(take(table.flat, rows)), "answer": Profile()}
    if score:
        answered = _answers(bundle, take(table.inputs, rows), notes)
        if answered:
            profiles["answer"] = profile_of(answered)
    found = []
    for one in watched:
        now = profiles[one.where].columns.get(one.name)
        if now is None:
            continue
        if now.kind != one.then.kind and now.missing == now.rows:
            now = _all_missing(one.then.kind, now.rows)
        if now.kind == one.then.kind:
            wrong = table.type_errors.get(one.name) if one.where == "input" else None
            share = 0.0 if wrong is None else float(wrong[rows].mean())
            found.append(_column(one, now, day, share))
    return WindowDrift(day, profiles["input"].rows, tuple(found))


def _all_missing(kind: str, rows: int) -> ColumnProfile:
    made = ColumnProfile(kind)
    made.add(np.full(rows, None, object) if kind == "text" else np.full(rows, np.nan))
    return made


def _column(one: _Watched, now: ColumnProfile, day: date | None, type_errors: float) -> ColumnDrift:
    findings = tuple(_findings(one.then, now, type_errors))
    then_shown, now_shown = _shown(one.then, one.then), _shown(now, one.then)
    missing = (one.then.missing / max(1, one.then.rows), now.missing / max(1, now.rows))
    is_broken = 0 < type_errors >= one.effect.share
    tests = one.watch.judge(now, day)
    found = ColumnDrift(
        one.name, one.where, tests, then_shown, now_shown, missing, findings, is_broken
    )
    return replace(found, sentence=sentence(found))


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


def _shown(column: ColumnProfile, then: ColumnProfile) -> dict[str, float]:
    if column.kind == "number" and then.distinct > 2:
        if not column.quantiles.rows:
            return {}
        values = column.quantiles.quantiles(list(_SHARES.values()))
        return dict(zip(_SHARES, values.tolist(), strict=True))
    names = [*dict(then.frequent.top()[:_FREQUENT]), *dict(column.frequent.top()[:_FREQUENT])]
    rows = max(1, column.rows - column.missing - column.infinite)
    return {str(name): column.frequent.counts.get(name, 0) / rows for name in names}


def _answers(bundle: Bundle, inputs: Columns, notes: list[str]) -> Columns:
    """The answers to the rows that the model takes; empty where it takes none."""
    accepted = np.flatnonzero(_acceptable(inputs, bundle.signature))
    rows = len(next(iter(inputs.values())))
    if len(accepted) < rows:
        notes.append("rows that the model refuses (missing, unknown, out of bounds) are not scored")
    if not len(accepted):
        return {}
    try:
        answered = dict(bundle.predict(take(inputs, accepted)))
    except BasculeError as problem:
        notes.append(f"the answers are not compared: {problem.message}")
        return {}
    manifest = bundle.manifest
    return answer_columns(answered, bundle.signature.outputs, manifest.classes, manifest.targets)


def _acceptable(inputs: Columns, signature: Signature) -> NDArray[np.bool_]:
    rows = len(next(iter(inputs.values())))
    fine = np.ones(rows, bool)
    for one in signature.inputs:
        values = inputs[one.name]
        gone = is_missing(values)
        bad = gone & (not one.nullable)
        if one.categories is not None:
            bad |= ~gone & ~np.isin(values, np.array(one.categories, values.dtype))
        if one.bounds is not None:
            low, high = one.bounds
            bad |= ~gone & ~((values >= low) & (values <= high))
        fine &= ~bad.reshape(rows, -1).any(axis=1)
    return fine


def _with_influence(bundle: Bundle, windows: list[WindowDrift]) -> tuple[WindowDrift, ...]:
    """The alarms of inputs, each with its share: effect in limits, times influence."""
    names = {one.name for window in windows for one in window.alarms if one.where == "input"}
    if not names:
        return tuple(windows)
    try:
        known = influences(bundle, sorted(names))
    except BasculeError:
        known = {}
    return tuple(_weighed(window, known) for window in windows)


def _weighed(window: WindowDrift, known: Mapping[str, float]) -> WindowDrift:
    weights = {
        one.name: known[one.name] * _size(one)
        for one in window.alarms
        if one.where == "input" and one.name in known
    }
    total = sum(weights.values())
    columns = tuple(
        replace(
            one,
            influence=known[one.name],
            share=weights[one.name] / total if total else 0.0,
        )
        if one.where == "input" and one.name in weights
        else one
        for one in window.columns
    )
    return replace(window, columns=columns)


def _size(column: ColumnDrift) -> float:
    """The effect in units of its limit."""
    test = column.leading
    return 1.0 if test is None or not test.limit else max(1.0, abs(test.effect) / test.limit)


def _notes(inputs: Profile | None, watched: list[_Watched], table: CurrentTable) -> Iterator[str]:
    if inputs is None:
        yield "the baseline has no training rows: inputs are not compared"
    several = [] if inputs is None else list(inputs.columns.keys() - _tested(inputs).keys())
    if several:
        yield f"not tested, for a row has several values: {', '.join(sorted(several)[:10])}"
    if table.rows < MIN_ROWS:
        yield f"{table.rows} rows are too few to test values; {MIN_ROWS} are needed"
    known = [one.watch.overdispersion for one in watched if one.where == "input"]
    found = [one for one in known if one is not None]
    if found and median(found) > _OVERDISPERSED:
        yield (
            f"windows vary {median(found):.1f} times as much as independent rows would: the "
            "budget does not hold for the first 56 windows"
        )
    stuck = [one.name for one in watched if not one.watch.is_alarmable]
    if stuck:
        yield (
            f"not alarmable: {', '.join(stuck[:10])}: the windows depend so much on one another "
            "that no budget can be kept"
        )
