"""The routes about batch jobs: runs of this machine, and schedules of the catalogue."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field

from bascule.control.conventions import Page, Paged
from bascule.control.rights import caller_of
from bascule.control.work import DoTask, Works
from bascule.core import Conflict, Invalid, NotFound, Reference

if TYPE_CHECKING:
    from bascule.batch import Job, Runs, Scheduled, Schedules, Status
    from bascule.catalogue import Catalogue

_TAGS = "batch"
_Reason = Annotated[str, Field(max_length=1_024, description="Why, for the history")]
_LOG_LETTERS = 64_000


class NewRun(BaseModel):
    """A batch job, in the fields of a JOB.toml."""

    model_config = {"extra": "forbid"}

    job: Annotated[dict[str, Any], Field(description="`model`, `from`, `to`, ...: see JOB.toml")]
    dry_run: Annotated[bool, Field(description="Plan it and score ten rows; write none")] = False


class Command(BaseModel):
    """Why."""

    model_config = {"extra": "forbid"}

    reason: _Reason = ""


class StartedView(BaseModel):
    """A run that begins, or would."""

    run: str
    rows: Annotated[int | None, Field(description="null where the source does not know")]
    chunks: int
    expected_s: Annotated[float | None, Field(description="By the measured cost of the bundle")]
    columns: list[str]
    preview: Annotated[list[list[str]], Field(description="The first rows, scored")]


class RunView(BaseModel):
    """How far a run is."""

    run: str
    state: Annotated[str, Field(description="running, done, failed, cancelled or killed")]
    model: str
    source: str
    sink: str
    rows: int
    quarantined: int
    expected_rows: int | None
    chunks_done: int
    chunks: int
    seconds: float
    started_at: datetime
    updated_at: datetime
    host: str
    pid: int
    error: str
    findings: list[str]


class ScheduleView(BaseModel):
    """A schedule, and its last run."""

    name: str
    cron: str
    timezone: str
    catch_up: str
    job: dict[str, Any]
    folder: str
    is_paused: bool
    created_at: datetime
    last: datetime | None
    running: bool
    outcome: dict[str, Any] | None


class BatchJobs:
    """What pages and routes do with batch jobs; see `Runs` and `Schedules`."""

    def __init__(
        self, home: FilePath | None, open_catalogue: Callable[[], Catalogue] | None,
        do_task: DoTask | None, works: Works,
    ) -> None:  # fmt: skip
        self._home, self._open_catalogue = home, open_catalogue
        self._do_task, self._works = do_task, works

    @property
    def runs(self) -> Runs:
        """Raises `NotFound` for a server without a home."""
        from bascule.batch import Runs

        if self._home is None:
            raise NotFound("this server keeps no runs", hint="run bascule control, or a server")
        return Runs(self._home)

    @property
    def schedules(self) -> Schedules:
        """Raises `NotFound` for a server without a catalogue."""
        from bascule.batch import Schedules

        if self._open_catalogue is None:
            raise NotFound("this server keeps no schedules", hint="run bascule control")
        return Schedules(self._open_catalogue())

    def runs_page(self, page: int, rows: int) -> tuple[list[Status], int]:
        """The runs of a page, from 1 on, the latest change first; and how many there are."""
        return self.runs.page((page - 1) * rows, rows)

    def list_schedules(self) -> list[Scheduled]:
        """The schedules, by name."""
        return self.schedules.list()

    def preview(self, job: Job, folder: str) -> dict[str, Any]:
        """Plan a job and score ten rows. Raises what `batch.planned` raises."""
        return self._do("preview", {"job": job.to_json(), "folder": folder})

    def start(self, job: Job, folder: str, *, by: str, expected_run: str = "") -> dict[str, Any]:
        """Plan a job, which says the id of its run, and begin it; the plan.

        Raises:
            BasculeError: What planning raises. What the run itself raises is in its status.
        """
        plan = self.preview(job, folder)
        asked = {"job": job.to_json(), "folder": folder, "expected_run": expected_run}
        self._works.start(
            f"run {plan['run']}", lambda: self._do("run", asked), owner=by,
            key=f"run/{plan['run']}", lane="run",
        )  # fmt: skip
        return plan

    def resume(self, run: str, *, by: str) -> str:
        """Go on with a run that was killed, cancelled or failed; its whole id."""
        status = self.runs.get(run)
        if status.state in ("running", "done"):
            raise Conflict(f"run {status.run} is {status.state}", hint="nothing is left to do")
        whole, job, folder = self.runs.job(run)
        self.start(job, folder, by=by, expected_run=whole)
        return whole

    def run_schedule(self, name: str, *, by: str) -> str:
        """Run the job of a schedule now; the id of the run."""
        from bascule.batch import job_of

        schedule = self.schedules.get(name).schedule
        plan = self.start(job_of(schedule.job), schedule.folder, by=by)
        return str(plan["run"])

    def _do(self, task: str, asked: dict[str, Any]) -> dict[str, Any]:
        if self._do_task is None:
            raise NotFound("this server runs no jobs", hint="use bascule batch run")
        return self._do_task(task, asked)


def job_of_request(content: dict[str, Any]) -> Job:
    """The job of a request. Raises `Invalid`; a model must be one of the registry."""
    from bascule.batch import job_of

    job = job_of(content, "job")
    if job.model.startswith((".", "/", "~")) or job.model.endswith("/"):
        raise Invalid(
            f"model: {job.model!r} is a folder, and a server runs versions of its registry",
            hint="push the bundle, then name it: gb/3, gb@champion", field="model",
        )  # fmt: skip
    Reference.parse(job.model)
    return job


def add_batch(app: FastAPI, jobs: BatchJobs) -> None:
    """Add the routes to `app`."""
    _add_runs(app, jobs)
    _add_schedules(app, jobs)


def _add_runs(app: FastAPI, jobs: BatchJobs) -> None:
    @app.get("/api/v1/batch/runs", tags=[_TAGS])
    def runs(paged: Paged) -> Page[RunView]:
        """The runs of this machine, the latest first."""
        found = list(enumerate(jobs.runs.list()))
        return paged.page(found, lambda one: RunView(**one[1].to_json()), lambda one: one[0])

    @app.post("/api/v1/batch/runs", tags=[_TAGS], status_code=202)
    def start(wanted: NewRun, request: Request, response: Response) -> StartedView:
        """Begin a job. The same job on the same rows is the same run, which goes on."""
        job = job_of_request(wanted.job)
        if wanted.dry_run:
            return StartedView(**_fields(jobs.preview(job, os.getcwd())))
        plan = jobs.start(job, os.getcwd(), by=caller_of(request).user)
        response.headers["Location"] = f"/api/v1/batch/runs/{plan['run']}"
        return StartedView(**_fields(plan))

    @app.get("/api/v1/batch/runs/{run}", tags=[_TAGS])
    def one(run: str) -> RunView:
        """One run, by its id or its beginning."""
        return RunView(**jobs.runs.get(run).to_json())

    @app.get("/api/v1/batch/runs/{run}/log", tags=[_TAGS])
    def log(
        run: str, letters: Annotated[int, Query(ge=1, le=_LOG_LETTERS)] = 16_000
    ) -> dict[str, str]:
        """The end of what a run has logged."""
        return {"log": jobs.runs.log(run)[-letters:]}

    @app.post("/api/v1/batch/runs/{run}/{command}", tags=[_TAGS], status_code=202)
    def order(run: str, command: Literal["cancel", "resume"], request: Request) -> dict[str, str]:
        """Cancel a run after the batch under way, or go on with one that ended early."""
        if command == "cancel":
            return {"run": jobs.runs.cancel(run).run}
        return {"run": jobs.resume(run, by=caller_of(request).user)}


def _add_schedules(app: FastAPI, jobs: BatchJobs) -> None:
    @app.get("/api/v1/schedules", tags=[_TAGS])
    def schedules(paged: Paged) -> Page[ScheduleView]:
        """The schedules, by name."""
        found = jobs.schedules.list()
        return paged.page(
            found, lambda one: ScheduleView(**one.to_json()), lambda one: one.schedule.name
        )

    @app.get("/api/v1/schedules/{schedule}", tags=[_TAGS])
    def one(schedule: str) -> ScheduleView:
        """One schedule."""
        return ScheduleView(**jobs.schedules.get(schedule).to_json())

    @app.post("/api/v1/schedules/{schedule}/{command}", tags=[_TAGS])
    def order(
        schedule: str, command: Literal["pause", "resume", "remove", "run"], said: Command,
        request: Request,
    ) -> dict[str, str]:  # fmt: skip
        """Pause, resume or remove a schedule, or run its job now."""
        user = caller_of(request).user
        if command == "run":
            return {"schedule": schedule, "run": jobs.run_schedule(schedule, by=user)}
        act = getattr(jobs.schedules, command)
        act(schedule, by=user, reason=said.reason)
        return {"schedule": schedule}


def _fields(plan: dict[str, Any]) -> dict[str, Any]:
    return {name: plan[name] for name in StartedView.model_fields}
