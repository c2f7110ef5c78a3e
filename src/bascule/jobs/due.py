"""Schedules, and when each is due. Pure: the same facts and time give the same answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from bascule.core import Invalid, check_name

CatchUp = Literal["one", "all", "none"]
CATCH_UPS = ("one", "all", "none")
_MINUTE = timedelta(minutes=1)
_LONGEST_PAUSE_MIN = 1_440.0
_ON_TIME = 5 * _MINUTE
"""With `none`, a time that passed longer ago is skipped."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is run at times.

    Attributes:
        name: Of the schedule.
        cron: Five fields. Changes of daylight saving time skip and double nothing.
        timezone: That the fields are meant in.
        catch_up: What becomes of times at which nothing could run: `one` runs the latest, `all`
            each of them in order, `none` skips them after 5 minutes.
        kind: Of the job.
        job: The input of the job, as a caller gives it.
        folder: That the job's paths are relative to.
        window: Hours of the day in which the job may run, as `22:00-06:00` in the time zone; empty
            for all. A run that is not done when they end is stopped, and goes on the next time.
        retries: How often a run that failed is tried again, before the next time is run for.
        retry_after_min: Until the first retry; each further one waits twice as long, a day at most.
        late_after_min: An alert is raised so long after a time whose run has not ended.
        is_paused: Whether nothing runs.
        is_confined: Whether a caller with a key added it: its runs are held to `batch.places`.
        key: The id of that key: no run starts once the key has ended.
        created_at: When it was added: no earlier time is due.
    """

    name: str
    cron: str
    timezone: str = "UTC"
    catch_up: CatchUp = "one"
    kind: str = "batch"
    job: dict[str, Any]
    folder: str = "."
    window: str = ""
    retries: int = 0
    retry_after_min: float = 5.0
    late_after_min: float = 60.0
    is_paused: bool = False
    is_confined: bool = False
    key: str = ""
    created_at: datetime

    def __post_init__(self) -> None:
        check_name(self.name, what="schedule name")
        if self.catch_up not in CATCH_UPS:
            raise Invalid(
                f"catch_up: {self.catch_up!r} is not known", hint=f"use {', '.join(CATCH_UPS)}"
            )
        if self.late_after_min <= 0:
            raise Invalid(
                f"late_after_min: {self.late_after_min:g} is not > 0", field="late_after_min"
            )
        if self.retries < 0 or self.retry_after_min <= 0:
            raise Invalid("retries are >= 0, and retry_after_min is > 0", field="retries")
        next_time(self, self.created_at)
        _hours(self.window)


def next_time(schedule: Schedule, after: datetime) -> datetime | None:
    """The first time of a schedule after a moment; None if there is none in 50 years.

    Raises:
        Invalid: The cron fields or the time zone cannot be read.
    """
    return _next(schedule, after)


def time_before(schedule: Schedule, moment: datetime) -> datetime:
    """The last time of a schedule before a moment; the moment where there was none."""
    return _next(schedule, moment, is_back=True) or moment


def _next(schedule: Schedule, after: datetime, *, is_back: bool = False) -> datetime | None:
    from cronsim import CronSim, CronSimError

    try:
        moment = after.astimezone(ZoneInfo(schedule.timezone))
        return next(CronSim(schedule.cron, moment, reverse=is_back))
    except StopIteration:
        return None
    except CronSimError as problem:
        raise Invalid(
            f"cron: {schedule.cron!r} cannot be read: {problem}",
            hint="write five fields, as in '0 2 * * *' for every night at 2",
            field="cron",
        ) from None
    except (ZoneInfoNotFoundError, ValueError):
        raise Invalid(
            f"timezone: {schedule.timezone!r} is not known", hint="write one such as Europe/Paris"
        ) from None


def _hours(window: str) -> tuple[time, time] | None:
    """Start and end; the end is on the next day where it is the earlier one."""
    if not window:
        return None
    start, dash, end = window.partition("-")
    try:
        parsed = time.fromisoformat(start.strip()), time.fromisoformat(end.strip())
    except ValueError:
        parsed = time(0), time(0)
    if not dash or parsed[0] == parsed[1] or any(one.tzinfo or one.second for one in parsed):
        raise Invalid(
            f"window: {window!r} cannot be read",
            hint="write two different times of the day, as in 22:00-06:00",
            field="window",
        )
    return parsed


def may_run(schedule: Schedule, now: datetime) -> bool:
    """Whether a moment is in the window."""
    hours = _hours(schedule.window)
    if hours is None:
        return True
    start, end = hours
    clock = now.astimezone(ZoneInfo(schedule.timezone)).time()
    if start < end:
        return start <= clock < end
    return clock >= start or clock < end


def opens_at(schedule: Schedule, moment: datetime) -> datetime:
    """The first moment at or after `moment` that is in the window."""
    found = moment
    while not may_run(schedule, found):  # by minutes, because an hour may be missing or come twice
        found = found.replace(second=0, microsecond=0) + _MINUTE
    return found


def late_since(
    schedule: Schedule, last: datetime | None, now: datetime, *, is_under_way: bool
) -> datetime | None:
    """The oldest time whose run should have ended by now and has not; None if there is none.

    A time that was missed and that `catch_up` skips counts until the next run begins.

    Args:
        schedule: When to run.
        last: The time that was last run for.
        now: A moment with a time zone.
        is_under_way: Whether that run has not ended.
    """
    if schedule.is_paused:
        return None
    waiting = last if is_under_way else next_time(schedule, last or schedule.created_at)
    if waiting is None:
        return None
    is_late = now > opens_at(schedule, waiting) + schedule.late_after_min * _MINUTE
    return waiting if is_late else None


def retry_at(schedule: Schedule, failures: int, ended_at: datetime | None) -> datetime | None:
    """When a run that failed is tried again; None where it is not.

    Args:
        schedule: When to run.
        failures: How often the run for the last time has failed, without a success since.
        ended_at: When it failed last.
    """
    if ended_at is None or not 0 < failures <= schedule.retries:
        return None
    pause = min(schedule.retry_after_min * 2.0 ** (failures - 1), _LONGEST_PAUSE_MIN)
    return ended_at + pause * _MINUTE


def due(schedule: Schedule, last: datetime | None, now: datetime) -> datetime | None:
    """The time to run for as soon as the window lets it; None if there is none.

    Args:
        schedule: When to run.
        last: The time that was last run for.
        now: A moment with a time zone.
    """
    if schedule.is_paused:
        return None
    found, after = None, last or schedule.created_at
    while (moment := next_time(schedule, after)) is not None and moment <= now:
        after = moment
        if schedule.catch_up == "none" and now - opens_at(schedule, moment) > _ON_TIME:
            continue
        found = moment
        if schedule.catch_up == "all":
            break
    return found


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule and its last run.

    Attributes:
        schedule: When to run what.
        due: The time that the last run was for; None before the first.
        is_under_way: Whether that run has not ended, as far as the history tells.
        outcome: What the last run that ended did, or its error.
        retry_at: When a last run that failed is tried again; None where it is not.
    """

    schedule: Schedule
    due: datetime | None = None
    is_under_way: bool = False
    outcome: Mapping[str, Any] | None = None
    retry_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = msgspec.to_builtins(self.schedule)
        last, again = (
            None if moment is None else moment.isoformat() for moment in (self.due, self.retry_at)
        )
        state = {"last": last, "running": self.is_under_way, "outcome": self.outcome}
        return fields | state | {"retry_at": again}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Scheduled:
        last, again = (
            None if said.get(name) is None else datetime.fromisoformat(said[name])
            for name in ("last", "retry_at")
        )
        schedule = msgspec.convert(dict(said), Schedule)
        return cls(schedule, last, said["running"], said["outcome"], again)
