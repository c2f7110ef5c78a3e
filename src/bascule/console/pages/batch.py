"""`/batch` and `/batch/RUN`: runs, schedules, quality checks and quarantine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastapi import Query, Request, Response
from starlette.concurrency import run_in_threadpool

from bascule.batch import operations
from bascule.bundle.extras import parameters_in, read_texts
from bascule.console.calling import act, call
from bascule.console.facts import schedules_of, suggested_models, version_named
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.paging import pager_of
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, context_of, form_of, render, see
from bascule.core import BasculeError, Invalid, NotFound
from bascule.jobs import Task
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.batch import Status
    from bascule.control import ControlContext
    from bascule.jobs import Schedule, Scheduled

router = PageRouter()

_PAGE_ROWS = 25
_QUARANTINE_ROWS = 20
_LOG_LETTERS = 8_000
_OF_RUNS = {"cancel": "The run stops after the batch under way.", "resume": "The run goes on."}
_OF_SCHEDULES = {"pause": "The schedule is paused.", "resume": "The schedule runs again."}


def _parts(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _lines(text: str) -> list[str]:
    return [one.strip() for one in text.splitlines() if one.strip()]


def _pairs(text: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in _lines(text))
    return {name.strip(): value.strip() for name, _, value in pairs}


class Option(NamedTuple):
    """A field of a job that the page shows on request.

    Attributes:
        name: As in a JOB.toml.
        label: For people.
        hint: What the empty field shows.
        read: From the text of the field to the value.
        choices: The values that it may have; any if empty.
    """

    name: str
    label: str
    hint: str = ""
    read: Callable[[str], Any] = str
    choices: Sequence[str] = ()

    @property
    def has_lines(self) -> bool:
        return self.read in (_lines, _pairs)

    @property
    def keyboard(self) -> str:
        """For phones."""
        return "numeric" if self.read is int else "decimal" if self.read is float else "text"


_NEEDED = ("model", "from", "to")
OPTIONS = (
    Option("columns", "Answers to write", "all: prediction, interval", _parts),
    Option("keep", "Columns of the source to write too", "all", _parts),
    Option("prefix", "What the names of added columns begin with", "to score a scored table again"),
    Option("ignore", "Columns that are no input, of a model without names", "id", _parts),
    Option("where", "Only rows where (SQL)", "distance > 100"),
    Option("query", "SQL in place of a table", "SELECT …"),
    Option("key", "Key of the rows"),
    Option("limit", "At most so many rows", "all", int),
    Option("partition_by", "Columns whose values are partitions", "day, country", _parts),
    Option("format", "Format of files", "parquet", choices=("parquet", "csv", "jsonl", "arrow")),
    Option("delimiter", "CSV: between values", ","),
    Option("encoding", "CSV: encoding", "utf-8"),
    Option("decimal_point", "CSV: decimal point", "."),
    Option("nulls", "CSV: words that are no value", "NA, -", _parts),
    Option("types", "CSV: types of columns, one a line", "id=text", _pairs),
    Option("memory_mb", "Memory in MB", "1000", int),
    Option("workers", "Chunks side by side", "one per core", int),
    Option("retries", "How often a chunk is tried again", "4", int),
    Option("max_quarantined", "Share of rows that may fail", "0.01", float),
    Option("record", "For monitoring", "profile", choices=("profile", "rows", "off")),
    Option("checks", "Checks that stop the run, one a line", "missing(age) <= 0.1", _lines),
    Option("warnings", "Checks that warn, one a line", "", _lines),
)


@router.page("GET /batch", "read", "*")
def batch(request: Request, start: Annotated[int, Query(ge=0, le=10**6)] = 0) -> Response:
    """Runs, schedules, and the form of a new run."""
    return _batch(request, start)


def _batch(
    request: Request, start: int = 0, form: Mapping[str, str] | None = None,
    plan: Mapping[str, Any] | None = None, problem: BasculeError | None = None,
) -> Response:  # fmt: skip
    from bascule.batch import Runs
    from bascule.jobs import next_time

    context, session, now = context_of(request), current(request), datetime.now(UTC)
    runs: Sequence[Status] = ()
    total = 0
    with suppress(NotFound):
        runs, total = Runs(context.jobs()).page(start, _PAGE_ROWS)
    schedules = [
        (
            one,
            state_of(one),
            None if one.schedule.is_paused else next_time(one.schedule, now),
            _about(context, one.schedule),
        )
        for one in schedules_of(context)
    ]
    form, fields = form or {}, (*(one.name for one in OPTIONS), *_parameter_names())
    return render(
        request, "batch.html", "Batch", crumbs=[Crumb("Batch")], status=422 if problem else 200,
        runs=runs, total=total, pager=pager_of("/batch", start, _PAGE_ROWS, total),
        schedules=schedules, models=suggested_models(context, session), form=form, plan=plan,
        is_detailed=any(map(form.get, fields)), problem=problem,
        parameters=parameters_in("batch"), options=OPTIONS, folder=os.getcwd(),
    )  # fmt: skip


def _about(context: ControlContext, schedule: Schedule) -> str:
    """The model that the rights to a schedule are about; all where its kind is not known."""
    kinds = context.jobs().kinds
    return kinds[schedule.kind].model_of(schedule.job) if schedule.kind in kinds.places else ANY


def state_of(one: Scheduled) -> str:
    """What a schedule does, or what its last run did. Pure."""
    if one.is_under_way:
        return "running"
    if one.schedule.is_paused:
        return "paused"
    if one.outcome is None:
        return "planned"
    return "failed" if one.outcome.get("error") else "done"


# Of which model is in the job: asked then, by the API or here.
@router.page("POST /batch/runs", "manage")
async def start(request: Request) -> Response:
    """Show the plan of a run and ten rows, or begin it."""
    form = form_of(request)
    try:
        job = job_of_form(form)
        version_named(job["model"])
        if field(form, "act") != "start":
            plan = await run_in_threadpool(_plan, request, job)
            return await run_in_threadpool(_batch, request, 0, form, plan)
    except BasculeError as problem:
        return await run_in_threadpool(_batch, request, 0, form, None, problem)
    answer = await call(request, operations.START, body=job)
    if not answer.is_done:
        return await run_in_threadpool(_batch, request, 0, form, None, Invalid(answer.problem))
    run = answer.body["run"]
    return see(request, f"/batch/{run}", Flash("good", f"Run {run} begins."))


def _plan(request: Request, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Plan a job and score ten rows, with the checks that a run of it has."""
    from bascule.batch import job_of

    context, job = context_of(request), job_of(content)
    current(request).check("manage", version_named(job.model).model)
    if context.places is not None:
        context.places.check(job)
    plan: Mapping[str, Any] = context.jobs().answer(Task(
        kind="preview", input=job.to_json(), title="preview", folder=os.getcwd(),
        is_confined=context.asks_for_keys,
    ))  # fmt: skip
    return plan


