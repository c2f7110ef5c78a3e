"""The routes about jobs of every kind: submitted, listed, followed, commanded."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from pydantic import Field

from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, loopback_only, serves
from bascule.core import Refused
from bascule.jobs import Command, Job, Log, Task, operations as of_jobs

if TYPE_CHECKING:
    from bascule.jobs import JobRunner

_MAX_LOG = 1 << 20


class NewJob(Taken):
    """What is to be done."""

    kind: Annotated[str, Field(max_length=64)]
    input: dict[str, Any]
    title: Annotated[str, Field(max_length=256)] = ""


@dataclass(frozen=True, slots=True)
class Submissions:
    """What callers submit, at once or by a schedule.

    Attributes:
        runner: Raises `NotFound` where the server runs no jobs.
        authorise: Raises `Refused` unless the caller may do this to a model.
        places: Where jobs of callers may read and write; None for anywhere.
    """

    runner: Callable[[], JobRunner]
    authorise: Authorise
    places: Sequence[str] | None

    def checked(
        self, name: str, content: Mapping[str, Any], request: Request, folder: str = ""
    ) -> Mapping[str, Any]:
        """The input of a job of a kind; its paths are relative to `folder`, or the server's.

        Raises:
            NotFound: There is no such kind.
            Invalid: The input is none of this kind.
            Refused: The caller may not do this, or not there.
        """
        kind = self.runner().kinds[name]
        if not kind.is_open:
            raise Refused(f"jobs of kind {name} are started by the server and its pages alone")
        parsed = kind.parse(content)
        self.authorise(request, kind.right, kind.model_of(parsed))
        if self.places is not None:
            kind.confine(parsed, self.places, folder)
        return parsed

    def submit(
        self, name: str, content: Mapping[str, Any], request: Request, *, title: str = "",
        folder: str = "",
    ) -> Job:  # fmt: skip
        """Submit a job of the caller; raises as `checked` does, and `Overloaded`."""
        caller = caller_of(request)
        task = Task(
            kind=name, input=self.checked(name, content, request, folder), title=title,
            by=caller.user, key=caller.key, folder=folder or os.getcwd(),
            is_confined=self.places is not None, host=socket.gethostname(),
        )  # fmt: skip
        return self.runner().submit(task)

    def visible(self, job: str, request: Request) -> Job:
        """A job that the caller may see; raises `NotFound` and `Refused`.

        A private one is of its key, since names are given again; without keys, of this machine.
        """
        found = self.runner().get(job)
        kind = self.runner().kinds[found.kind]
        caller = self.authorise(request, "read", kind.model_of(found.input))
        if kind.is_private and (caller.key, caller.user) != (found.key, found.by):
            raise Refused(f"job {found.id} is another person's", hint="submit one of your own")
        if kind.is_private and not (caller.key or caller.session):
            loopback_only(request, "read", kind.model_of(found.input))
        return found

    def command(self, job: Job, command: Command, request: Request) -> Job:
        """Cancel a job, or run it again for the caller; raises as `checked` does."""
        caller, kind = caller_of(request), self.runner().kinds[job.kind]
        self.authorise(request, kind.right, kind.model_of(job.input))
        if self.places is not None and command != "cancel":
            kind.confine(job.input, self.places, job.folder)
        return self.runner().command(job.id, command, by=caller.user, key=caller.key)


def add_jobs(app: FastAPI, submissions: Submissions) -> None:
    """Add the routes to `app`."""
    runner, visible = submissions.runner, submissions.visible

    @serves(app, of_jobs.JOBS)
    def jobs(paged: Paged, kind: str = "", state: str = "") -> Page[Job]:
        """The jobs of the catalogue, the latest first, without results; of a kind or state."""
        kinds = runner().kinds

        def view(job: Job) -> Job:
            is_open = job.kind in kinds.places and not kinds[job.kind].is_private
            return replace(job.shown() if is_open else replace(job, input={}), result=None)

        found = runner().find(kind=kind, state=state)
        return paged.page(found, _created, view, descending=True)

    @serves(app, of_jobs.SUBMIT)
    def submit(new: NewJob, request: Request) -> Job:
        """Submit a job; it is queued, or runs already."""
        return submissions.submit(new.kind, new.input, request, title=new.title).shown()

    @serves(app, of_jobs.JOB)
    def job(job: str, request: Request) -> Job:
        """How far a job is, what it was given, and its result."""
        return visible(job, request).shown()

    @serves(app, of_jobs.LOG)
    def log(job: str, request: Request) -> Log:
        """What a job has logged, of a long log the end."""
        return Log(log=runner().log(visible(job, request).id)[-_MAX_LOG:])

    @serves(app, of_jobs.COMMAND)
    def command(job: str, command: Command, request: Request) -> Job:
        """Cancel a job, go on with one that has ended early, or begin it again."""
        return submissions.command(visible(job, request), command, request).shown()


def _created(job: Job) -> str:
    return f"{job.created_at.isoformat()} {job.id}"
