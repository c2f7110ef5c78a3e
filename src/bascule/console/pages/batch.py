"""`/batch` and `/batch/RUN`: runs of this machine, schedules, quality checks and quarantine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request, Response
from starlette.concurrency import run_in_threadpool

from bascule.console.calling import call
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.session import current
from bascule.console.site import Crumb, context_of, form_of, page_router, render, see
from bascule.core import BasculeError, Invalid, NotFound, Reference

if TYPE_CHECKING:
    from bascule.batch import Scheduled, Status

router = page_router(
    {
        "GET /batch": ("read", "*"),
        # Of which model is in the job: asked then, by the API or here.
        "POST /batch/runs": ("manage", ""),
        "GET /batch/{run}": ("read", ""),
        "GET /batch/{run}/progress": ("read", ""),
        "POST /batch/{run}/{command}": ("manage", ""),
        "POST /batch/schedules/{schedule}/{command}": ("manage", ""),
    }
)

_PAGE_ROWS = 25
_QUARANTINE_ROWS = 20
_LOG_LETTERS = 8_000
_OPTIONS = ("columns", "keep", "confidence", "key", "where", "limit", "max_quarantined", "checks",
            "warnings")  # fmt: skip
_DONE = {
    "cancel": "The run stops after the batch under way.", "resume": "The run goes on.",
    "pause": "The schedule is paused.", "remove": "The schedule is removed.",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule, when it runs next, and what its last run did."""

    name: str
    when: str
    state: str
    next_at: datetime | None
    last_at: datetime | None
    outcome: str
    is_paused: bool
    model: str


@dataclass(frozen=True, slots=True)
class BatchView:
    """The page; `back` and `more` are numbers of pages, 0 for none."""

    runs: Sequence[Status]
    schedules: Sequence[ScheduleRow]
    back: int
    more: int
    total: int
    models: Sequence[str]
    form: Mapping[str, str]
    plan: Mapping[str, Any] | None
    problem: str
    may_act: bool
    folder: str

    @property
    def is_detailed(self) -> bool:
        """Whether an option is filled in that the page shows on request."""
        return any(self.form.get(name) for name in _OPTIONS)


@dataclass(frozen=True, slots=True)
class RunView:
    """One run.

    Attributes:
        status: How far it is.
        share: Of its rows that are done, 0 to 1; None where the source does not know.
        rate: Rows a second.
        left_s: Seconds to its end at that rate; None if unknown.
        checks: What the job demands, and whether a finding or the error names it.
        quarantine: Rows that could not be scored, with the reason.
        job: The fields of the job that were set.
        log: The end of its log.
        may_act: Whether the person may cancel and resume.
    """

    status: Status
    share: float | None
    rate: float
    left_s: float | None
    checks: Sequence[tuple[str, str]]
    quarantine: Sequence[Mapping[str, Any]]
    job: Mapping[str, Any]
    log: str
    may_act: bool

    @property
    def is_live(self) -> bool:
        return self.status.state == "running"


@router.get("/batch")
def batch(request: Request, page: Annotated[int, Query(ge=1, le=1_000)] = 1) -> Response:
    """Runs, schedules, and the form of a new run."""
    return _batch(request, page)


def _batch(
    request: Request, page: int = 1, form: Mapping[str, str] | None = None,
    plan: Mapping[str, Any] | None = None, problem: str = "",
) -> Response:  # fmt: skip
    import os

    from bascule.batch import Schedules  # loads what reads tables

    context, session, now = context_of(request), current(request), datetime.now(UTC)
    runs: Sequence[Any] = ()
    total = 0
    if context.batch is not None:
        runs, total = context.batch.runs.page((page - 1) * _PAGE_ROWS, _PAGE_ROWS)
    scheduled = () if context.catalogue is None else Schedules(context.catalogue()).list()
    view = BatchView(
        runs, [schedule_row(one, now) for one in scheduled], page - 1,
        page + 1 if page * _PAGE_ROWS < total else 0, total, model_names(request), form or {},
        plan, problem, session.allows("manage", ""), os.getcwd(),
    )  # fmt: skip
    status = 422 if problem else 200
    return render(
        request, "batch.html", view, title="Batch", crumbs=[Crumb("Batch")], status=status
    )


