"""`/monitoring/M`: drift, performance, data quality and alerts of a model in production.

The report takes seconds to measure: it is made in a process of its own, kept, and shown with the
time of its measurement. Alerts are read at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from bascule.console.calling import call
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.pages.monitoring_view import Report, report_of
from bascule.console.session import current
from bascule.console.site import Crumb, context_of, form_of, page_router, render, see
from bascule.core import BasculeError, NotFound, check_name, seconds_of
from bascule.monitoring.alerts import shown

if TYPE_CHECKING:
    from typing import Any

    from bascule.control import ControlContext, Work
    from bascule.monitoring.alerts import Silence

router = page_router(
    {
        "GET /monitoring": ("read", ""),
        "GET /monitoring/{model}": ("read", "{model}"),
        "GET /monitoring/{model}/report": ("read", "{model}"),
        "POST /monitoring/{model}/measure": ("read", "{model}"),
        "POST /monitoring/{model}/alerts/{alert}/acknowledge": ("write", "{model}"),
        "POST /monitoring/{model}/silences": ("write", "{model}"),
        "POST /monitoring/{model}/silences/{silence}/end": ("write", "{model}"),
    }
)

PERIODS = (1, 7, 30, 90)
_DAY_S = 86_400.0
_MAX_MODELS = 50
_Days = Annotated[int, Query(ge=1, le=400)]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model of the list, and its alerts."""

    name: str
    newest: str
    firing: int
    pending: int


@dataclass(frozen=True, slots=True)
class ModelsView:
    """Models with alerts first; `back` and `more` are queries of other pages, empty for none."""

    rows: Sequence[ModelRow]
    search: str
    back: str
    more: str


@dataclass(frozen=True, slots=True)
class ReportView:
    """The report of a model, or how far it is.

    Attributes:
        model: Its name.
        days: How far back.
        report: None while the first one is being measured, or where it failed.
        measured_at: When it was measured.
        busy_s: How long a measurement is under way; None if none is.
        problem: Why the latest measurement failed; empty if it did not.
        hint: The next step then.
    """

    model: str
    days: int
    report: Report | None
    measured_at: datetime | None
    busy_s: float | None
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class MonitoringView:
    """The page of a model."""

    model: str
    days: int
    periods: Sequence[int]
    alerts: Sequence[dict[str, Any]]
    resolved: Sequence[dict[str, Any]]
    silences: Sequence[Silence]
    report: ReportView
    may_act: bool


@router.get("/monitoring")
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
    found = [one for one in _names(context) if q.lower() in one.lower()]
    named = alarming_first([one for one in found if session.allows("read", one)], states)
    page = named[start : start + _MAX_MODELS]
    known = {one.name: one for one in context.registry().models(page)} if page else {}
    rows = [
        ModelRow(
            name, str(known[name].newest.number), states.get(name, []).count("firing"),
            states.get(name, []).count("pending"),
        )
        for name in page
        if name in known
    ]  # fmt: skip
    after = start + _MAX_MODELS
    more = urlencode({"q": q, "start": after}) if after < len(named) else ""
    back = urlencode({"q": q, "start": max(0, start - _MAX_MODELS)}) if start else ""
    view = ModelsView(rows, q, back, more)
    return render(request, "monitoring_models.html", view, title="Monitoring", crumbs=_crumbs())


def alarming_first(names: Sequence[str], states: Mapping[str, Sequence[str]]) -> list[str]:
    """Models with most firing alerts first, then with most pending ones, then by name. Pure."""

    def order(name: str) -> tuple[int, int, str]:
        said = states.get(name, ())
        return -list(said).count("firing"), -list(said).count("pending"), name

    return sorted(names, key=order)


@router.get("/monitoring/{model}")
def monitoring(request: Request, model: str, days: _Days = 7) -> Response:
    """The page; it starts the first measurement."""
    check_name(model)
    context, session = context_of(request), current(request)
    alerts = _alerts_of(context, model, resolved=True)
    view = MonitoringView(
        model, days, PERIODS,
        [one for one in alerts if one["state"] != "resolved"],
        [one for one in alerts if one["state"] == "resolved"][:10],
        _silences_of(context, model), _report(request, model, days, may_start=True),
        session.allows("write", model),
    )  # fmt: skip
    return render(request, "monitoring.html", view, title=model, crumbs=_crumbs(model))


