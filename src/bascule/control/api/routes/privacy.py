"""The routes about people: erase them, and give out what is held about them.

A subject is in the body alone: addresses are logged. No answer has it, for answers are kept.
"""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from bascule.control.api.conventions import Taken
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.jobs import Job, Task
from bascule.privacy import HeldPlaces, operations as of_privacy
from bascule.security import ANY

if TYPE_CHECKING:
    from collections.abc import Callable

    from bascule.jobs import JobRunner


class SubjectAsked(Taken):
    """A person."""

    subject: Annotated[str, Field(min_length=1, max_length=1_024)]
    field: Annotated[str, Field(min_length=1, max_length=256)]
    model: Annotated[str, Field(max_length=128)] = ANY


def add_privacy(app: FastAPI, open_jobs: Callable[[], JobRunner], authorise: Authorise) -> None:
    """Add the routes to `app`."""

    def task(kind: str, person: SubjectAsked, request: Request, **more: Any) -> Task:
        caller = caller_of(request)
        content = open_jobs().kinds["erasure"].parse(person.model_dump())
        return Task(
            kind=kind, input={**content, **more}, title=f"{kind} by {person.field}",
            by=caller.user, key=caller.key, host=socket.gethostname(),
        )  # fmt: skip

    @serves(app, of_privacy.ERASE)
    def erase(person: SubjectAsked, request: Request) -> Job:
        """Erase a person everywhere; a job, which ends with a signed proof."""
        authorise(request, "erase", person.model)
        job = open_jobs().submit(task("erasure", person, request))
        return replace(job.shown(), input={}, result=None)

    @serves(app, of_privacy.FIND_SUBJECT)
    def find(person: SubjectAsked, request: Request) -> HeldPlaces:
        """What an erasure would erase; nothing is changed."""
        authorise(request, "erase", person.model)
        return HeldPlaces(open_jobs().answer(task("held", person, request, is_export=False)))

    @serves(app, of_privacy.EXPORT_SUBJECT)
    def export(person: SubjectAsked, request: Request) -> Response:
        """What is held about a person, as lines of JSON."""
        authorise(request, "private", person.model)
        rows = open_jobs().answer(task("held", person, request, is_export=True))
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        return Response(
            lines, media_type="application/jsonl", headers={"Cache-Control": "no-store"}
        )