def schedule_row(one: Scheduled, now: datetime) -> ScheduleRow:
    """What is shown of a schedule. Pure."""
    from bascule.batch import next_time

    schedule, outcome = one.schedule, one.outcome or {}
    said = str(outcome.get("error") or "")
    if not said and "rows" in outcome:
        said = f"{outcome['rows']:,} rows"
    state = "running" if one.is_under_way else "paused" if schedule.is_paused else "waiting"
    if state == "waiting":
        state = "failed" if outcome.get("error") else "done" if outcome else "planned"
    return ScheduleRow(
        schedule.name, f"{schedule.cron} {schedule.timezone}", state,
        None if schedule.is_paused else next_time(schedule, now), one.due, said,
        schedule.is_paused, str(schedule.job.get("model", "")),
    )  # fmt: skip


@router.post("/batch/runs")
async def start(request: Request) -> Response:
    """Show the plan of a run and ten rows, or begin it."""
    form = form_of(request)
    try:
        job = job_of_form(form)
        model_of(job["model"])
        if field(form, "act") != "start":
            plan = await run_in_threadpool(_plan, request, job)
            return await run_in_threadpool(_batch, request, 1, form, plan, "")
    except BasculeError as problem:
        return await run_in_threadpool(_batch, request, 1, form, None, str(problem))
    answer = await call(request, "POST /api/v1/batch/runs", body=job)
    if not answer.is_done:
        return await run_in_threadpool(_batch, request, 1, form, None, answer.problem)
    run = answer.body["run"]
    return see(request, f"/batch/{run}", Flash("good", f"Run {run} begins."))


