"""The routes about batch: runs and schedules of the catalogue, as jobs of kind `batch`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, FastAPI, Request
from pydantic import AwareDatetime, BaseModel, Field

from bascule.batch import Manifest, Runs, Status, operations as of_batch
from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import caller_of, serves
from bascule.control.api.routes.jobs import Submissions
from bascule.core import Invalid, masked
from bascule.jobs import Log
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.jobs import Job, Scheduled, Schedules

_MAX_LOG = 1 << 20
_BEGIN_S = 120.0
_JOB = Body(description="The fields of a JOB.toml: model, from, to, columns, where, mode...")


class ScheduleView(BaseModel):
    """A schedule, its next time, and its last run."""

    name: str
    cron: str
    timezone: str
    catch_up: str
    window: Annotated[str, Field(description="Hours in which it may run; empty for all")]
    retries: int
    retry_after_min: float
    retry_at: Annotated[AwareDatetime | None, Field(description="When a failed run is tried again")]
    late_after_min: float
    kind: Annotated[str, Field(description="Of the job")]
    job: dict[str, Any]
    folder: str
    is_paused: bool
    created_at: AwareDatetime
    next: AwareDatetime | None
    last: Annotated[AwareDatetime | None, Field(description="The time that the last run was for")]
    running: bool
    outcome: dict[str, Any] | None

    @classmethod
    def of(cls, one: Scheduled) -> ScheduleView:
        from bascule.jobs import next_time

        following = None if one.schedule.is_paused else next_time(one.schedule, datetime.now(UTC))
        said = one.to_json()
        texts = {name: masked(at) for name, at in said["job"].items() if isinstance(at, str)}
        return cls.model_validate({**said, "job": said["job"] | texts, "next": following})


class NewSchedule(Taken):
    """When to run which job."""

    name: Annotated[str, Field(max_length=128)]
    cron: Annotated[str, Field(max_length=256)]
    kind: Annotated[str, Field(max_length=64, description="Of the job")] = "batch"
    job: dict[str, Any]
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    catch_up: Literal["one", "all", "none"] = "one"
    window: Annotated[str, Field(max_length=32)] = ""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    retry_after_min: Annotated[float, Field(gt=0, le=100_000)] = 5.0
    late_after_min: Annotated[float, Field(gt=0, le=100_000)] = 60.0
    reason: Annotated[str, Field(max_length=4_096)] = ""


class Reason(Taken):
    """Why, for the history."""

    reason: Annotated[str, Field(max_length=4_096)] = ""


class RunNow(Reason):
    """The time that a run is for, and why."""

    due: Annotated[
        datetime | None,
        Field(description="For the dates in the job, in the zone of the schedule; its last time"),
    ] = None


def add_batch(
    app: FastAPI, submissions: Submissions, open_schedules: Callable[[], Schedules]
) -> None:
    """Add the routes to `app`."""

    def begun(job: Job) -> Status:
        """The run of a job once it has begun, or of the same that is under way."""
        job = submissions.runner().wait(job, _BEGIN_S, until_begun=True)
        problem = job.problem
        if problem is None or job.begun == job.attempt:
            return Status.of(job)
        if "under_way" in problem.facts:
            return Runs(submissions.runner()).get(str(problem.facts["under_way"]))
        raise problem

    def begin(content: Mapping[str, Any], request: Request, folder: str = "") -> Status:
        title = f"scoring {content.get('from', '')}"
        return begun(submissions.submit("batch", content, request, title=title, folder=folder))

    _add_runs(app, submissions, begin, begun)
    _add_schedules(app, submissions, open_schedules, begin)


def _add_runs(
    app: FastAPI, submissions: Submissions, begin: Callable[..., Status],
    begun: Callable[[Job], Status],
) -> None:  # fmt: skip
    def runs() -> Runs:
        return Runs(submissions.runner())

    @serves(app, of_batch.RUNS)
    def every(paged: Paged, state: str | None = None) -> Page[Status]:
        """The runs of the catalogue, the latest first; of one state."""
        found = [run for run in runs().list() if state in (None, run.state)]
        return paged.page(found, _begun, descending=True)

    @serves(app, of_batch.START)
    def start(job: Annotated[dict[str, Any], _JOB], request: Request) -> Status:
        """Start a job; answers when its run has begun. The same job on the same rows is one run."""
        return begin(job, request)

    @serves(app, of_batch.RUN)
    def one(run: str, request: Request) -> Status:
        """How far a run is, and why it ended."""
        return readable(run, request)

    @serves(app, of_batch.MANIFEST)
    def manifest(run: str, request: Request) -> Manifest:
        """What a run is: options that change what is written, and the digest of each chunk."""
        return runs().manifest(readable(run, request).run)

    @serves(app, of_batch.LOG)
    def log(run: str, request: Request) -> Log:
        """What a run has logged, of a long log the end."""
        return Log(log=runs().log(readable(run, request).run)[-_MAX_LOG:])

    @serves(app, of_batch.COMMAND)
    def command(run: str, command: Literal["cancel", "resume"], request: Request) -> Status:
        """Cancel a run after the batch under way, or go on with one that has ended early."""
        job = runs().find(run)
        changed = submissions.command(job, command, request)
        return Status.of(changed) if command == "cancel" else begun(changed)

    def readable(run: str, request: Request) -> Status:
        job = runs().find(run)
        submissions.authorise(request, "read", model_of(submissions, job.kind, job.input))
        return Status.of(job)


def _add_schedules(
    app: FastAPI, submissions: Submissions, schedules: Callable[[], Schedules],
    begin: Callable[..., Status],
) -> None:  # fmt: skip
    @serves(app, of_batch.SCHEDULES)
    def every(paged: Paged) -> Page[ScheduleView]:
        """The schedules, by name."""
        return paged.page(schedules().list(), lambda one: one.schedule.name, ScheduleView.of)

    @serves(app, of_batch.ADD)
    def add(wanted: NewSchedule, request: Request) -> ScheduleView:
        """Run a job at times. Its paths are relative to the folder of the server."""
        from bascule.jobs import Schedule

        said = wanted.model_dump(exclude={"reason", "job"})
        job = dict(submissions.checked(wanted.kind, wanted.job, request))
        made = Schedule(
            **said, job=job, folder=os.getcwd(), created_at=datetime.now(UTC),
            is_confined=submissions.places is not None, key=caller_of(request).key,
        )  # fmt: skip
        schedules().add(made, by=caller_of(request).user, reason=wanted.reason)
        return ScheduleView.of(schedules().get(made.name))

    @serves(app, of_batch.SCHEDULE)
    def one(schedule: str, request: Request) -> ScheduleView:
        """One schedule."""
        return ScheduleView.of(found(schedule, "read", request))

    @serves(app, of_batch.REMOVE)
    def remove(schedule: str, request: Request, reason: str = "") -> ScheduleView:
        """Forget a schedule; its history and its rows stay. Answers what it was."""
        before = found(schedule, "manage", request)
        schedules().remove(schedule, by=caller_of(request).user, reason=reason)
        return ScheduleView.of(before)

    @serves(app, of_batch.RUN_NOW)
    def run(
        schedule: str, request: Request, what: RunNow | None = None
    ) -> Status:  # fmt: skip
        """Run the batch job of a schedule now, beside its times."""
        from bascule.jobs import time_of_run, with_dates

        known = found(schedule, "manage", request).schedule
        if known.kind != "batch":
            raise Invalid(
                f"schedule {schedule} runs jobs of kind {known.kind}", hint="bascule jobs run"
            )
        moment = time_of_run(known, what.due if what else None, datetime.now(UTC))
        job = with_dates(known, moment)
        return begin(job, request, known.folder)

    @serves(app, of_batch.COMMAND_SCHEDULE)
    def command(
        schedule: str, command: Literal["pause", "resume"], request: Request,
        why: Reason | None = None,
    ) -> ScheduleView:  # fmt: skip
        """Run nothing until it is resumed, while a run under way goes on; or run again."""
        found(schedule, "manage", request)
        change = schedules().pause if command == "pause" else schedules().resume
        change(schedule, by=caller_of(request).user, reason=why.reason if why else "")
        return ScheduleView.of(schedules().get(schedule))

    def found(name: str, action: Literal["read", "manage"], request: Request) -> Scheduled:
        one = schedules().get(name)
        model = model_of(submissions, one.schedule.kind, one.schedule.job)
        submissions.authorise(request, action, model)
        return one


def _begun(status: Status) -> str:
    return f"{status.started_at.isoformat()} {status.run}"


def model_of(submissions: Submissions, name: str, content: Mapping[str, Any]) -> str:
    """The model that rights to a job are about; all models where there is no such kind."""
    kinds = submissions.runner().kinds
    return kinds[name].model_of(content) if name in kinds.places else ANY
