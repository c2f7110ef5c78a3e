"""Runs and schedules as the watcher of alerts sees them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from bascule.batch.runs import FAILED, KILLED, OF_SCHEDULE, RUNNING, Status
from bascule.jobs import Scheduled, late_since
from bascule.monitoring.alerts.sources import BatchFacts


def model_of(reference: str) -> str:
    """The name of the model of `late@champion` or `late/3`; the last part of a folder's path."""
    if reference.startswith((".", "/", "~")) or reference.endswith("/"):
        return reference.rstrip("/").rpartition("/")[2] or "."
    return re.split("[/@]", reference)[0]


def facts_of_runs(runs: Sequence[Status]) -> Iterator[BatchFacts]:
    """The latest run of each sink, without those of schedules: these have facts of their own."""
    latest: dict[str, Status] = {}
    for one in sorted(runs, key=lambda one: one.started_at):
        if not one.by.startswith(OF_SCHEDULE):
            latest[one.sink] = one
    for sink, one in latest.items():
        error = one.error or "failed" if one.state == FAILED else ""
        if one.state == KILLED:
            error = f"its process was killed; bascule batch resume {one.run} goes on"
        yield BatchFacts(
            sink, model_of(one.model), f"batch run {one.run} to {sink}", error,
            None if one.state == RUNNING else one.updated_at,
            evidence=f"bascule batch show {one.run}",
        )  # fmt: skip


def facts_of_schedules(schedules: Sequence[Scheduled], now: datetime) -> Iterator[BatchFacts]:
    """Each schedule, whether its last run failed and is not tried again, whether one is late."""
    for one in schedules:
        schedule = one.schedule
        since = late_since(schedule, one.due, now, is_under_way=one.is_under_way)
        waits = schedule.is_paused or one.retry_at is not None
        error = "" if waits else str((one.outcome or {}).get("error", ""))
        yield BatchFacts(
            schedule.name, model_of(str(schedule.job.get("model", ""))),
            f"the run of schedule {schedule.name}", error, late_since=since,
            evidence="bascule schedule list",
        )  # fmt: skip
