"""Runs and schedules in the Prometheus text exposition format 0.0.4. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from bascule.batch.runs import RUNNING, STATES, Status
from bascule.jobs import Scheduled, late_since

_Family = tuple[str, str, list[tuple[str, object]]]


def batch_text(runs: Sequence[Status], schedules: Sequence[Scheduled], now: datetime) -> str:
    """The text; every state has a sample, also with no runs.

    Args:
        runs: Of this machine.
        schedules: Of the catalogue.
        now: A moment with a time zone.
    """
    lines: list[str] = []
    for name, about, samples in (*_of_runs(runs), *_of_schedules(schedules, now)):
        lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{labels}}} {value}" for labels, value in samples]
    return "\n".join([*lines, ""])


def _of_runs(runs: Sequence[Status]) -> Iterator[_Family]:
    states = Counter(one.state for one in runs)
    counts: list[tuple[str, object]] = [(f'state="{one}"', states[one]) for one in STATES]
    yield "bascule_batch_runs", "Batch runs of this machine, by state.", counts
    under_way = [
        (_labels(run=one.run, model=one.model), one) for one in runs if one.state == RUNNING
    ]
    yield (
        "bascule_batch_rows", "Rows that a batch run under way has scored.",
        [(labels, one.rows) for labels, one in under_way],
    )  # fmt: skip
    yield (
        "bascule_batch_expected_rows", "Rows that a batch run under way will score, if known.",
        [(labels, one.expected_rows) for labels, one in under_way if one.expected_rows is not None],
    )  # fmt: skip
    ended: dict[str, float] = {}
    for one in runs:
        if one.state != RUNNING:
            labels = _labels(model=one.model, state=one.state)
            ended[labels] = max(ended.get(labels, 0.0), one.updated_at.timestamp())
    yield (
        "bascule_batch_last_end_seconds", "When the latest batch run ended, in Unix time.",
        list(ended.items()),
    )  # fmt: skip


def _of_schedules(schedules: Sequence[Scheduled], now: datetime) -> Iterator[_Family]:
    late: list[tuple[str, object]] = []
    failed: list[tuple[str, object]] = []
    for one in schedules:
        labels = _labels(schedule=one.schedule.name)
        since = late_since(one.schedule, one.due, now, is_under_way=one.is_under_way)
        late.append((labels, 0 if since is None else round((now - since).total_seconds())))
        failed.append((labels, int("error" in (one.outcome or {}))))
    yield "bascule_schedule_late_seconds", "Since the time whose run is late; 0 if none is.", late
    yield "bascule_schedule_failed", "Whether the last run of a schedule failed.", failed


def _labels(**values: str) -> str:
    """Label pairs; a value may be any text."""
    escaped = {
        name: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for name, text in values.items()
    }
    return ",".join(f'{name}="{text}"' for name, text in escaped.items())
