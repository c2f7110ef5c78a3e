"""The story: predictions and truths in, a report of performance out. A server need not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, take
from bascule.core import BasculeError, Invalid, NotFound
from bascule.metrics import Estimate, estimate, metric_of
from bascule.monitoring.drift import Budget
from bascule.monitoring.performance.delays import (
    DelayCurve,
    LateTruths,
    compare_late,
    delay_curve,
)
from bascule.monitoring.performance.judging import (
    bounds_of,
    check_effects,
    estimate_interval,
    judge,
    limit_of,
    score_of_rows,
)
from bascule.monitoring.performance.ledger_rows import read_ledger
from bascule.monitoring.performance.reference import Part, Reference
from bascule.monitoring.performance.report import PerformanceReport
from bascule.monitoring.performance.results import MetricPerformance, WindowPerformance
from bascule.monitoring.performance.rows import PredictionRows, slicing, window_seconds, windows
from bascule.monitoring.performance.table_rows import TableColumns, read_performance_table
from bascule.monitoring.performance.tracking import track_records

_YEAR_S = 365 * 86_400
_ONE_A_DAY = 365
_ENOUGH = 0.8
_SHOWN_NOTES = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked of every version.

    Attributes:
        metrics: Empty for the usual ones of the task of a version.
        seconds: The length of a window; None for all rows as one.
    """

    metrics: Sequence[str]
    seconds: int | None
    slices: Sequence[str]
    budget: float
    effects: Mapping[str, float]
    now: datetime | None
    min_completeness: float


@dataclass(slots=True)
class _Version:
    """One version under measurement."""

    reference: Reference
    rows: PredictionRows
    metrics: Sequence[str]
    curve: DelayCurve | None = None
    late: LateTruths | None = None
    parts: list[tuple[Part | None, NDArray[np.bool_] | None]] = field(default_factory=list)
    """The slices and their rows, all rows first."""


def measure_performance(
    source: Path | Any,
    model: Bundle | str,
    *,
    bundle_of: Callable[[str], Bundle | None] | None = None,
    truth_column: str = "",
    prediction_column: str = "",
    probability_column: str = "",
    time_column: str = "",
    since: datetime | None = None,
    by: str = "day",
    metrics: Sequence[str] = (),
    slice_by: Sequence[str] = (),
    budget: float = 4.0,
    effects: Mapping[str, float] | None = None,
    min_completeness: float = _ENOUGH,
    now: datetime | None = None,
) -> PerformanceReport:
    """Measure predictions against their truths, by version, window and slice.

    Args:
        source: The home of a ledger; or a table, with `truth_column`.
        model: The bundle; or for a ledger the name of the model, with `bundle_of`.
        bundle_of: The bundle of a version of the ledger; None, or a `BasculeError`, where it is
            gone or broken.
        truth_column: Of a table. A missing value is a truth that is not known.
        prediction_column: Of a table; without it the bundle answers the rows.
        probability_column: Of a table: of the second of two classes.
        time_column: Of a table: when each row was predicted.
        since: Predictions of the ledger before it are left out.
        by: The windows: `hour`, `day`, `week`, `6h`, `7d`, or `all` rows as one. In UTC.
        metrics: Names of `bascule.metrics.METRICS`; the usual ones of the task if empty.
        slice_by: Columns: each category, or each fifth of a number, is measured by itself.
        budget: False alarms a year that are acceptable, over all metrics and slices.
        effects: The least worsening that matters, by metric: relative for errors.
        min_completeness: Where late truths differ from early ones, a window is judged when this
            share of its truths is expected to be in.
        now: In UTC. Windows that end later are not judged.

    Raises:
        NotFound: The ledger has no answers of the model.
        Invalid: A column, a metric or an option is wrong; the message names it.
    """
    asked = tuple(metric_of(name).name for name in metrics)
    check_effects(effects or {})
    plan = _Plan(
        asked, window_seconds(by), tuple(slice_by), budget, effects or {}, now, min_completeness
    )
    unmeasured: list[str] = []
    if isinstance(source, Path):
        plan = replace(plan, now=now or datetime.now(UTC))
        found = _from_ledger(source, model, bundle_of, since, plan, unmeasured)
    else:
        names = TableColumns(truth_column, prediction_column, probability_column, time_column)
        found = [_from_table(source, model, names, plan)]
        if not time_column:
            plan = replace(plan, seconds=None)
    versions = [_prepared(reference, rows, plan) for reference, rows in found]
    at_once = _most_at_once(versions, plan)
    measured = [window for one in versions for window in _windows(one, plan, at_once)]
    return PerformanceReport(
        model if isinstance(model, str) else model.name,
        by if plan.seconds else "all",
        budget,
        tuple(measured),
        _curve(versions, plan),
        tuple(track_records(measured)),
        tuple(dict.fromkeys([*unmeasured, *_notes(versions, plan)])),
    )


