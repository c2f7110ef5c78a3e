"""What is judged once a UTC day is over: drift, the quality of the data, performance.

A look at a model is repeated until it succeeds, and then not before the next UTC day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

from bascule.core import BasculeError
from bascule.monitoring.alerts.findings import Finding, Observation, Source
from bascule.monitoring.drift import ColumnDrift, DriftReport
from bascule.monitoring.performance import PerformanceReport, WindowPerformance

log = logging.getLogger(__name__)

SETTLED = timedelta(minutes=5)
"""How long after its end an hour or a day is judged: by then the scribe has its last answers."""

Measure = Callable[[str, date, datetime], Sequence[Finding]]
"""The findings of a model's day; raises `BasculeError` where there is no way to tell."""


class DailySource(Source):
    """One kind of judgement of finished days."""

    every_s = 300.0

    def __init__(
        self, name: str, finished: Callable[[datetime], Mapping[str, date]], measure: Measure
    ) -> None:
        """Look at nothing yet.

        Args:
            name: Of the source.
            finished: By model, the newest day that is over and has answers.
            measure: Judges one day of one model.
        """
        self.name = name
        self._finished = finished
        self._measure = measure
        self._looked: dict[str, tuple[date, date]] = {}

    def again(self) -> None:
        """Look at every model again."""
        self._looked.clear()

    def look(self, now: datetime) -> Sequence[Observation]:
        made = []
        today = (now - SETTLED).date()
        for model, day in self._finished(now).items():
            if self._looked.get(model) == (today, day):  # truths may have come since yesterday
                continue
            try:
                found = self._measure(model, day, now)
            except BasculeError as error:
                log.warning("alerts: %s of %s on %s: %s", self.name, model, day, error.message)
                continue
            self._looked[model] = today, day
            made.append(Observation(self.name, "", model, tuple(found)))
        return made


def drift_findings(
    report: DriftReport, model: str, version: str, day: date, now: datetime
) -> Iterator[Finding]:
    """The alarms of one day in a report, one for each column."""
    for window in report.windows:
        for column in window.alarms if window.day == day else ():
            yield _drift_finding(column, model, version, day, now)


def _drift_finding(
    column: ColumnDrift, model: str, version: str, day: date, now: datetime
) -> Finding:
    test = column.leading
    return Finding(
        "drift", "quality" if column.is_broken else "drift", model,
        "critical" if column.is_broken else "warning",
        f"{model}/{version} on {day}: {column.sentence}",
        test.effect if test else None, test.limit if test else None, now, version, column.name,
        evidence=f"bascule drift {model} --since 30d",
    )  # fmt: skip


def performance_findings(report: PerformanceReport, model: str, now: datetime) -> Iterator[Finding]:
    """The alarms of the newest judged window of each version and slice."""
    newest: dict[object, WindowPerformance] = {}
    for window in report.windows:  # in the order of time
        if window.start is not None and not window.waits:
            newest[window.version, window.slice] = window
    alarms = {
        (window.version, window.slice, window.start, one.metric): one
        for window in newest.values()
        for one in window.alarms
    }
    for found in report.findings:
        one = alarms.get((found.version, found.slice, found.start, found.metric))
        if found.is_alarm and one is not None:
            slice_name = "" if found.slice is None else "=".join(map(str, found.slice))
            yield Finding(
                "performance", found.metric, model, "critical", f"{model}: {found.sentence}",
                found.value, found.recorded, now, found.version, slice_name,
                evidence=f"bascule performance {model} --since 30d",
            )  # fmt: skip
