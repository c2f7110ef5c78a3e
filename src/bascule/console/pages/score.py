"""`/score`: a CSV or Parquet file in, ten rows to look at, the scored file out."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from bascule.bundle.extras import parameters_in, read_texts
from bascule.console.facts import job_of_person, suggested_models, version_named
from bascule.console.forms import field
from bascule.console.pages.deploy import TABLES, take_file
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, console_of, context_of, form_of, render, see
from bascule.console.uploads import MAX_FILE_BYTES
from bascule.core import Invalid, NotFound
from bascule.jobs import Task

if TYPE_CHECKING:
    from bascule.batch import Job

router = PageRouter()

_MAX_QUARANTINED = 1.0
"""Rows that cannot be scored are shown, and do not keep the others back."""
_Form = Literal["csv", "parquet"]


class Asked(BaseModel):
    """The state of the page as its address has it, with the parameters of extra outputs.

    Attributes:
        model: That was chosen.
        form: Of the result.
        file: The id of the upload; empty before one was sent.
        act: Whether ten rows are scored for a look, or all.
        work: The id of that work.
    """

    model_config = {"extra": "allow"}

    model: Annotated[str, Field(max_length=512)] = ""
    form: _Form = "csv"
    file: Annotated[str, Field(max_length=64)] = ""
    act: Literal["preview", "score"] = "preview"
    work: Annotated[str, Field(max_length=64)] = ""

    @property
    def query(self) -> str:
        return urlencode({name: value for name, value in self.model_dump().items() if value})


@router.page("GET /score", "infer")
def score(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """The form, the preview, or the result: as the address says."""
    return _page(request, asked, "score.html")


@router.page("GET /score/working", "infer")
def working(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """The part of the page that waits."""
    return _page(request, asked, "score_step.html")


def _page(request: Request, asked: Asked, template: str) -> Response:
    context, session = context_of(request), current(request)
    upload = work = None
    if asked.file:
        upload, _ = console_of(request).uploads.find(asked.file, session.subject)
        work = job_of_person(context, session, asked.work) if asked.work else None
    is_refused = template == "score.html" and work is not None and work.problem is not None
    return render(
        request, template, "Score a file", crumbs=[Crumb("Score a file")],
        status=422 if is_refused else 200, asked=asked, upload=upload, work=work,
        parameters=parameters_in("batch"), texts=asked.model_extra or {},
        models=suggested_models(context, session), max_mb=MAX_FILE_BYTES >> 20,
    )  # fmt: skip


@router.page("POST /score/files", "infer")
async def files(request: Request, name: Annotated[str, Query(max_length=512)]) -> Response:
    """Take in one table; the answer is its id."""
    return await take_file(request, name, TABLES)


@router.page("POST /score", "infer")  # of which model is in the form: asked then
def begin(request: Request) -> Response:
    """Score ten rows for a look, or all of them."""
    form, context, session = form_of(request), context_of(request), current(request)
    model = field(form, "model", max_length=512)
    session.check("infer", version_named(model).model)
    if not field(form, "file"):
        raise Invalid("no file was sent", hint="choose a file; sending one needs JavaScript")
    upload, path = console_of(request).uploads.find(field(form, "file"), session.subject)
    texts = {one.name: field(form, one.name) for one in parameters_in("batch")}
    kind = field(form, "form") or "csv"
    job = job_of_upload(model, path, kind, read_texts(texts))
    is_all = field(form, "act") == "score"
    work = context.jobs().submit(Task(
        kind="batch" if is_all else "preview", input=job.to_json(), by=session.subject,
        title=f"scoring {'' if is_all else 'ten rows of '}{upload.name}", folder=str(path.parent),
        host=socket.gethostname(),
    ))  # fmt: skip
    query = urlencode({"model": model, **texts, "form": kind, "file": upload.id,
                       "act": "score" if is_all else "preview", "work": work.id})  # fmt: skip
    return see(request, f"/score?{query}#result")


@router.page("GET /score/result", "infer")
def result(
    request: Request, file: Annotated[str, Query(max_length=64)], form: _Form = "csv"
) -> Response:
    """The scored file."""
    upload, path = console_of(request).uploads.find(file, current(request).subject)
    made = path.with_name(f"scored.{form}")
    if not made.exists():
        raise NotFound("the file is not scored yet", hint="score it first")
    name = f"{Path(upload.name).stem}-scored.{form}"
    return FileResponse(made, filename=name, media_type="application/octet-stream")


def job_of_upload(model: str, path: Path, kind: str, parameters: Mapping[str, Any]) -> Job:
    """The batch job that scores a file into a neighbour of it. Pure."""
    from bascule.batch import job_of

    if kind not in ("csv", "parquet"):
        raise Invalid(f"form: {kind!r} is not known", hint="use csv or parquet", field="form")
    content: dict[str, Any] = {
        "model": model, "from": str(path), "to": str(path.with_name(f"scored.{kind}")),
        "mode": "replace", "max_quarantined": _MAX_QUARANTINED,
        "record": "off",  # a file for trial is no production
        "parameters": dict(parameters),
    }  # fmt: skip
    return job_of(content)
