"""The story: a bundle and a table in, a report of drift out. No server is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, as_dtype, is_missing, take
from bascule.bundle.disk import GENERATION
from bascule.bundle.statements import answer_columns, profile_of
from bascule.core import BasculeError, Columns, Invalid, Signature
from bascule.monitoring.drift.budgets import Effect
from bascule.monitoring.drift.columns import CurrentTable, read_current
from bascule.monitoring.drift.deciding import MIN_ROWS, SAME
from bascule.monitoring.drift.influence import influences
from bascule.monitoring.drift.judging import ModelWatch, tested
from bascule.monitoring.drift.report import DriftReport
from bascule.monitoring.drift.results import ColumnDrift, WindowDrift
from bascule.stats import Profile


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
            hint=lack_of_baseline(bundle),
        )
    table = read_current(current, bundle.signature, time_column, baseline.projected)
    answers = baseline.answers if score else None
    watch = ModelWatch(
        {"input": baseline.inputs, "answer": answers}, budget, windows_a_year=windows_a_year,
        kinds=1 if table.days is None else 2, effects=effects, tolerance=tolerance_of(bundle),
    )  # fmt: skip
    notes: list[str] = []
    windows = []
    split = list(_split(table))
    for done, (day, rows) in enumerate(split):
        profiles = {"input": profile_of(take(table.flat, rows))}
        if answers is not None:
            columns = _answers(bundle, take(table.inputs, rows), baseline.projected, notes)
            if columns:
                profiles["answer"] = profile_of(columns)
        wrong = {name: float(bad[rows].mean()) for name, bad in table.type_errors.items()}
        windows.append(watch.judge(profiles, day, wrong))
        progress(done + 1, len(split))
    return DriftReport(
        bundle.name, bundle.digest, budget, windows_a_year, watch.level,
        with_influence(bundle, windows),
        tuple(dict.fromkeys([*_notes(baseline.inputs, table), *watch.notes(), *notes])),
    )  # fmt: skip


def _split(table: CurrentTable) -> Iterator[tuple[date | None, NDArray[np.int64] | slice]]:
    if table.days is None:
        yield None, slice(None)
        return
    order = np.argsort(table.days, kind="stable")
    days, starts = np.unique(table.days[order], return_index=True)
    yield from zip(days.tolist(), np.split(order, starts[1:]), strict=True)


def _answers(
    bundle: Bundle, inputs: Columns, projected: frozenset[str], notes: list[str]
) -> Columns:
    """The answers to the rows that the model takes; empty where it takes none."""
    accepted = np.flatnonzero(acceptable(inputs, bundle.signature))
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
    manifest, outputs = bundle.manifest, bundle.signature.outputs
    return answer_columns(answered, outputs, manifest.classes, manifest.targets, projected)


def acceptable(inputs: Columns, signature: Signature) -> NDArray[np.bool_]:
    """Which rows the model takes: none with a missing or unknown value, or one out of bounds."""
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
        if values.dtype.kind == "f" and not one.dtype.is_float:
            bad |= ~gone & (as_dtype(values, one.dtype) != values)
        fine &= ~bad.reshape(rows, -1).any(axis=1)
    return fine


def lack_of_baseline(bundle: Bundle) -> str:
    """What there is to do about a bundle without a baseline."""
    if bundle.manifest.task == GENERATION:
        return "weights that write texts have none: thumbs, judges and gates tell how good they are"
    return "pack the model again with train=, or test= for its answers"


def tolerance_of(bundle: Bundle) -> float:
    """By how much the answers of two programs of a bundle may differ, as its parity claims."""
    claims = (one.tolerance for one in bundle.parities.values() if one.passed)
    return max(claims, default=SAME)


def with_influence(bundle: Bundle, windows: list[WindowDrift]) -> tuple[WindowDrift, ...]:
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


def _notes(inputs: Profile | None, table: CurrentTable) -> Iterator[str]:
    if inputs is None:
        yield "the baseline has no training rows: inputs are not compared"
    several = [] if inputs is None else list(inputs.columns.keys() - tested(inputs).keys())
    if several:
        yield f"not tested, for a row has several values: {', '.join(sorted(several)[:10])}"
    if table.rows < MIN_ROWS:
        yield f"{table.rows} rows are too few to test values; {MIN_ROWS} are needed"
