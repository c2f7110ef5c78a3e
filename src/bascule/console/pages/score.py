"""`/score`: a CSV or Parquet file in, ten rows to look at, the scored file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.responses import FileResponse

from bascule.console.forms import field
from bascule.console.pages.batch import model_names, model_of
from bascule.console.pages.deploy import take_file
from bascule.console.pages.try_it import confidence_of
from bascule.console.session import current
from bascule.console.site import Crumb, console_of, context_of, form_of, page_router, render, see
from bascule.console.uploads import MAX_FILE_BYTES, Upload
from bascule.core import Invalid, NotFound

if TYPE_CHECKING:
    from bascule.batch import Job
    from bascule.control import Work

router = page_router(
    {
        "GET /score": ("read", ""),
        "POST /score": ("infer", ""),  # of which model is in the form: asked then
        "POST /score/files": ("infer", ""),
        "GET /score/working": ("read", ""),
        "GET /score/result": ("infer", ""),
    }
)

TABLES = (".csv", ".parquet")
_MAX_QUARANTINED = 1.0
"""Rows that cannot be scored are shown, and do not keep the others back."""


@dataclass(frozen=True, slots=True)
class ScoreView:
    """The page.

    Attributes:
        models: Suggestions.
        model: That was chosen.
        confidence: Of prediction sets; empty for none.
        upload: The file; None before one was sent.
        step: `choose`, `preview` or `score`.
        busy_s: How long the step is under way; None if it is done.
        work: Its id.
        problem: Why it failed.
        columns: Of the preview.
        rows: Ten rows, scored.
        total: Rows of the file, where it says so.
        scored: Rows that were scored; None before.
        quarantined: Rows that could not be.
        run: The id of the run.
    """

    models: Sequence[str]
    model: str
    confidence: str
    form: str = "csv"
    upload: Upload | None = None
    step: str = "choose"
    busy_s: float | None = None
    work: str = ""
    problem: str = ""
    hint: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    total: int | None = None
    scored: int | None = None
    quarantined: int = 0
    run: str = ""
    max_mb: int = MAX_FILE_BYTES >> 20

    @property
    def query(self) -> str:
        """The state of the page as an address has it."""
        file = self.upload.id if self.upload else ""
        said = {"model": self.model, "confidence": self.confidence, "file": file,
                "form": self.form, "work": self.work}  # fmt: skip
        return urlencode({name: value for name, value in said.items() if value})


@router.get("/score")
def score(
    request: Request,
    model: Annotated[str, Query(max_length=512)] = "",
    confidence: Annotated[str, Query(max_length=32)] = "",
    form: Annotated[str, Query(max_length=8)] = "csv",
    file: Annotated[str, Query(max_length=64)] = "",
    work: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The form, the preview, or the result: as the address says."""
    view = _view(request, model, confidence, form, file, work)
    return render(request, "score.html", view, title="Score a file", crumbs=_crumbs(),
                  status=422 if view.problem else 200)  # fmt: skip


@router.get("/score/working")
def working(
    request: Request,
    model: Annotated[str, Query(max_length=512)] = "",
    confidence: Annotated[str, Query(max_length=32)] = "",
    form: Annotated[str, Query(max_length=8)] = "csv",
    file: Annotated[str, Query(max_length=64)] = "",
    work: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The part of the page that waits."""
    view = _view(request, model, confidence, form, file, work)
    return render(request, "score_step.html", view, title="Score a file")


@router.post("/score/files")
async def files(request: Request, name: Annotated[str, Query(max_length=512)]) -> Response:
    """Take in one table; the answer is its id."""
    return await take_file(request, name, TABLES)


@router.post("/score")
def begin(request: Request) -> Response:
    """Score ten rows for a look, or all of them."""
    form, context, session = form_of(request), context_of(request), current(request)
    model = _model(request, field(form, "model", max_length=512))
    if not field(form, "file"):
        raise Invalid("no file was sent", hint="choose a file; sending one needs JavaScript")
    upload, path = console_of(request).uploads.find(field(form, "file"), session.subject)
    kind = field(form, "form") or "csv"
    said = field(form, "confidence")
    job = job_of_upload(model, path, kind, confidence_of(said))
    is_all, do_task = field(form, "act") == "score", context.do_task
    if do_task is None:
        raise NotFound("this server scores no files", hint="use bascule batch run")
    asked = {"job": job.to_json(), "folder": str(path.parent), "by": session.subject}
    work = context.works.start(
        f"scoring {upload.name}" if is_all else f"scoring ten rows of {upload.name}",
        lambda: do_task("run" if is_all else "preview", asked), owner=session.subject,
        lane="run" if is_all else "quick",
    )  # fmt: skip
    query = urlencode({"model": model, "confidence": said, "form": kind, "file": upload.id,
                       "work": work.id})  # fmt: skip
    return see(request, f"/score?{query}#result")


@router.get("/score/result")
def result(
    request: Request, file: Annotated[str, Query(max_length=64)],
    form: Annotated[str, Query(max_length=8)] = "csv",
) -> Response:  # fmt: skip
    """The scored file."""
    upload, path = console_of(request).uploads.find(file, current(request).subject)
    made = path.with_name(f"scored.{_kind(form)}")
    if not made.exists():
        raise NotFound("the file is not scored yet", hint="score it first")
    name = f"{Path(upload.name).stem}-scored.{form}"
    return FileResponse(made, filename=name, media_type="application/octet-stream")


def job_of_upload(model: str, path: Path, kind: str, confidence: float | None) -> Job:
    """The batch job that scores a file into a neighbour of it. Pure."""
    from bascule.batch import job_of

    content: dict[str, Any] = {
        "model": model, "from": str(path), "to": str(path.with_name(f"scored.{_kind(kind)}")),
        "mode": "replace", "max_quarantined": _MAX_QUARANTINED,
    }  # fmt: skip
    return job_of(content | ({} if confidence is None else {"confidence": confidence}))


def _kind(form: str) -> str:
    if form not in ("csv", "parquet"):
        raise Invalid(f"form: {form!r} is not known", hint="use csv or parquet", field="form")
    return form


def _model(request: Request, reference: str) -> str:
    current(request).check("infer", model_of(reference))
    return reference


def _view(
    request: Request, model: str, confidence: str, form: str, file: str, work: str
) -> ScoreView:
    names = model_names(request)
    if not file:
        return ScoreView(names, model, confidence, _kind(form))
    upload, _ = console_of(request).uploads.find(file, current(request).subject)
    found = context_of(request).works.get(work) if work else None
    if found is not None and found.owner != current(request).subject:
        raise NotFound("this was asked for by another person", hint="score the file yourself")
    return score_view(names, model, confidence, _kind(form), upload, found)


def score_view(
    models: Sequence[str], model: str, confidence: str, form: str, upload: Upload,
    work: Work | None,
) -> ScoreView:  # fmt: skip
    """The page with a file, from facts. Pure."""
    view = ScoreView(models, model, confidence, form, upload)
    if work is None:
        return view
    made: dict[str, Any] = work.result or {}
    is_preview = "preview" in made or "ten rows" in work.title
    problem = work.problem
    return ScoreView(
        models, model, confidence, form, upload, "preview" if is_preview else "score",
        None if work.is_done else work.seconds, work.id,
        "" if problem is None else problem.message, "" if problem is None else problem.hint,
        made.get("columns", ()), made.get("preview", ()), made.get("rows") if is_preview else None,
        None if is_preview else made.get("rows"), made.get("quarantined", 0), made.get("run", ""),
    )  # fmt: skip


def _crumbs() -> list[Crumb]:
    return [Crumb("Score a file")]
