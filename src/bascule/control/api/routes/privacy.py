"""The routes about people: erase them, and give out what is held about them.

A subject is in the body alone: addresses are logged. No answer has it, for answers are kept.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.core import NotFound
from bascule.jobs import Task
from bascule.privacy import ErasureShown, HeldPlaces, operations as of_privacy
from bascule.security import ANY

if TYPE_CHECKING:
    from collections.abc import Callable

    from bascule.jobs import JobRunner

_KIND = "erasure"


class SubjectAsked(Taken):
    """A person."""

    subject: Annotated[str, Field(min_length=1, max_length=1_024)]
    field: Annotated[str, Field(min_length=1, max_length=256)]
    model: Annotated[str, Field(max_length=128)] = ANY


def add_privacy(app: FastAPI, open_jobs: Callable[[], JobRunner], authorise: Authorise) -> None:
    """Add the routes to `app`."""

    def task(kind: str, asked: SubjectAsked, request: Request, **more: Any) -> Task:
        caller = caller_of(request)
        content = open_jobs().kinds[_KIND].parse(asked.model_dump())
        return Task(
            kind=kind, input={**content, **more}, title=f"{kind} by {asked.field}",
            by=caller.user, key=caller.key, host=socket.gethostname(),
        )  # fmt: skip

    @serves(app, of_privacy.ERASE)
    def erase(asked: SubjectAsked, request: Request) -> ErasureShown:
        """Erase a person everywhere; a job, which ends with a signed proof."""
        authorise(request, "erase", asked.model)
        return ErasureShown.of(open_jobs().submit(task(_KIND, asked, request)))

    @serves(app, of_privacy.ERASURES)
    def erasures(paged: Paged) -> Page[ErasureShown]:
        """The erasures, the latest first."""
        found = open_jobs().find(kind=_KIND)
        return paged.page(found, lambda job: f"{job.created_at.isoformat()} {job.id}",
                          ErasureShown.of, descending=True)  # fmt: skip

    @serves(app, of_privacy.ERASURE)
    def erasure(erasure: str) -> ErasureShown:
        """How far an erasure is, and its proof."""
        job = open_jobs().get(erasure)
        if job.kind != _KIND:
            raise NotFound(f"no erasure {erasure!r}", hint="list the erasures")
        return ErasureShown.of(job)

    @serves(app, of_privacy.FIND_SUBJECT)
    def find(asked: SubjectAsked, request: Request) -> HeldPlaces:
        """What an erasure would erase; nothing is changed."""
        authorise(request, "erase", asked.model)
        return HeldPlaces(open_jobs().answer(task("held", asked, request, is_export=False)))

    @serves(app, of_privacy.EXPORT_SUBJECT)
    def export(asked: SubjectAsked, request: Request) -> Response:
        """What is held about a person, as lines of JSON."""
        authorise(request, "private", asked.model)
        rows = open_jobs().answer(task("held", asked, request, is_export=True))
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        return Response(
            lines, media_type="application/jsonl", headers={"Cache-Control": "no-store"}
        )
