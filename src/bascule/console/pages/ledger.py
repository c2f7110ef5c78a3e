"""`/ledger`: finds a recorded prediction: what was asked, answered and true; and asks it again."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from bascule.console.facts import job_of_person, suggested_models, version_named
from bascule.console.forms import field
from bascule.console.paging import pager_of
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, context_of, form_of, render, see
from bascule.console.words import cell
from bascule.core import BasculeError, Invalid, check_name, in_utc
from bascule.documents import Plot
from bascule.jobs import Task

router = PageRouter()

_PAGE_ROWS = 25
_MAX_ROWS = 1_000
_MAX_VERSIONS = 50
_HOURS = {"1h": 1, "24h": 24, "7d": 168, "30d": 720, "all": 87_600}
_WRITTEN_WITHIN_S = 2.0
_SET_PARTS = ("prediction_set", "lower", "upper")
"""Outputs that are a prediction set or an interval: they are shown beside the answer."""


@router.page("GET /ledger", "manage")
def ledger(
    request: Request,
    prediction: Annotated[str, Query(alias="id", max_length=520)] = "",
    model: Annotated[str, Query(max_length=128)] = "",
    version: Annotated[str, Query(max_length=64)] = "",
    span: Annotated[str, Query(max_length=8)] = "24h",
    until: Annotated[str, Query(max_length=40)] = "",
    start: Annotated[int, Query(ge=0, le=_MAX_ROWS - _PAGE_ROWS)] = 0,
    work: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """One prediction by its id, or the latest of a model."""
    rows, problem = list[dict[str, Any]](), None
    try:
        if prediction:
            return _prediction(request, prediction.strip(), work)
        if model:
            rows = _rows(request, model, version, span, until, start)
        else:
            context_of(request).predictions.prepare()  # while the form is filled in
    except BasculeError as error:
        problem = error
    pager = pager_of(
        "/ledger", start, _PAGE_ROWS, start + len(rows),
        model=model, version=version, span=span, until=until,
    )  # fmt: skip
    return render(
        request, "ledger.html", "Ledger", crumbs=[Crumb("Ledger")], status=422 if problem else 200,
        asked_id=prediction, model=model, version=version, span=span, until=until,
        spans=tuple(_HOURS), models=suggested_models(context_of(request), current(request)),
        rows=rows[:_PAGE_ROWS], pager=pager, problem=problem,
    )  # fmt: skip


@router.page("POST /ledger/ask", "manage")
def ask(request: Request) -> Response:
    """Ask a prediction again, of its own version or of another one."""
    form = form_of(request)
    context, session = context_of(request), current(request)
    asked, on = field(form, "id", max_length=520), field(form, "on", max_length=512)
    found = context.predictions.find(asked, session.check)
    if on:
        session.check("read", version_named(on).model)
    work = context.jobs().submit(Task(
        kind="replay", input={"id": asked, "on": on}, title=f"asking {found.id} again",
        by=session.subject, host=socket.gethostname(),
    ))  # fmt: skip
    return see(request, "/ledger?" + urlencode({"id": asked, "work": work.id}) + "#again")


@router.page("GET /ledger/asked", "manage")
def asked(
    request: Request,
    prediction: Annotated[str, Query(alias="id", max_length=520)],
    work: Annotated[str, Query(max_length=64)],
) -> Response:  # fmt: skip
    """The part of the page that waits for the answer of now."""
    found = job_of_person(context_of(request), current(request), work)
    return render(request, "ledger_again.html", prediction, id=prediction, work=found)


@router.page("GET /ledger/explained", "manage")
def explained(
    request: Request, prediction: Annotated[str, Query(alias="id", max_length=520)]
) -> Response:
    """What each column added to a recorded answer, by the version that gave it: run for this."""
    context, figures, problem = context_of(request), list[Plot](), ""
    check = current(request).check
    check("manage", str(context.predictions.find(prediction, check).facts["model"]))
    try:
        task = Task(kind="explain", input={"id": prediction}, title=f"explaining {prediction}")
        figures = [Plot(**plot) for plot in context.jobs().answer(task)]
    except BasculeError as error:
        problem = f"{error}. {error.hint}" if error.hint else str(error)
    return render(request, "plots.html", prediction, figures=figures, problem=problem)


def _prediction(request: Request, prediction: str, work: str) -> Response:
    context, session = context_of(request), current(request)
    found = context.predictions.find(prediction, session.check, within_s=_WRITTEN_WITHIN_S)
    model = str(found.facts["model"])
    own, versions = f"{model}/{found.facts['version']}", list[str]()
    with suppress(BasculeError):  # served from a folder
        versions = [str(one) for one in context.registry().versions(model)[::-1][:_MAX_VERSIONS]]
    outputs = by_field(found.outputs)
    return render(
        request, "prediction.html", f"Prediction {prediction}",
        crumbs=[Crumb("Ledger", "/ledger"), Crumb(prediction)],
        id=found.id, recorded=found, facts=found.facts, inputs=by_field(found.inputs),
        outputs=[one for one in outputs if not one[0].startswith(_SET_PARTS)],
        sets=[one for one in outputs if one[0].startswith(_SET_PARTS)],
        versions=[one for one in versions if one != own],
        work=job_of_person(context, session, work) if work else None,
    )  # fmt: skip


def _rows(
    request: Request, model: str, version: str, span: str, until: str, start: int
) -> list[dict[str, Any]]:
    """The rows of a page, and one more if there is a next page."""
    current(request).check("manage", check_name(model))
    if span not in _HOURS:
        raise Invalid(f"span: {span!r} is not known", hint=f"use {', '.join(_HOURS)}")
    end = moment_of(until) if until else datetime.now(UTC) + timedelta(seconds=1)
    return context_of(request).predictions.latest(
        model, since=end - timedelta(hours=_HOURS[span]), until=end, version=version,
        limit=min(_PAGE_ROWS + 1, _MAX_ROWS - start), offset=start,
    )  # fmt: skip


def moment_of(text: str) -> datetime:
    """A time of a form: without a zone it is UTC. Raises `Invalid`."""
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise Invalid(
            f"until: {text!r} is no time", hint="write 2026-11-26T15:00, in UTC", field="until"
        ) from None


def by_field(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """By field, its value in each row, as cells show them. Pure."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [(name, [cell(row.get(name)) for row in rows]) for name in names]
