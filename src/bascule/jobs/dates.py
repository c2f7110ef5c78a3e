"""Dates of the due time in the job of a schedule: `{{ ds }}`. Pure.

A run is about the interval that ends at its due time and begins at the time before it. It is
plain substitution in texts: there are no expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from bascule.core import Invalid
from bascule.jobs.due import Schedule, time_before

_NAME = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_DATES: Mapping[str, Callable[[datetime, datetime], str]] = {
    "ds": lambda start, _end: f"{start:%Y-%m-%d}",
    "ds_nodash": lambda start, _end: f"{start:%Y%m%d}",
    "data_interval_start": lambda start, _end: start.isoformat(),
    "data_interval_end": lambda _start, end: end.isoformat(),
    "due_ds": lambda _start, end: f"{end:%Y-%m-%d}",
}
"""By name, the text of an interval: those that Airflow has too mean what they mean there."""


def check_dates(content: Any) -> None:
    """Raise `Invalid` where a text of a job names a date that there is not."""
    for name in _names(content):
        if name not in _DATES:
            raise Invalid(
                f"there is no date {{{{ {name} }}}}", hint=f"use one of {', '.join(_DATES)}"
            )


def check_no_dates(content: Any) -> None:
    """Raise `Invalid` where a job that is run by itself has dates of a schedule."""
    for name in _names(content):
        raise Invalid(
            f"{{{{ {name} }}}} is a date of a schedule, and this run is of none",
            hint="bascule schedule add NAME --job JOB.toml, then bascule schedule run NAME",
        )


def with_dates(schedule: Schedule, due: datetime) -> Mapping[str, Any]:
    """The job of a schedule for a time: each name replaced by its date, in the schedule's zone."""
    if not _names(schedule.job):
        return schedule.job
    zone = ZoneInfo(schedule.timezone)
    end = due.astimezone(zone)
    start = time_before(schedule, end).astimezone(zone)
    filled: Mapping[str, Any] = _filled(schedule.job, lambda match: _DATES[match[1]](start, end))
    return filled


def time_of_run(schedule: Schedule, due: datetime | None, now: datetime) -> datetime:
    """The time that a run beside the times is for: `due`, or the last one before now.

    A time without a zone is in that of the schedule.
    """
    if due is None:
        return time_before(schedule, now)
    return due if due.tzinfo else due.replace(tzinfo=ZoneInfo(schedule.timezone))


def _names(content: Any) -> list[str]:
    names: list[str] = []

    def note(match: re.Match[str]) -> str:
        names.append(match[1])
        return ""

    _filled(content, note)
    return names


def _filled(content: Any, replace: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(content, str):
        return _NAME.sub(replace, content)
    if isinstance(content, Mapping):
        return {name: _filled(value, replace) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_filled(value, replace) for value in content]
    return content
