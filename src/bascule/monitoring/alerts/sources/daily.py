"""What is judged once a UTC day is over: drift, the quality of the data, performance.

A look at a model is repeated until it succeeds, and then not before its next finished day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from bascule.core import BasculeError
from bascule.monitoring.alerts.findings import Finding, Observation
from bascule.monitoring.drift import ColumnDrift, DriftReport

log = logging.getLogger(__name__)

Measure = Callable[[str, date, datetime], Sequence[Finding]]
"""The findings of a model's day; raises `BasculeError` where there is no way to tell."""


class DailySource:
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
        self._looked: dict[str, date] = {}

    def look(self, now: datetime) -> Sequence[Observation]:
        made = []
        for model, day in self._finished(now).items():
            if self._looked.get(model) == day:
                continue
            try:
                found = self._measure(model, day, now)
            except BasculeError as error:
                log.warning("alerts: %s of %s on %s: %s", self.name, model, day, error.message)
                continue
            self._looked[model] = day
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


class PerformanceFinding(Protocol):
    """One finding of a report of performance."""

    @property
    def sentence(self) -> str: ...

    @property
    def is_alarm(self) -> bool: ...


class PerformanceReport(Protocol):
    """A report of performance, as far as alerts need it."""

    @property
    def findings(self) -> Sequence[PerformanceFinding]: ...


def performance_findings(report: PerformanceReport, model: str, now: datetime) -> Iterator[Finding]:
    """The alarms of a report; what it has of metric, version, value and limit comes along."""
    for one in report.findings:
        if one.is_alarm:
            metric, version = (str(getattr(one, name, "")) for name in ("metric", "version"))
            yield Finding(
                "performance", metric or "performance", model, "critical",
                f"{model}: {one.sentence}", getattr(one, "value", None),
                getattr(one, "limit", None), now, version,
                evidence=f"bascule performance {model} --since 30d",
            )  # fmt: skip
