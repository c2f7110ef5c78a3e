"""The report of performance: blocks of a document, JSON and an Arrow table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bascule.core import counted
from bascule.documents import Block, Bullets, Table, Text, bars, lettered, notebook
from bascule.monitoring.performance.delays import DelayCurve
from bascule.monitoring.performance.results import (
    Finding,
    MetricPerformance,
    TrackRecord,
    WindowPerformance,
    shown,
)
from bascule.monitoring.performance.sentences import alarm_sentence, facts, moment
from bascule.monitoring.performance.view import MetricView, interval_of, metrics_of, rows_of
from bascule.monitoring.showing import alarms_found, arrow_table

if TYPE_CHECKING:
    import pyarrow as pa

_HEADINGS = ("metric", "rows of", "truths", "value", "95 % interval", "record", "alarm")
_TIMES = ("window", "predicted", "truths", "in", "value", "95 % interval", "estimate", "alarm")
_SHOWN = 40
_SHOWN_WINDOWS = 31
_MAX_BARS = 60


@dataclass(frozen=True, slots=True)
class PerformanceReport:
    """Predictions against their truths.

    Attributes:
        model: Its name.
        by: The windows, as asked; `all` for one.
        budget: Expected false alarms a year.
        windows: By version; the whole period first, then each window, whole and by slice.
        delays: How long truths take; None where it is unknown.
        track: How far estimates without truth were off.
        notes: What was not done and why.
    """

    model: str
    by: str
    budget: float
    windows: tuple[WindowPerformance, ...]
    delays: DelayCurve | None = None
    track: tuple[TrackRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether a metric in any window raised an alarm."""
        return any(window.alarms for window in self.windows)

    @property
    def alarms(self) -> list[str]:
        """A sentence per alarm."""
        return [one.sentence for one in self.findings if one.is_alarm]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The alarms first, then what else is worth a sentence."""
        alarms = [
            Finding(
                alarm_sentence(window, one), True, window.version, window.start, window.slice,
                one.metric, one.found.value, one.recorded, one.limit, one.p_value, one.found.rows,
            )
            for window in self.windows
            for one in window.alarms
        ]  # fmt: skip
        others = facts(self.windows, self.delays, self.track)
        return (*alarms, *(Finding(sentence, False) for sentence in others))

    def to_json(self) -> dict[str, Any]:
        delays = self.delays
        return {
            "model": self.model,
            "alarm": self.is_alarm,
            "by": self.by,
            "budget": self.budget,
            "findings": [one.to_json() for one in self.findings],
            "delay_s": None
            if delays is None or not delays.truths
            else {f"p{percent}": delays.quantile(percent / 100) for percent in (50, 90, 99)},
            "track": [
                {name: getattr(one, name) for name in TrackRecord.__slots__} for one in self.track
            ],
            "notes": list(self.notes),
            "windows": [window.to_json() for window in self.windows],
        }

    def to_arrow(self) -> pa.Table:
        """One row per window, slice and metric."""
        rows = [_flat(window, one) for window in self.windows for one in window.metrics]
        return arrow_table(rows, _FLAT, _KINDS)

    def __repr__(self) -> str:
        return lettered(_blocks(self))

    def _repr_html_(self) -> str:
        return notebook(*_blocks(self))


_FLAT = (
    "version start end slice slice_value predictions truths completeness metric value lower upper "
    "rows recorded estimated estimated_lower estimated_upper least most p_value level worse_by "
    "limit alarm waits"
)
_KINDS = {
    "string": "version slice slice_value metric waits", "time": "start end",
    "int": "predictions truths rows", "bool": "alarm",
}  # fmt: skip


def _flat(window: WindowPerformance, one: MetricPerformance) -> dict[str, Any]:
    column, value = window.slice or (None, None)
    about = {name: getattr(window, name) for name in WindowPerformance.__slots__}
    made = {**about, **one.to_json(), "slice": column, "slice_value": value}
    return {name: made[name] for name in _FLAT.split()}


def _summary(report: PerformanceReport) -> str:
    """The verdict in one sentence."""
    wholes = [one for one in report.windows if one.slice is None]
    days = [one for one in wholes if one.start is not None]
    totals = [one for one in wholes if one.start is None]
    predictions = sum(one.predictions for one in totals)
    truths = sum(one.truths for one in totals)
    alarms = sum(len(one.alarms) for one in report.windows)
    share = f" ({truths / predictions:.0%})" if predictions else ""
    windows = f" in {counted(len({one.start for one in days}), 'window')}" if days else ""
    return (
        f"{report.model}: {alarms_found(alarms)}; {counted(predictions, 'prediction')}{windows}, "
        f"{counted(truths, 'truth')}{share}, budget {report.budget:g} false alarms a year"
    )


def _time_rows(report: PerformanceReport) -> list[tuple[str, ...]]:
    """A row per window, with the first metric: of the last windows."""
    found = [one for one in report.windows if one.start is not None and one.slice is None]
    several = len({one.version for one in found}) > 1
    made: list[tuple[str, ...]] = []
    for window in found[-_SHOWN_WINDOWS:]:
        one = window.metrics[0]
        share = window.truths / window.predictions
        start = "" if window.start is None else moment(window.start)
        made.append((
            f"{start} {rows_of(window.version, None)}" if several else start,
            f"{window.predictions:,}", f"{window.truths:,}", f"{share:.0%}",
            shown(one.metric, one.found.value), interval_of(one.to_json()),
            shown(one.metric, one.estimated),
            "yes" if window.alarms else "waits" if window.waits else "-",
        ))  # fmt: skip
    return made


def _row(metric: MetricView) -> tuple[str, ...]:
    rows, alarms = f"{metric.measured['rows']:,}", str(metric.alarms or "-")
    whose = rows_of(metric.version, metric.slice)
    return metric.name, whose, rows, metric.value, metric.interval, metric.recorded, alarms


def _blocks(report: PerformanceReport) -> Iterator[Block]:
    yield Text(_summary(report))
    metrics = metrics_of([window.to_json() for window in report.windows])
    rows = list(map(_row, metrics))
    times = _time_rows(report)
    yield Table(_HEADINGS, tuple(rows[:_SHOWN]), _HEADINGS[2:])
    if len(rows) > _SHOWN:
        yield Text(f"... and {len(rows) - _SHOWN} more rows: --json has all")
    if times:
        metric = next(one for one in report.windows if one.start is not None).metrics[0].metric
        yield Bullets(tuple(_trends(report, metric)))
        yield Table(_TIMES, tuple(times), _TIMES[1:])
    others = (one.sentence for one in report.findings if not one.is_alarm)
    found = islice(chain(_strongest(report.findings), others), _SHOWN)
    yield Bullets((*found, *report.notes))


def _strongest(findings: tuple[Finding, ...]) -> Iterator[str]:
    """A sentence per version, slice and metric with an alarm: that of the strongest window."""
    found: dict[tuple[Any, ...], list[Finding]] = {}
    for one in findings:
        if one.is_alarm:
            found.setdefault((one.version, one.slice, one.metric), []).append(one)
    for alarms in found.values():
        strongest = min(alarms, key=lambda one: one.p_value or 0.0)
        several = f"{len(alarms)} windows, strongest " if len(alarms) > 1 else ""
        yield f"{several}{strongest.sentence}"


def _trends(report: PerformanceReport, metric: str) -> Iterator[str]:
    """A line of bars per version, from the least to the largest value of its windows."""
    for version in dict.fromkeys(one.version for one in report.windows):
        values = [
            window.metrics[0].found.value
            for window in report.windows
            if window.version == version and window.start is not None and window.slice is None
        ][-_MAX_BARS:]
        named = f" of v{version}" if version else ""
        known = [math.nan if one is None else one for one in values]
        yield f"{metric}{named}: {bars(known)}"
