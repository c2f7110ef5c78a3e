"""`/ledger`: finds a recorded prediction: what was asked, answered and true; and asks it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from bascule.console.forms import field
from bascule.console.pages.batch import model_names, model_of
from bascule.console.session import current
from bascule.console.site import Crumb, context_of, form_of, page_router, render, see
from bascule.core import BasculeError, Invalid, NotFound, check_name

if TYPE_CHECKING:
    from bascule.control import Work
    from bascule.monitoring import Recorded

router = page_router({"GET /ledger": ("read", ""), "GET /ledger/asked": ("read", ""),
                      "POST /ledger/ask": ("read", "")})  # fmt: skip

_PAGE_ROWS = 25
_HOURS = {"1h": 1, "24h": 24, "7d": 168, "30d": 720, "all": 87_600}
NONE = "\u2013"
"""In place of a value that is not there."""
_SET_PARTS = ("prediction_set", "lower", "upper")
"""Outputs that are a prediction set or an interval: they are shown beside the answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """One row of a list: the row's fields, and the address of its page."""

    facts: Mapping[str, Any]
    path: str


@dataclass(frozen=True, slots=True)
class Difference:
    """An output then and now.

    Attributes:
        output: Its name.
        rows: In how many rows the bits differ.
        largest: The largest absolute difference; None where it is no number.
        pairs: The first rows: the value then, the value now, and whether they are the same.
    """

    output: str
    rows: int
    largest: float | None
    pairs: Sequence[tuple[str, str, bool]]


@dataclass(frozen=True, slots=True)
class Again:
    """A prediction that is asked again: under way, failed, or with its differences."""

    id: str
    work: str
    busy_s: float | None
    problem: str = ""
    hint: str = ""
    on: str = ""
    version: str = ""
    rows: int = 0
    is_same: bool = False
    differences: Sequence[Difference] = ()