def job_of_form(form: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a JOB.toml from those of the page: what is empty is left out. Pure.

    Raises:
        Invalid: A field is missing, or holds no number.
    """
    job: dict[str, Any] = {}
    readers = {one.name: one.read for one in OPTIONS}
    for name in (*_NEEDED, "mode", *readers):
        value, read = field(form, name), readers.get(name, str)
        if value:
            try:
                job[name] = read(value)
            except ValueError:
                raise Invalid(f"{name}: {value!r} is no number", field=name) from None
        elif name in _NEEDED:
            raise Invalid(f"{name} is empty", hint="fill it in", field=name)
    parameters = read_texts({name: field(form, name) for name in _parameter_names()})
    return job | ({"parameters": parameters} if parameters else {})


def _parameter_names() -> list[str]:
    return [parameter.name for parameter in parameters_in("batch")]


@router.page("GET /batch/{run}", "read")
def one_run(request: Request, run: str) -> Response:
    """A run."""
    return _run(request, run, "batch_run.html")


@router.page("GET /batch/{run}/progress", "read")
def progress(request: Request, run: str) -> Response:
    """The part of the page of a run that moves; when the run has ended, the page is loaded anew."""
    return _run(request, run, "batch_progress.html")


@router.page("POST /batch/{run}/{command}", "manage")
async def order(request: Request, run: str, command: str) -> Response:
    """Cancel a run, or go on with it."""
    if command not in _OF_RUNS:
        raise NotFound(f"runs have no {command!r}", hint="use cancel or resume")
    names = {"run": run, "command": command}
    done = _OF_RUNS[command]
    return await act(request, f"/batch/{run}", operations.COMMAND, names, done=done)


@router.page("POST /batch/schedules/{schedule}/{command}", "manage")
async def schedule(request: Request, schedule: str, command: str) -> Response:
    """Pause, resume or run a schedule."""
    names = {"schedule": schedule}
    if command == "run":
        due = field(form_of(request), "due", max_length=64)
        answer = await call(request, operations.RUN_NOW, names, {"due": due} if due else {})
        if answer.problem:
            return see(request, "/batch", Flash("bad", answer.problem))
        run = answer.body["run"]
        return see(request, f"/batch/{run}", Flash("good", f"Run {run} of {schedule} begins."))
    if command not in _OF_SCHEDULES:
        raise NotFound(f"schedules have no {command!r}", hint="use pause, resume or run")
    body = {"reason": field(form_of(request), "reason", max_length=1_024)}
    names, done = {**names, "command": command}, _OF_SCHEDULES[command]
    return await act(request, "/batch", operations.COMMAND_SCHEDULE, names, body, done=done)


def _run(request: Request, run: str, template: str) -> Response:
    from bascule.batch import Runs

    runs, session = Runs(context_of(request).jobs()), current(request)
    status, about = runs.get(run), "*"
    with suppress(Invalid):  # of a folder, rights are about all models
        about = version_named(status.model).model
    session.check("read", about)
    job = runs.job(status.run)[1].to_json()
    share, rate, left_s = progress_of(status)
    response = render(
        request, template, f"Run {status.run}",
        crumbs=[Crumb("Batch", "/batch"), Crumb(status.run)], run=status,
        share=share, rate=rate, left_s=left_s, checks=checks_of(status, job),
        quarantine=runs.quarantined(status.run, _QUARANTINE_ROWS) if status.quarantined else (),
        job={name: value for name, value in job.items() if value},
        log=runs.log(status.run)[-_LOG_LETTERS:], about=about,
    )  # fmt: skip
    if template == "batch_progress.html" and status.state != "running":
        response.headers["HX-Refresh"] = "true"
    return response


def progress_of(status: Status) -> tuple[float | None, float, float | None]:
    """The share of the rows that is done, rows a second, and the seconds that are left. Pure.

    None where the source does not say how many rows it has, and where nothing is left to do.
    """
    rate = status.rows / max(status.seconds, 1e-3)
    if not status.expected_rows:
        return None, rate, None
    left_s = (status.expected_rows - status.rows) / rate if rate else None
    share = min(1.0, status.rows / status.expected_rows)
    return share, rate, left_s if status.state == "running" else None


def checks_of(status: Status, job: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """What a job demands, and whether a finding or the error names it. Pure."""
    said = (*status.findings, status.error)
    done = "passed" if status.state == "done" else "not judged"
    return [
        (text, found if any(text in one for one in said) else done)
        for name, found in (("checks", "failed"), ("warnings", "warning"))
        for text in job.get(name, ())
    ]
