"""`/monitoring/M`: drift, performance, data quality and alerts of a model in production.

Alerts are read at each request. The report takes seconds to measure: it is a job, and is shown with
the time of its measurement. A page that is opened has it measured again where it is old.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from starlette.concurrency import run_in_threadpool

from bascule.console.calling import Answer, act, call
from bascule.console.facts import model_names
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.pages.deploy import TABLES, take_file
from bascule.console.paging import pager_of
from bascule.console.session import current
from bascule.console.site import (
    Crumb,
    PageRouter,
    console_of,
    context_of,
    form_of,
    render,
    see,
)
from bascule.core import BasculeError, Invalid, NotFound, check_name, seconds_of
from bascule.jobs import QUEUED, RUNNING, Task
from bascule.monitoring.alerts import operations, shown
from bascule.monitoring.ledger import operations as of_outcomes
from bascule.monitoring.reporting import report_of

if TYPE_CHECKING:
    from typing import Any

    from bascule.control import ControlContext
    from bascule.jobs import Job
    from bascule.monitoring.alerts import Silence

router = PageRouter()

PERIODS = (1, 7, 30, 90)
_DAY_S = 86_400.0
FRESH_S = 300.0
"""A page shows a measurement of this age without a new one."""
_MAX_DUTY = 0.1
"""The share of time for which open pages may have a model measured."""
_MAX_MODELS = 25
_submitting = threading.Lock()
_Days = Annotated[int, Query(ge=1, le=400)]


@router.page("GET /monitoring", "read")
def models(
    request: Request,
    q: Annotated[str, Query(max_length=128)] = "",
    start: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Response:
    """Every model that the person may read, and its alerts."""
    context, session = context_of(request), current(request)
    states: dict[str, list[str]] = {}
    for alert in _alerts_of(context, None):
        states.setdefault(alert["model"], []).append(alert["state"])
    found = [one for one in model_names(context, session) if q.lower() in one.lower()]
    named = alarming_first(found, states)[start : start + _MAX_MODELS]
    known = context.registry().models(named) if named else ()
    newest = {one.name: one.newest.number for one in known}
    rows = [
        (name, newest[name], *(states.get(name, []).count(one) for one in ("firing", "pending")))
        for name in named
        if name in newest
    ]
    pager = pager_of("/monitoring", start, _MAX_MODELS, len(found), q=q)
    return render(
        request, "monitoring_models.html", "Monitoring", crumbs=[Crumb("Monitoring")], rows=rows,
        search=q, pager=pager,
    )  # fmt: skip


def alarming_first(names: Sequence[str], states: Mapping[str, Sequence[str]]) -> list[str]:
    """Models with most firing alerts first, then with most pending ones, then by name. Pure."""

    def order(name: str) -> tuple[int, int, str]:
        said = states.get(name, ())
        return -list(said).count("firing"), -list(said).count("pending"), name

    return sorted(names, key=order)


@router.page("GET /monitoring/{model}", "read", "{model}")
def monitoring(request: Request, model: str, days: _Days = 7) -> Response:
    """The page; it has the model measured where that is due."""
    check_name(model)
    context = context_of(request)
    if "hx-request" not in request.headers:  # else a page that stays open follows its alerts
        _measure_if_due(request, model, days)
    alerts = _alerts_of(context, model, resolved=True)
    return render(
        request, "monitoring.html", model,
        crumbs=[Crumb("Monitoring", "/monitoring"), Crumb(model)],
        model=model, days=days, periods=PERIODS, **_report(context, model, days),
        resolved=[one for one in alerts if one["state"] == "resolved"][:10],
        silences=_silences_of(context, model), most_bytes=of_outcomes.ADD_OUTCOMES.max_body_bytes,
    )  # fmt: skip


@router.page("GET /monitoring/{model}/report", "read", "{model}")
def report(request: Request, model: str, days: _Days = 7) -> Response:
    """The part of the page that is measured, which the page asks for until it is there."""
    _measure_if_due(request, check_name(model), days)
    found = _report(context_of(request), model, days)
    return render(request, "monitoring_report.html", model, model=model, days=days, **found)


@router.page("POST /monitoring/{model}/measure", "read", "{model}")
def measure(request: Request, model: str, days: _Days = 7) -> Response:
    """Measure again."""
    _measure(request, check_name(model), days)
    return see(request, _path(model, days))


@router.page("POST /monitoring/{model}/truths/files", "outcome", "{model}")
async def truth_files(
    request: Request, model: str, name: Annotated[str, Query(max_length=512)]
) -> Response:
    """Take in a table of truths; the answer is its id."""
    check_name(model)
    return await take_file(request, name, TABLES)


@router.page("POST /monitoring/{model}/truths", "outcome", "{model}")
async def truths(request: Request, model: str, days: _Days = 7) -> Response:
    """Keep the truths of a table: rollouts and performance count them within seconds."""
    form = form_of(request)
    if not field(form, "file"):
        raise Invalid("no file was sent", hint="choose a file; sending one needs JavaScript")
    upload, path = console_of(request).uploads.find(field(form, "file"), current(request).subject)
    if upload.size_bytes > of_outcomes.ADD_OUTCOMES.max_body_bytes:
        raise Invalid(f"{upload.name} is too large", hint="bascule outcomes import takes it")
    columns = {f"{name}_column": field(form, name, max_length=256) for name in ("id", "truth")}
    table = await run_in_threadpool(path.read_bytes)
    answer = await call(
        request, of_outcomes.ADD_OUTCOMES, {"model": model}, table,
        content_type="text/csv" if upload.suffix == ".csv" else "application/vnd.apache.parquet",
        query=urlencode(columns),
    )  # fmt: skip
    return see(request, _path(model, days), _kept(model, answer))


def _kept(model: str, answer: Answer) -> Flash:
    if answer.problem:
        return Flash("bad", answer.problem)
    kept, refused = f"{answer.body['taken']:,} truths of {model} are kept", answer.body["refused"]
    if not refused:
        return Flash("good", f"{kept}.")
    first = f"row {refused[0]['index'] + 1}: {refused[0]['reason']}"
    return Flash("bad", f"{kept}, and {len(refused):,} are refused; {first}")


@router.page("POST /monitoring/{model}/alerts/{alert}/acknowledge", "write", "{model}")
async def acknowledge(request: Request, model: str, alert: str, days: _Days = 7) -> Response:
    """Acknowledge an alert, with a reason."""
    body = {"why": field(form_of(request), "reason")}
    operation, done = operations.ACKNOWLEDGE, "Acknowledged: it is not repeated while it fires."
    return await act(request, _path(model, days), operation, {"alert": alert}, body, done=done)


@router.page("POST /monitoring/{model}/silences", "write", "{model}")
async def silence(request: Request, model: str, days: _Days = 7) -> Response:
    """Keep notifications back for some time: of an alert, or of the model."""
    form = form_of(request)
    until = datetime.now(UTC) + timedelta(seconds=seconds_of(field(form, "for"), "for"))
    said = {"model": model, "why": field(form, "reason"), "until": until.isoformat()}
    said |= {name: value for name in ("alert", "source") if (value := field(form, name))}
    done = f"Silenced until {until:%Y-%m-%d %H:%M} UTC."
    return await act(request, _path(model, days), operations.SILENCE, body=said, done=done)


@router.page("POST /monitoring/{model}/silences/{silence}/end", "write", "{model}")
async def end_silence(request: Request, model: str, silence: str, days: _Days = 7) -> Response:
    """End a silence now."""
    operation, names = operations.END_SILENCE, {"silence": silence}
    return await act(request, _path(model, days), operation, names, done="The silence has ended.")


def _path(model: str, days: int) -> str:
    return f"/monitoring/{model}?days={days}"


def is_due(latest: Job | None, now: datetime) -> bool:
    """Whether a page that is opened now needs a new measurement. Pure.

    One that failed counts as well: what has no answers is not measured at every look.
    """
    if latest is None or not latest.is_ended:
        return latest is None
    ended_at = latest.ended_at or latest.updated_at
    took_s = (ended_at - (latest.started_at or ended_at)).total_seconds()
    return (now - ended_at).total_seconds() > max(FRESH_S, took_s / _MAX_DUTY)


def alerting(alerts: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """By version and column: the state of the open alert about it, `firing` before others. Pure."""
    ordered = sorted(alerts, key=lambda one: one["state"] == "firing")
    return {(one["version"], one["column"]): one["state"] for one in ordered if one["column"]}


def _report(context: ControlContext, model: str, days: int) -> dict[str, Any]:
    """The open alerts, how a measurement goes, and the report of the latest one that is done."""
    measured = _measured(context, model, days)
    done = next((job for job in measured if job.result is not None), None)
    under_way = _under_way(context, model)
    alerts = [one for one in _alerts_of(context, model) if one["state"] != "resolved"]
    return {
        "work": under_way or (measured[0] if measured else None),
        "report": None if done is None else report_of(done.result),
        "measured_at": None if done is None else done.ended_at,
        "alerts": alerts, "alerting": alerting(alerts),
    }  # fmt: skip


def _measured(context: ControlContext, model: str, days: int) -> list[Job]:
    """The measurements, the latest first."""
    return context.jobs().find(kind="monitor", subject=f"{model}/{days}")


def _under_way(context: ControlContext, model: str) -> Job | None:
    """The measurement of a model that waits or runs, of any period."""
    jobs = context.jobs()
    found = [job for state in (RUNNING, QUEUED) for job in jobs.find(kind="monitor", stored=state)]
    return next(
        (job for job in found if job.input.get("model") == model and not job.is_ended), None
    )


def _measure_if_due(request: Request, model: str, days: int) -> None:
    context = context_of(request)
    if context.parts.home is None:
        return
    measured = _measured(context, model, days)
    if is_due(measured[0] if measured else None, datetime.now(UTC)):
        _measure(request, model, days)


def _measure(request: Request, model: str, days: int) -> None:
    """Have a period of a model measured, unless a measurement of the model is under way."""
    context = context_of(request)
    with _submitting:
        if _under_way(context, model) is None:
            context.jobs().submit(Task(
                kind="monitor", input={"model": model, "since_s": days * _DAY_S},
                title=f"measuring drift and performance of {model}, {days} days",
                by=current(request).subject, subject=f"{model}/{days}", host=socket.gethostname(),
            ))  # fmt: skip


def _alerts_of(
    context: ControlContext, model: str | None, *, resolved: bool = False
) -> list[dict[str, Any]]:
    try:
        found = context.alerts().alerts(resolved=resolved, model=model)
    except NotFound:
        return []
    return [shown(one) | {"since": one.since, "acknowledged": one.acknowledgement} for one in found]


def _silences_of(context: ControlContext, model: str) -> list[Silence]:
    from fnmatch import fnmatchcase

    try:
        found = context.alerts().silences(datetime.now(UTC))
    except BasculeError:
        return []
    return [one for one in found if fnmatchcase(model, one.model)]
