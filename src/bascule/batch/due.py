"""Schedules, and when each is due. Pure: the same facts and time give the same answer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from bascule.core import Invalid, check_name

CatchUp = Literal["one", "all", "none"]
CATCH_UPS = ("one", "all", "none")
_ON_TIME = timedelta(minutes=5)
"""With `none`, a time that passed longer ago is skipped."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is run at times.

    Attributes:
        name: Of the schedule.
        cron: Five fields. Changes of daylight saving time skip and double nothing.
        timezone: That the fields are meant in.
        catch_up: What becomes of times at which nothing could run: `one` runs the latest, `all`
            each of them in order, `none` skips them after 5 minutes.
        job: The job, as `Job.to_json` gives it.
        folder: That the job's paths are relative to.
        is_paused: Whether nothing runs.
        created_at: When it was added: no earlier time is due.
    """

    name: str
    cron: str
    timezone: str = "UTC"
    catch_up: CatchUp = "one"
    job: dict[str, Any]
    folder: str = "."
    is_paused: bool = False
    created_at: datetime

    def __post_init__(self) -> None:
        check_name(self.name, what="schedule name")
        if self.catch_up not in CATCH_UPS:
            raise Invalid(
                f"catch_up: {self.catch_up!r} is not known", hint=f"use {', '.join(CATCH_UPS)}"
            )
        next_time(self, self.created_at)


def next_time(schedule: Schedule, after: datetime) -> datetime | None:
    """The first time of a schedule after a moment; None if there is none in 50 years.

    Raises:
        Invalid: The cron fields or the time zone cannot be read.
    """
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(schedule.cron, after.astimezone(ZoneInfo(schedule.timezone))))
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


def due(schedule: Schedule, last: datetime | None, now: datetime) -> datetime | None:
    """The time to run for now; None if there is none.

    Args:
        schedule: When to run.
        last: The time that was last run for.
        now: A moment with a time zone.
    """
    if schedule.is_paused:
        return None
    found, after = None, last or schedule.created_at
    while (time := next_time(schedule, after)) is not None and time <= now:
        after = time
        if schedule.catch_up == "none" and now - time > _ON_TIME:
            continue
        found = time
        if schedule.catch_up == "all":
            break
    return found