def _from_table(
    source: Any, model: Bundle | str, names: TableColumns, plan: _Plan
) -> tuple[Reference, PredictionRows]:
    if isinstance(model, str):
        raise Invalid("a table needs the bundle that it is about", hint="load it with bascule.load")
    if not names.truth:
        raise Invalid(
            "truth_column: which column of the table holds the truth?", hint="truth_column='y'"
        )
    reference = Reference(model)
    return reference, read_performance_table(source, reference, names, plan.slices)


def _from_ledger(
    home: Path,
    model: Bundle | str,
    bundle_of: Callable[[str], Bundle | None] | None,
    since: datetime | None,
    plan: _Plan,
    notes: list[str],
) -> list[tuple[Reference, PredictionRows]]:
    """The versions; `notes` takes those that cannot be measured, with the reason."""
    known: dict[str, Reference | None] = {}

    def reference_of(version: str) -> Reference | None:
        if version not in known:
            try:
                bundle = model if isinstance(model, Bundle) else None
                if bundle_of is not None:
                    bundle = bundle_of(version)
                if bundle is None:
                    raise NotFound("its bundle is not at hand")
                known[version] = Reference(bundle)
            except BasculeError as problem:
                known[version] = None
                notes.append(f"version {version} is not measured: {problem.message}")
        return known[version]

    name = model if isinstance(model, str) else model.name
    found = read_ledger(home, name, reference_of, since=since, columns=plan.slices)
    if not found:
        raise Invalid(
            f"no version of {name} in the ledger can be measured: {', '.join(known)}; "
            f"{'; '.join(notes[:_SHOWN_NOTES])}",
            hint="bascule performance reads the classes and the record of a version from it",
        )
    return found


def _prepared(reference: Reference, rows: PredictionRows, plan: _Plan) -> _Version:
    made = _Version(reference, rows, plan.metrics or reference.metrics)
    made.parts = [(None, None), *_parts(made, plan.slices)]
    if rows.delays_s is None or rows.times_us is None or plan.now is None:
        return made
    ages = _ages(rows.times_us, plan.now)
    made.curve = delay_curve(rows.delays_s, ages)
    known = np.flatnonzero(rows.is_known)
    scores = np.full(len(rows), np.nan)
    scores[known] = score_of_rows(rows.labelled.take(known))
    of_rows = "accuracy" if rows.labelled.task == "classification" else "mae"
    record = reference.recorded(of_rows).value
    least = limit_of(metric_of(of_rows), np.nanmean(scores) if record is None else record, {})
    made.late = compare_late(scores, rows.delays_s, ages, made.curve, least)
    return made


def _ages(times_us: NDArray[np.int64], now: datetime) -> NDArray[np.float64]:
    made: NDArray[np.float64] = now.timestamp() - times_us / 1e6
    return made


def _most_at_once(versions: list[_Version], plan: _Plan) -> int:
    """The most versions that have rows in one window: these share its part of the budget."""
    if plan.seconds is None:
        return len(versions)
    times = [one.rows.times_us for one in versions if one.rows.times_us is not None]
    found = Counter(start for each in times for start, _ in windows(each, plan.seconds))
    return max(found.values(), default=1)


