"""`/jobs` and `/jobs/JOB`: jobs of every kind, how far each is, its log, and what ends it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Query, Request, Response

from bascule.console.calling import act
from bascule.console.facts import job_of_person
from bascule.console.paging import pager_of
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, context_of, render
from bascule.jobs import Job, operations
from bascule.security import ANY
from bascule.training import Outcome

router = PageRouter()

_PAGE_ROWS = 25


@router.page("GET /jobs", "read", ANY)
def jobs(
    request: Request,
    kind: Annotated[str, Query(max_length=64)] = "",
    start: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Response:
    """The jobs of the catalogue, the latest first; of a kind."""
    runner = context_of(request).jobs()
    listed = runner.find(kind=kind, offset=start, limit=_PAGE_ROWS + 1)
    return render(
        request, "jobs.html", "Jobs", crumbs=[Crumb("Batch", "/batch"), Crumb("Jobs")],
        jobs=listed[:_PAGE_ROWS], kind=kind, kinds=list(runner.kinds.places),
        pager=pager_of("/jobs", start, _PAGE_ROWS, start + len(listed), kind=kind),
    )  # fmt: skip


@router.page("GET /jobs/{job}", "read")  # of which model is known by the job: asked then
def one_job(request: Request, job: str) -> Response:
    """A job."""
    context, session = context_of(request), current(request)
    work = job_of_person(context, session, job)
    kind = context.jobs().kinds[work.kind]
    about = kind.model_of(work.input)
    session.check("read", about)
    response = render(
        request, "job.html", work.title, job=work.shown(), log=context.jobs().log(work.id),
        crumbs=[Crumb("Batch", "/batch"), Crumb("Jobs", "/jobs"), Crumb(work.id[:12])],
        about=about, may_act=session.allows(kind.right, about), can_resume=kind.can_resume,
        search=search_of(work),
    )  # fmt: skip
    if work.is_ended and "hx-request" in request.headers:  # its heading and buttons change too
        response.headers["HX-Refresh"] = "true"
    return response


def search_of(job: Job) -> dict[str, Any] | None:
    """What a search for a model has found; None of other jobs. Pure.

    The chart is drawn again from the figures: no markup of the process of a job is shown.
    """
    if job.kind != "automl" or not job.result:
        return None
    return {**job.result, **msgspec.convert(job.result, Outcome).to_json()}


@router.page("POST /jobs/{job}/{command}", "manage")  # the API asks
async def command(request: Request, job: str, command: str) -> Response:
    """Cancel a job, go on with it, or begin it again."""
    names, done = {"job": job, "command": command}, f"The job: {command}."
    return await act(request, f"/jobs/{job}", operations.COMMAND, names, done=done)
