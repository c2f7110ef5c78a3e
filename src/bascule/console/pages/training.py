"""`/training`: runs, also side by side; loops; the forms of runs, triggers and searches."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import Path, Query, Request, Response

from bascule.charts import Series, Svg, lines
from bascule.console.calling import act, call
from bascule.console.facts import job_of_person, model_names, schedules_of
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.paging import pager_of
from bascule.console.session import Session, current
from bascule.console.site import Crumb, PageRouter, console_of, context_of, form_of, render, see
from bascule.console.uploads import MAX_FILE_BYTES
from bascule.control import ControlContext
from bascule.core import NotFound, seconds_of
from bascule.jobs import Scheduled, Task, operations
from bascule.training import SEARCHED, Run, compared, loop_of, read_values

router = PageRouter()
_PAGE_ROWS, _RECENT, _MOST_BESIDE = 25, 200, 6
_STYLES = ("line", *(f"line c{number}" for number in range(1, 6)))
_DONE = {"pause": "The trigger is paused.", "resume": "The trigger looks again."}


class Curve(NamedTuple):
    """A chart of what runs have noted under a name: a line for each, coloured by its column."""

    name: str
    svg: Svg
    caption: str


# Of which model is in each run: asked then.
@router.page("GET /training", "read")
def training(request: Request, start: Annotated[int, Query(ge=0, le=10**6)] = 0) -> Response:
    """The runs, the latest first, and the triggers."""
    context, session = context_of(request), current(request)
    runs = _runs(context, session)
    return render(
        request, "training.html", "Training", crumbs=[Crumb("Training")],
        runs=runs[start : start + _PAGE_ROWS], triggers=_triggers(context, session),
        models=sorted({run.pipeline for run in runs if run.version}),
        pager=pager_of("/training", start, _PAGE_ROWS, len(runs)),
    )  # fmt: skip


@router.page("GET /training/runs", "read")
def runs(
    request: Request, run: Annotated[list[str], Query(min_length=1, max_length=_MOST_BESIDE)]
) -> Response:
    """Runs side by side: parameters, metrics, curves."""
    context, session = context_of(request), current(request)
    jobs = [job_of_person(context, session, name) for name in dict.fromkeys(run)]
    if any(job.kind != "train" for job in jobs):
        raise NotFound("this is no training run", hint="open /training for a list")
    chosen = [Run.of(job) for job in jobs]
    for pipeline in {shown.pipeline for shown in chosen}:
        session.check("read", pipeline)
    return render(
        request, "training_runs.html", "Runs", runs=chosen, rows=compared(chosen),
        curves=curves_of(chosen), styles=_STYLES,
        crumbs=[Crumb("Training", "/training"), Crumb(", ".join(shown.id[:8] for shown in chosen))],
    )  # fmt: skip


def curves_of(runs: Sequence[Run]) -> list[Curve]:
    """A chart for each name under which a run has noted more than one value. Pure."""
    curves = []
    names = {name for run in runs for name, curve in run.curves.items() if len(curve) > 1}
    for name in sorted(names):
        having = [(at, run) for at, run in enumerate(runs) if run.curves.get(name)]
        last = ", ".join(f"{run.curves[name][-1][1]:.4g} in {run.id[:8]}" for _, run in having)
        svg = lines(
            [
                Series([(step, value) for step, value in run.curves[name]], _STYLES[at])
                for at, run in having
            ],
            ("step", name), f"{name} by step: at the end {last}",
        )  # fmt: skip
        if svg is not None:
            curves.append(Curve(name, svg, f"At the end {last}."))
    return curves


@router.page("GET /training/loops/{model}", "read", "{model}")
def loop(request: Request, model: Annotated[str, Path(min_length=1, max_length=128)]) -> Response:
    """The champion of a model, its challengers, triggers, rollouts and runs."""
    context, session = context_of(request), current(request)
    story = loop_of(
        model, _runs(context, session), _triggers(context, session), context.registry(),
        context.endpoints(), context.rollouts(),
    )  # fmt: skip
    return render(
        request, "training_loop.html", f"The loop of {model}", loop=story,
        crumbs=[Crumb("Training", "/training"), Crumb(model)],
    )  # fmt: skip


@router.page("POST /training/runs", "deploy")
async def start(request: Request) -> Response:
    """Start a run of a pipeline on the server's machine."""
    form = form_of(request)
    if not (pipeline := field(form, "pipeline")):  # rights are about its name
        return see(request, "/training#start", Flash("bad", "Name the pipeline."))
    content = {
        "file": field(form, "file"), "pipeline": pipeline,
        "parameters": read_values(filter(str.strip, field(form, "parameters").splitlines())),
        "why": field(form, "why") or "by hand",
    }  # fmt: skip
    body = {"kind": "train", "input": content, "title": f"train {pipeline}"}
    answer = await call(request, operations.SUBMIT, body=body)
    if answer.problem:
        return see(request, "/training#start", Flash("bad", answer.problem))
    return see(request, f"/jobs/{answer.body['id']}", Flash("good", "The run is submitted."))