@router.get("/monitoring/{model}/report")
def report(request: Request, model: str, days: _Days = 7) -> Response:
    """The part of the page that is measured, which the page asks for until it is there."""
    view = _report(request, check_name(model), days, may_start=False)
    return render(request, "monitoring_report.html", view, title=model)


@router.post("/monitoring/{model}/measure")
def measure(request: Request, model: str, days: _Days = 7) -> Response:
    """Measure again."""
    _measure(request, check_name(model), days)
    return see(request, f"/monitoring/{model}?days={days}")


@router.post("/monitoring/{model}/alerts/{alert}/acknowledge")
async def acknowledge(request: Request, model: str, alert: str, days: _Days = 7) -> Response:
    """Acknowledge an alert, with a reason."""
    why = field(form_of(request), "reason")
    operation = "PUT /api/v1/alerts/{alert}/acknowledgement"
    answer = await call(request, operation, {"alert": alert}, {"why": why})
    done = "Acknowledged: it is not repeated while it fires."
    return _seen(request, model, days, answer.problem, done)


@router.post("/monitoring/{model}/silences")
async def silence(request: Request, model: str, days: _Days = 7) -> Response:
    """Keep notifications back for some time: of an alert, or of the model."""
    form = form_of(request)
    until = datetime.now(UTC) + timedelta(seconds=seconds_of(field(form, "for"), "for"))
    said = {"model": model, "why": field(form, "reason"), "until": until.isoformat()}
    said |= {name: value for name in ("alert", "source") if (value := field(form, name))}
    answer = await call(request, "POST /api/v1/silences", body=said)
    return _seen(
        request, model, days, answer.problem, f"Silenced until {until:%Y-%m-%d %H:%M} UTC."
    )


@router.post("/monitoring/{model}/silences/{silence}/end")
async def end_silence(request: Request, model: str, silence: str, days: _Days = 7) -> Response:
    """End a silence now."""
    answer = await call(request, "DELETE /api/v1/silences/{silence}", {"silence": silence})
    return _seen(request, model, days, answer.problem, "The silence has ended.")


def _seen(request: Request, model: str, days: int, problem: str, done: str) -> Response:
    flash = Flash("bad", problem) if problem else Flash("good", done)
    return see(request, f"/monitoring/{model}?days={days}", flash)


def _report(request: Request, model: str, days: int, *, may_start: bool) -> ReportView:
    context = context_of(request)
    latest = context.works.latest(_key(model, days))
    if latest is None:
        if context.measure is None:
            return ReportView(
                model, days, None, None, None, "this server has no ledger",
                "run bascule up, or a server with monitoring.ledger",
            )  # fmt: skip
        if may_start:
            latest = _measure(request, model, days)
    return report_view(model, days, latest, context.works.done(_key(model, days)))


def report_view(model: str, days: int, latest: Work | None, done: Work | None) -> ReportView:
    """What is shown: the latest report that is done, and how the latest measurement goes. Pure."""
    busy_s = latest.seconds if latest is not None and not latest.is_done else None
    problem = None if latest is None else latest.problem
    made: Report | None = None if done is None else done.result
    at = None if done is None else datetime.fromtimestamp(done.ended_at or 0, UTC)
    return ReportView(
        model, days, made, at, busy_s, "" if problem is None else problem.message,
        "" if problem is None else problem.hint,
    )  # fmt: skip


def _measure(request: Request, model: str, days: int) -> Work:
    context = context_of(request)
    measure = context.measure
    if measure is None:
        raise NotFound("this server has no ledger", hint="run bascule up")
    return context.works.start(
        f"measuring {model}",
        lambda: report_of(measure("monitor", model, {"since_s": days * _DAY_S})),
        owner=current(request).subject, key=_key(model, days),
    )  # fmt: skip


def _key(model: str, days: int) -> str:
    return f"monitor/{model}/{days}"


def _names(context: ControlContext) -> Sequence[str]:
    try:
        return context.registry().model_names()
    except NotFound:
        return ()


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


def _crumbs(model: str = "") -> list[Crumb]:
    if not model:
        return [Crumb("Monitoring")]
    return [Crumb("Monitoring", "/monitoring"), Crumb(model)]