@dataclass(frozen=True, slots=True)
class PredictionView:
    """One request.

    Attributes:
        recorded: What the ledger has.
        inputs: By field, its value in each row.
        outputs: The same of the answer, without sets and intervals.
        sets: Prediction sets and intervals, by row; empty without any.
        versions: Others that can be asked.
        again: The latest time it was asked again; None if it was not.
    """

    recorded: Recorded
    inputs: Sequence[tuple[str, Sequence[str]]]
    outputs: Sequence[tuple[str, Sequence[str]]]
    sets: Sequence[str]
    versions: Sequence[str]
    again: Again | None

    @property
    def path(self) -> str:
        return "/ledger?" + urlencode({"id": self.recorded.id})


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The page: the search, and what it found."""

    model: str
    version: str
    span: str
    until: str
    spans: Sequence[str]
    models: Sequence[str]
    rows: Sequence[Found]
    back: str
    more: str
    problem: str
    hint: str
    prediction: PredictionView | None
    asked_id: str


@router.get("/ledger")
def ledger(
    request: Request,
    prediction: Annotated[str, Query(alias="id", max_length=520)] = "",
    model: Annotated[str, Query(max_length=128)] = "",
    version: Annotated[str, Query(max_length=64)] = "",
    span: Annotated[str, Query(max_length=8)] = "24h",
    until: Annotated[str, Query(max_length=40)] = "",
    page: Annotated[int, Query(ge=1, le=40)] = 1,
    work: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """One prediction by its id, or the latest of a model."""
    found, rows, problem, hint = None, list[Found](), "", ""
    try:
        if prediction:
            found = _prediction(request, prediction.strip(), work)
        elif model:
            rows = _rows(request, model, version, span, until, page)
    except BasculeError as error:
        problem, hint = error.message, error.hint
    query = {"model": model, "version": version, "span": span, "until": until}
    view = LedgerView(
        model, version, span, until, tuple(_HOURS), model_names(request), rows[:_PAGE_ROWS],
        _address(query, page - 1), _address(query, page + 1) if len(rows) > _PAGE_ROWS else "",
        problem, hint, found, prediction,
    )  # fmt: skip
    crumbs = [Crumb("Ledger", "/ledger"), Crumb(prediction)] if found else [Crumb("Ledger")]
    title = f"Prediction {prediction}" if found else "Ledger"
    return render(
        request, "ledger.html", view, title=title, crumbs=crumbs, status=422 if problem else 200
    )


@router.post("/ledger/ask")
def ask(request: Request) -> Response:
    """Ask a prediction again, of its own version or of another one."""
    form = form_of(request)
    context, session = context_of(request), current(request)
    asked, on = field(form, "id", max_length=520), field(form, "on", max_length=512)
    found = context.predictions.find(asked)
    session.check("manage", str(found.facts["model"]))
    if on:
        session.check("read", model_of(on))
    measure = context.measure
    if measure is None:
        raise NotFound("this server loads no models", hint="use bascule replay")
    work = context.works.start(
        f"asking {found.id} again", lambda: measure("replay", asked, {"on": on}),
        owner=session.subject,
    )  # fmt: skip
    return see(request, "/ledger?" + urlencode({"id": asked, "work": work.id}) + "#again")


@router.get("/ledger/asked")
def asked(
    request: Request,
    prediction: Annotated[str, Query(alias="id", max_length=520)],
    work: Annotated[str, Query(max_length=64)],
) -> Response:  # fmt: skip
    """The part of the page that waits for the answer of now."""
    found = _work_of(request, work)
    return render(request, "ledger_again.html", again_view(prediction, found), title=prediction)


def _work_of(request: Request, work: str) -> Work:
    found = context_of(request).works.get(work)
    if found.owner != current(request).subject:
        raise Invalid("this answer was asked for by another person", hint="ask again yourself")
    return found


def _prediction(request: Request, prediction: str, work: str) -> PredictionView:
    context, session = context_of(request), current(request)
    found = context.predictions.find(prediction)
    model = str(found.facts["model"])
    session.check("manage", model)
    try:
        versions = [str(one) for one in context.registry().versions(model)][-50:][::-1]
    except BasculeError:  # served from a folder
        versions = []
    own = f"{model}/{found.facts['version']}"
    again = again_view(found.id, _work_of(request, work)) if work else None
    return prediction_view(found, [one for one in versions if one != own], again)


def _rows(
    request: Request, model: str, version: str, span: str, until: str, page: int
) -> list[Found]:
    current(request).check("manage", check_name(model))
    if span not in _HOURS:
        raise Invalid(f"span: {span!r} is not known", hint=f"use {', '.join(_HOURS)}")
    end = moment_of(until) if until else datetime.now(UTC) + timedelta(seconds=1)
    found = context_of(request).predictions.latest(
        model, since=end - timedelta(hours=_HOURS[span]), until=end, version=version,
        limit=_PAGE_ROWS + (page < 40), offset=(page - 1) * _PAGE_ROWS,
    )  # fmt: skip
    return [
        Found(one, "/ledger?" + urlencode({"id": f"{one['id']}#{one['row']}"})) for one in found
    ]


def moment_of(text: str) -> datetime:
    """A time of a form: without a zone it is UTC. Raises `Invalid`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(
            f"until: {text!r} is no time", hint="write 2026-11-26T15:00, in UTC", field="until"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def prediction_view(
    found: Recorded, versions: Sequence[str], again: Again | None
) -> PredictionView:
    """The page of one request, from facts. Pure."""
    outputs = _by_field(found.outputs)
    sets = [(name, values) for name, values in outputs if name.startswith(_SET_PARTS)]
    shown = []
    for row in range(len(found.outputs)):
        parts = {name: values[row] for name, values in sets}
        shown.append(_set_of(parts))
    return PredictionView(
        found, _by_field(found.inputs),
        [one for one in outputs if one not in sets], shown if sets else [], versions, again,
    )  # fmt: skip


def _set_of(parts: Mapping[str, str]) -> str:
    if "lower" in parts and "upper" in parts:
        return f"{parts['lower']} to {parts['upper']}"
    return ", ".join(f"{name}: {value}" for name, value in parts.items())


def again_view(prediction: str, work: Work) -> Again:
    """What is shown of a prediction that is asked again. Pure."""
    if work.problem is not None:
        return Again(prediction, work.id, None, work.problem.message, work.problem.hint)
    if work.result is None:
        return Again(prediction, work.id, work.seconds)
    made = work.result
    return Again(
        prediction, work.id, None, on=made["on"], version=made["version"],
        rows=made["rows"], is_same=made["is_same"],
        differences=[
            Difference(name, differing, made["largest"].get(name),
                       list(_pairs(made["then"][name], made["now"][name])))
            for name, differing in made["differing"].items()
        ],
    )  # fmt: skip


def _pairs(then: Sequence[Any], now: Sequence[Any]) -> Sequence[tuple[str, str, bool]]:
    pairs = zip(then[:20], now[:20], strict=True)
    return [(cell(before), cell(after), before == after) for before, after in pairs]


def _by_field(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [(name, [cell(row.get(name)) for row in rows]) for name in names]


def cell(value: Any) -> str:
    """A value as a cell shows it: six digits of a number, and a dash for a missing one."""
    if value is None or value != value:
        return NONE
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(cell(one) for one in value[:16])
        return f"[{shown}{', …' if len(value) > 16 else ''}]"
    return str(value)


def _address(query: Mapping[str, str], page: int) -> str:
    if not page:
        return ""
    said = {name: value for name, value in query.items() if value}
    return "/ledger?" + urlencode({**said, "page": page})