def _plan(request: Request, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Plan a job and score ten rows, with the checks that a run of it has."""
    import os

    from bascule.batch import job_of

    context, job = context_of(request), job_of(content)
    current(request).check("manage", model_of(job.model))
    if context.batch is None or context.do_task is None:
        raise NotFound("this server runs no batch jobs", hint="use bascule batch run")
    if context.asks_for_keys:
        context.batch.check_places(job)
    return context.do_task("preview", {"job": job.to_json(), "folder": os.getcwd()})


def _asked_for(model: str) -> str:
    """The name that rights to a run are about; of a folder, all models."""
    try:
        return model_of(model)
    except Invalid:
        return "*"


def model_of(reference: str) -> str:
    """The model of a version of the registry. Raises `Invalid` for a folder."""
    if reference.startswith((".", "/", "~")) or reference.endswith("/"):
        raise Invalid(f"model: {reference!r} is a folder", hint="name a version: late/4")
    return Reference.parse(reference).model


def job_of_form(form: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a JOB.toml from those of the page: what is empty is left out. Pure.

    Raises:
        Invalid: A field is missing, or holds no number.
    """
    job: dict[str, Any] = {}
    for name, is_needed in (("model", True), ("from", True), ("to", True), ("mode", False),
                            ("where", False), ("key", False)):  # fmt: skip
        value = field(form, name)
        if is_needed and not value:
            raise Invalid(f"{name} is empty", hint="fill it in", field=name)
        if value:
            job[name] = value
    for name, kind in (("confidence", float), ("limit", int), ("max_quarantined", float)):
        if value := field(form, name):
            try:
                job[name] = kind(value)
            except ValueError:
                raise Invalid(f"{name}: {value!r} is no number", field=name) from None
    for name in ("columns", "keep"):
        if value := field(form, name):
            job[name] = [one.strip() for one in value.split(",") if one.strip()]
    for name in ("checks", "warnings"):
        if value := field(form, name):
            job[name] = [one.strip() for one in value.splitlines() if one.strip()]
    return job


@router.get("/batch/{run}")
def one_run(request: Request, run: str) -> Response:
    """A run."""
    view = _run(request, run)
    crumbs = [Crumb("Batch", "/batch"), Crumb(view.status.run)]
    return render(request, "batch_run.html", view, title=f"Run {view.status.run}", crumbs=crumbs)


@router.get("/batch/{run}/progress")
def progress(request: Request, run: str) -> Response:
    """The part of the page of a run that moves; when the run has ended, the page is loaded anew."""
    view = _run(request, run)
    response = render(request, "batch_progress.html", view, title=run)
    if not view.is_live:
        response.headers["HX-Refresh"] = "true"
    return response


@router.post("/batch/{run}/{command}")
async def order(request: Request, run: str, command: str) -> Response:
    """Cancel a run, or go on with it."""
    if command not in ("cancel", "resume"):
        raise NotFound(f"runs have no {command!r}", hint="use cancel or resume")
    names = {"run": run, "command": command}
    answer = await call(request, "POST /api/v1/batch/runs/{run}/{command}", names)
    return see(request, f"/batch/{run}", _flash(answer.problem, command))


@router.post("/batch/schedules/{schedule}/{command}")
async def schedule(request: Request, schedule: str, command: str) -> Response:
    """Pause, resume, remove or run a schedule."""
    names = {"schedule": schedule, "command": command}
    if command not in ("pause", "resume", "run"):
        raise NotFound(f"schedules have no {command!r}", hint="use pause, resume or run")
    body = {"reason": field(form_of(request), "reason", max_length=1_024)}
    answer = await call(request, f"POST /api/v1/schedules/{{schedule}}/{command}", names, body)
    if command == "run" and answer.is_done:
        run = answer.body["run"]
        return see(request, f"/batch/{run}", Flash("good", f"Run {run} of {schedule} begins."))
    problem = answer.problem
    said = "The schedule runs again." if command == "resume" else _DONE.get(command, "")
    return see(request, "/batch", Flash("bad", problem) if problem else Flash("good", said))


def _flash(problem: str, command: str) -> Flash:
    return Flash("bad", problem) if problem else Flash("good", _DONE.get(command, command))


def _run(request: Request, run: str) -> RunView:
    batch = context_of(request).batch
    if batch is None:
        raise NotFound("this server runs no batch jobs", hint="use bascule batch show")
    runs = batch.runs
    status = runs.get(run)
    about, session = _asked_for(status.model), current(request)
    session.check("read", about)
    _, job, _ = runs.job(status.run)
    quarantine = runs.quarantined(status.run, _QUARANTINE_ROWS) if status.quarantined else []
    may_act = session.allows("manage", about)
    set_fields = {name: value for name, value in job.to_json().items() if value}
    return run_view(
        status, set_fields, quarantine, runs.log(status.run)[-_LOG_LETTERS:], may_act=may_act
    )


def run_view(
    status: Status, job: Mapping[str, Any], quarantine: Sequence[Mapping[str, Any]], log: str,
    *, may_act: bool,
) -> RunView:  # fmt: skip
    """The page of a run, from facts. Pure."""
    rate = status.rows / max(status.seconds, 1e-3)
    share = left_s = None
    if status.expected_rows:
        share = min(1.0, status.rows / status.expected_rows)
        left_s = (status.expected_rows - status.rows) / rate if rate else None
    checks = []
    for text in (*job.get("checks", ()), *job.get("warnings", ())):
        found = next((one for one in (*status.findings, status.error) if text in one), "")
        kind = "failed" if text in job.get("checks", ()) else "warning"
        checks.append(
            (text, kind if found else "passed" if status.state == "done" else "not judged")
        )
    is_live = status.state == "running"
    return RunView(
        status, share, rate, left_s if is_live else None, checks, quarantine, job, log, may_act
    )


def model_names(request: Request, most: int = 200) -> list[str]:
    """Models that the person may read, for lists of suggestions."""
    session = current(request)
    try:
        found = context_of(request).registry().model_names()
    except BasculeError:
        return []
    return list(islice((one for one in found if session.allows("read", one)), most))
