"""The routes about jobs of every kind: submitted, listed, followed, commanded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from bascule.control.conventions import Page, Paged
from bascule.control.rights import Authorise, caller_of
from bascule.core import Refused
from bascule.jobs import Command, Job, Task

if TYPE_CHECKING:
    from bascule.jobs import JobRunner

_TAGS = "jobs"
_MAX_LOG = 1 << 20


class NewJob(BaseModel):
    """What is to be done."""

    model_config = {"extra": "forbid"}

    kind: Annotated[str, Field(max_length=64)]
    input: dict[str, Any]
    title: Annotated[str, Field(max_length=256)] = ""


class JobLog(BaseModel):
    """The end of a job's log."""

    log: str


def add_jobs(
    app: FastAPI, runner: Callable[[], JobRunner], authorise: Authorise,
    places: Sequence[str] | None,
) -> None:  # fmt: skip
    """Add the routes to `app`; `runner` raises `NotFound` where the server runs no jobs.

    Jobs of callers are held to `places`, unless that is None.
    """

    @app.get("/api/v1/jobs", tags=[_TAGS])
    def jobs(paged: Paged, kind: str = "", state: str = "") -> Page[Job]:
        """The jobs of the catalogue, the latest first, without results; of a kind or state."""
        kinds = runner().kinds

        def view(job: Job) -> Job:
            is_open = job.kind in kinds.places and not kinds[job.kind].is_private
            return replace(job.shown() if is_open else replace(job, input={}), result=None)

        found = runner().find(kind=kind, state=state)
        return paged.page(found, view, _created, descending=True)

    @app.post("/api/v1/jobs", tags=[_TAGS], status_code=201)
    def submit(new: NewJob, request: Request) -> Job:
        """Submit a job; it is queued, or runs already."""
        kind = runner().kinds[new.kind]
        if not kind.is_open:
            raise Refused(f"jobs of kind {new.kind} are started by the server and its pages alone")
        content = kind.parse(new.input)
        authorise(request, kind.right, kind.model_of(content))
        if places is not None:
            kind.confine(content, places, "")
        caller = caller_of(request)
        task = Task(
            kind=new.kind, input=content, title=new.title or new.kind, by=caller.user,
            key=caller.key, folder=os.getcwd(), is_confined=places is not None,
        )  # fmt: skip
        return runner().submit(task).shown()

    @app.get("/api/v1/jobs/{job}", tags=[_TAGS])
    def job(job: str, request: Request) -> Job:
        """How far a job is, what it was given, and its result."""
        return visible(job, request).shown()

    @app.get("/api/v1/jobs/{job}/log", tags=[_TAGS])
    def log(job: str, request: Request) -> JobLog:
        """What a job has logged, of a long log the end."""
        return JobLog(log=runner().log(visible(job, request).id)[-_MAX_LOG:])

    @app.post("/api/v1/jobs/{job}/{command}", tags=[_TAGS])
    def command(job: str, command: Command, request: Request) -> Job:
        """Cancel a job, go on with one that has ended early, or begin it again."""
        found, caller = visible(job, request), caller_of(request)
        kind = runner().kinds[found.kind]
        authorise(request, kind.right, kind.model_of(found.input))
        if places is not None and command != "cancel":
            kind.confine(found.input, places, found.folder)
        return runner().command(found.id, command, by=caller.user, key=caller.key).shown()

    def visible(job: str, request: Request) -> Job:
        found = runner().get(job)
        kind = runner().kinds[found.kind]
        caller = authorise(request, "read", kind.model_of(found.input))
        if kind.is_private and caller.user != found.by:
            raise Refused(f"job {found.id} is another person's", hint="submit one of your own")
        return found


def _created(job: Job) -> str:
    return f"{job.created_at.isoformat()} {job.id}"