@router.page("GET /training/search", "write")
def table(request: Request, file: Annotated[str, Query(max_length=64)] = "") -> Response:
    """The form that sends a table; then that of a search in it, with its columns."""
    context, session = context_of(request), current(request)
    upload, columns = None, []
    if file:
        upload, path = console_of(request).uploads.find(file, session.subject)
        task = Task(kind="columns", input={"table": str(path)}, title=f"reading {upload.name}")
        columns = console_of(request).kept.get(upload, lambda: context.jobs().answer(task))
    return render(
        request, "search.html", "Search a model", upload=upload, columns=columns,
        metrics=SEARCHED, models=model_names(context, session), max_mb=MAX_FILE_BYTES >> 20,
        crumbs=[Crumb("Training", "/training"), Crumb("Search a model")],
    )  # fmt: skip


@router.page("POST /training/search", "write")
def search(request: Request) -> Response:
    """Start a search in a table that was sent; before a column is picked, show the columns."""
    form, session, runner = form_of(request), current(request), context_of(request).jobs()
    upload, path = console_of(request).uploads.find(field(form, "file"), session.subject)
    if not field(form, "target"):
        return see(request, f"/training/search?file={upload.id}")
    kind, texts = runner.kinds["automl"], ("target", "model", "metric", "time", "group")
    lines = {name: field(form, name).splitlines() for name in ("limits", "leave_out")}
    content = kind.parse(
        {name: field(form, name) for name in texts if field(form, name)}
        | {name: list(filter(None, map(str.strip, texts))) for name, texts in lines.items()}
        | {"budget_s": seconds_of(field(form, "budget") or "10m", "budget"), "table": str(path)}
    )
    session.check(kind.right, kind.model_of(content))
    job = runner.submit(Task(
        kind=kind.name, input=content, title=f"searching a model of {upload.name}",
        by=session.subject, host=socket.gethostname(),
    ))  # fmt: skip
    return see(request, f"/jobs/{job.id}", Flash("good", "The search is submitted."))


@router.page("POST /training/triggers/{trigger}/{command}", "manage")
async def command(request: Request, trigger: str, command: str) -> Response:
    """Pause or resume a trigger."""
    from bascule.batch import operations as of_batch

    if command not in _DONE:
        raise NotFound(f"triggers have no {command!r}", hint="use pause or resume")
    return await act(
        request, "/training", of_batch.COMMAND_SCHEDULE, {"schedule": trigger, "command": command},
        {"reason": field(form_of(request), "reason", max_length=1_024)}, done=_DONE[command],
    )  # fmt: skip


def _runs(context: ControlContext, session: Session) -> list[Run]:
    """The latest runs that a person may see."""
    runs = [Run.of(job) for job in context.jobs().find(kind="train", limit=_RECENT)]
    return [run for run in runs if session.allows("read", run.pipeline)]


def _triggers(context: ControlContext, session: Session) -> list[Scheduled]:
    return [
        trigger
        for trigger in schedules_of(context)
        if trigger.schedule.kind == "trigger"
        and session.allows("read", trigger.schedule.job["pipeline"] or "*")
    ]