def _windows(version: _Version, plan: _Plan, at_once: int) -> Iterator[WindowPerformance]:
    rows = version.rows
    tests = len(version.metrics) * len(version.parts) * at_once
    yearly = _ONE_A_DAY if plan.seconds is None else max(1, _YEAR_S // plan.seconds)
    level = Budget(plan.budget, yearly, tests).level
    split: list[tuple[int | None, NDArray[np.int64]]] = [(None, np.arange(len(rows)))]
    if plan.seconds is not None and rows.times_us is not None:
        split += windows(rows.times_us, plan.seconds)
    if rows.sampling is not None:
        split = [(start, rows.sampling.uniform(places)) for start, places in split]
    for part, mask in version.parts:
        recorded = {name: version.reference.recorded(name, part) for name in version.metrics}
        for start, places in split:
            chosen = places if mask is None else places[mask[places]]
            if len(chosen):
                judged_at = level if start is not None or len(split) == 1 else None
                yield _window(version, plan, start, part, chosen, recorded, judged_at)


def _parts(version: _Version, columns: Sequence[str]) -> Iterator[tuple[Part, NDArray[np.bool_]]]:
    baseline = version.reference.bundle.baseline if columns else None
    profiles = {} if baseline is None or baseline.inputs is None else baseline.inputs.columns
    for column in columns:
        if column not in version.rows.columns:
            raise Invalid(
                f"slice: the rows have no column {column!r}",
                hint=f"the model has {', '.join(list(profiles)[:20]) or 'others'}",
                field=column,
            )
        values = version.rows.columns[column]
        masks = slicing(values, column, profiles.get(column))
        for value, mask in masks(values).items():
            yield Part(column, value, masks), mask


def _window(
    version: _Version,
    plan: _Plan,
    start: int | None,
    part: Part | None,
    places: NDArray[np.int64],
    recorded: Mapping[str, Estimate],
    level: float | None,
) -> WindowPerformance:
    """One window; it is judged at `level`, or not at all if that is None."""
    rows = version.rows
    end = None if start is None or plan.seconds is None else start + plan.seconds
    completeness = None
    if version.curve is not None and rows.times_us is not None and plan.now is not None:
        completeness = version.curve.completeness(_ages(rows.times_us[places], plan.now))
    waits = "" if level is None else _waits(version, plan, end, completeness)
    known = rows.is_known[places]
    waits = waits or _waits_for_reviews(rows, places[known], len(places), plan.min_completeness)
    labelled, missing = rows.labelled.take(places[known]), rows.labelled.take(places[~known])
    estimated, errors = _estimated(version, places)
    metrics = []
    for metric, record in recorded.items():
        found = estimate(metric, labelled)
        bounds = bounds_of(metric, labelled, missing) if len(missing) else None
        guess, between = estimated.get(metric), None
        if guess is not None:
            error = errors.get(metric, 0.0)
            between = estimate_interval(metric_of(metric), guess, error, record, len(places))
        made = MetricPerformance(
            metric, found, record.value, bounds=bounds, estimated=guess, estimated_between=between
        )
        if level is not None and not waits:
            said = judge(metric_of(metric), found, record, level, plan.effects)
            made = replace(
                made, level=level, p_value=said.p_value, worse_by=said.worse_by,
                limit=said.limit, is_alarm=said.is_alarm,
            )  # fmt: skip
        metrics.append(made)
    return WindowPerformance(
        rows.version, _time(start), _time(end),
        None if part is None else (part.column, part.value),
        len(places), int(known.sum()), completeness, tuple(metrics), waits,
    )  # fmt: skip


def _time(seconds: int | None) -> datetime | None:
    return None if seconds is None else _EPOCH + timedelta(seconds=seconds)


def _waits(version: _Version, plan: _Plan, end: int | None, completeness: float | None) -> str:
    """Why a window is not judged yet; empty if it is."""
    if plan.now is not None and end is not None and end > plan.now.timestamp():
        return "it is not over"
    is_biased = version.late is not None and version.late.differ
    if is_biased and completeness is not None and completeness < plan.min_completeness:
        return f"{completeness:.0%} of its truths are in, and late ones differ"
    return ""


def _waits_for_reviews(
    rows: PredictionRows, known: NDArray[np.int64], count: int, least: float
) -> str:
    """Why a window is not judged by its reviews yet: those of unusual rows may be answered first.

    Weights of rows that were chosen, all answered, add up to the number of rows on average.
    """
    weights = rows.labelled.weights
    if weights is None or not len(known) or weights[known].sum() >= least * count:
        return ""
    return f"its reviews stand for {weights[known].sum() / count:.0%} of its rows"


def _estimated(
    version: _Version, places: NDArray[np.int64]
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Estimates without truth by metric, and their errors by what was learned."""
    estimator = version.reference.estimator
    if estimator is None:
        return {}, {}
    rows, inputs = version.rows.labelled.take(places), version.rows.inputs
    try:
        made = estimator.estimate(rows, None if inputs is None else take(inputs, places))
    except BasculeError as problem:
        version.reference.notes.append(f"not estimated without truth: {problem.message}")
        return {}, {}
    return made, estimator.errors(rows) if made else {}


def _curve(versions: list[_Version], plan: _Plan) -> DelayCurve | None:
    """Of all versions together."""
    parts = [one.rows for one in versions if one.rows.delays_s is not None]
    if not parts or plan.now is None:
        return None
    delays = np.concatenate([one.delays_s for one in parts if one.delays_s is not None])
    times = np.concatenate([one.times_us for one in parts if one.times_us is not None])
    return delay_curve(delays, _ages(times, plan.now))


def _notes(versions: list[_Version], plan: _Plan) -> Iterator[str]:
    for version in versions:
        named = f"version {version.rows.version}: " if version.rows.version else ""
        yield from (named + one for one in version.reference.notes)
        late = version.late
        if late is not None and late.differ:
            yield (
                f"{named}truths that come within {late.split_s / 3600:.3g} h differ from later "
                f"ones: {late.early:.4g} and {late.late:.4g}; windows are judged when "
                f"{plan.min_completeness:.0%} of their truths are expected to be in"
            )
        if all(version.reference.recorded(one).value is None for one in version.metrics):
            yield f"{named}no alarms: the bundle has no held-out rows with their truth"
        labelled = version.rows.labelled
        if labelled.task == "classification":
            unknown = int((labelled.truth[version.rows.is_known] < 0).sum())
            if unknown:
                yield f"{named}truths that are no class of the model count as wrong: {unknown:,}"
