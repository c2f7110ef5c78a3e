"""Batch runs that failed or were killed, and schedules that failed or are late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bascule.monitoring.alerts.findings import Finding, Observation, Source

KEPT = timedelta(days=7)
"""A run that failed longer ago is no news, also where no later one succeeded."""


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """The latest run of a job.

    Attributes:
        job: Tells jobs apart: the name of a schedule, or the place of the sink.
        model: The name of the model.
        what: The job in words, as sentences begin.
        error: Why it failed or was killed; empty where it was not.
        at: When it ended, or now.
        late_since: The time of a schedule whose run should have ended; None if there is none.
        evidence: The command that shows more.
    """

    job: str
    model: str
    what: str
    error: str = ""
    at: datetime | None = None
    late_since: datetime | None = None
    evidence: str = "bascule batch runs"


class BatchSource(Source):
    """Looks at the latest runs: of one machine (with a place), or of all schedules."""

    name = "batch"
    every_s = 15.0

    def __init__(self, read: Callable[[datetime], Iterable[BatchFacts]], place: str = "") -> None:
        self._read, self._place = read, place

    def look(self, now: datetime) -> Sequence[Observation]:
        found: dict[str, list[Finding]] = {}
        for one in self._read(now):
            found.setdefault(one.model, []).extend(_findings(one, self._place, now))
        return [
            Observation(self.name, self._place, model, tuple(findings))
            for model, findings in found.items()
        ]


def _findings(one: BatchFacts, place: str, now: datetime) -> Iterable[Finding]:
    if one.error and (one.at is None or now - one.at < KEPT):
        yield Finding(
            "batch", "batch_failed", one.model, "critical", f"{one.what} failed: {one.error}",
            None, None, now, column=one.job, place=place, evidence=one.evidence,
        )  # fmt: skip
    if one.late_since is not None:
        minutes = (now - one.late_since) / timedelta(minutes=1)
        yield Finding(
            "batch", "batch_late", one.model, "warning",
            f"{one.what} of {one.late_since:%Y-%m-%d %H:%M} UTC has not ended after "
            f"{minutes:,.0f} minutes",
            round(minutes), None, now, column=one.job, place=place, evidence=one.evidence,
        )  # fmt: skip
