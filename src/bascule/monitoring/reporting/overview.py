"""What is known of a model in production; printed, it is one screen of 80 letters. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import islice
from typing import Any

from bascule.core import counted
from bascule.documents import bars
from bascule.monitoring.drift import ProductionDrift, typical
from bascule.monitoring.performance import PerformanceReport
from bascule.monitoring.reporting.view import report_of
from bascule.monitoring.showing import alarms_found, cut, duration

LINES, WIDTH = 24, 80
_DAYS = 14
_COLUMNS = 6
_PERFORMANCE_ALARMS = 2


@dataclass(frozen=True, slots=True)
class DayHealth:
    """The requests of one UTC day, or of the whole period (`day` None).

    Attributes:
        day: Which.
        requests: Those in the ledger, each counted for those that were sampled out.
        errors: Of these, with a status of 500 or more.
        refused: With a status from 400 to 499.
        p50_s: The median latency, in seconds.
        p99_s: The 99th percentile.
    """

    day: date | None
    requests: int
    errors: int
    refused: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What of the answers is in the ledger.

    Attributes:
        share: Of the rows that were answered; 1 where nothing was sampled out.
        gaps: How many gaps there are, of all models.
        missing: Requests in them.
    """

    share: float
    gaps: int
    missing: int


@dataclass(frozen=True, slots=True)
class TruthFacts:
    """Truths beside predictions.

    Attributes:
        predictions: Rows that were answered and are in the ledger.
        truths: Of how many the truth is known.
        delay_s: The median time from a prediction to its truth, of those that are known.
    """

    predictions: int
    truths: int
    delay_s: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """A model in production; printed, it is one screen.

    Attributes:
        model: Its name.
        since: The first day.
        until: Today.
        total: All days together.
        days: Each day that has requests, oldest first.
        drift: Of each version.
        truths: What is known of outcomes.
        kept: What is in the ledger.
        performance: Predictions against truths; None without any truth.
        notes: What could not be measured, and why.
    """

    model: str
    since: date
    until: date
    total: DayHealth
    days: tuple[DayHealth, ...]
    drift: ProductionDrift
    truths: TruthFacts
    kept: Kept
    performance: PerformanceReport | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether drift or performance raised an alarm."""
        return self.drift.is_alarm or bool(self.performance and self.performance.is_alarm)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "alarm": self.is_alarm,
            "total": asdict(self.total),
            "days": [asdict(one) for one in self.days],
            "truths": asdict(self.truths),
            "ledger": asdict(self.kept),
            "performance": None if self.performance is None else self.performance.to_json(),
            "drift": self.drift.to_json(),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return "\n".join(_screen(self))


def _screen(overview: Overview) -> Iterator[str]:
    """The lines: health, drift, performance, the ledger, and sentences as far as there is room."""
    lines = [*_head(overview), *_drift(overview), *_performance(overview), *_ledger(overview)]
    rest = LINES - len(lines)
    said = [
        line
        for sentence in _sentences(overview)
        for line in textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
    ]
    if said and rest > 1:
        lines += ["", *said[: rest - 1]]
    return (cut(line, WIDTH) for line in lines[:LINES])


def _head(overview: Overview) -> Iterator[str]:
    alarms = sum(len(one.alarms) for report in overview.drift.versions for one in report.windows)
    alarms += len(overview.performance.alarms) if overview.performance else 0
    verdict = alarms_found(alarms)
    days = f"{overview.model}  {overview.since} to {overview.until}"
    yield f"{days}{verdict:>{max(1, WIDTH - len(days))}}"
    total = overview.total
    if not total.requests:
        yield "health       no requests in the ledger, profiles alone"
        return
    share = (total.errors, total.refused)
    errors, refused = (one / max(1, total.requests) for one in share)
    requests = counted(total.requests, "request")
    yield f"health       {requests}, {errors:.2%} errors, {refused:.2%} refused"
    latency = f"p50 {_ms(total.p50_s)}, p99 {_ms(total.p99_s)}"
    by_day = {one.day: float(one.requests) for one in overview.days}
    yield f"             {latency}; by day {bars(list(by_day.values())[-_DAYS:])}"


def _drift(overview: Overview) -> Iterator[str]:
    yield ""
    versions = report_of(overview.to_json()).versions
    for version in versions:
        yield (
            f"drift        version {version.report['version']}: {counted(version.rows, 'row')} on "
            f"{counted(len(version.report['windows']), 'day')}, "
            f"{counted(len(version.columns), 'column')}, budget {version.report['budget']:g} a year"
        )
        yield f"  {'column':<24}{'then':>12}{'now':>12}{'alarms':>8}  by day"
        for column in version.columns[: max(2, _COLUMNS // len(versions))]:
            latest = column.latest
            then, now = (
                typical(latest[side], latest["tested"], 6, decimals=0) for side in ("then", "now")
            )
            line = f"  {cut(column.name, 23):<24}{then:>12}{now:>12}{column.alarms or '-':>8}"
            yield f"{line}  {bars(column.series[-_DAYS:])}"


def _performance(overview: Overview) -> Iterator[str]:
    truths = overview.truths
    share = truths.truths / max(1, truths.predictions)
    delay = "" if truths.delay_s is None else f", median delay {duration(truths.delay_s)}"
    yield ""
    yield (
        f"performance  {counted(truths.truths, 'truth')} of "
        f"{counted(truths.predictions, 'prediction')} ({share:.0%}){delay}"
    )
    yield from (f"             {one}" for one in islice(metric_lines(overview), 3))


def metric_lines(overview: Overview) -> Iterator[str]:
    """The metrics of each version over the whole period, beside the held-out rows."""
    report = overview.performance
    for window in () if report is None else report.windows:
        if window.start is None and window.slice is None:
            known = [one for one in window.metrics if one.found.value is not None]
            shown = [
                f"{one.metric} {one.found.value:.3f}"
                + ("" if one.recorded is None else f" (was {one.recorded:.3f})")
                for one in known[:2]
            ]
            if shown:
                yield f"version {window.version}: {', '.join(shown)}"


def _ledger(overview: Overview) -> Iterator[str]:
    kept = overview.kept
    lost = f"{counted(kept.gaps, 'gap')} with {counted(kept.missing, 'request')}"
    yield f"ledger       {kept.share:.1%} of the rows are kept, {lost if kept.gaps else 'no gaps'}"


def _sentences(overview: Overview) -> Iterator[str]:
    yield from unmeasured(overview)
    if overview.performance is not None:
        yield from overview.performance.alarms[: -_PERFORMANCE_ALARMS - 1 : -1]  # latest first
    for report in overview.drift.versions:
        for window in reversed(report.windows):
            for column in window.alarms:
                yield f"{window.day} {column.sentence}"
    # Versions that were packed with the same rows have the same notes.
    yield from dict.fromkeys(note for one in overview.drift.versions for note in one.notes)
    if overview.performance is not None:
        yield from overview.performance.notes


def unmeasured(overview: Overview) -> tuple[str, ...]:
    """The versions that are not compared or measured, and why."""
    return (*overview.drift.notes, *overview.notes)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
