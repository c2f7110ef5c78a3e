"""`/endpoints` and `/endpoints/E`: the plan, what it does now, and its rollout as a story."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from fastapi import Path, Query, Request, Response

from bascule.charts import Route, Svg, split
from bascule.console.calling import call
from bascule.console.facts import (
    EndpointFacts,
    active_rollouts,
    endpoint_facts,
    endpoints_of,
    server_facts,
)
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.live import LiveView, live_view
from bascule.console.session import current
from bascule.console.site import Crumb, console_of, context_of, form_of, page_router, render, see
from bascule.console.story import SHOWN_INTERVALS, Story, sequences_of, some_of, story_of
from bascule.core import NotFound
from bascule.security import Action

if TYPE_CHECKING:
    from bascule.endpoints import Plan, PlanEvent, StoredPlan
    from bascule.release.rollouts import StoredRollout

_ONE: tuple[Action, str] = ("read", "{endpoint}")
router = page_router(
    {
        "GET /endpoints": ("read", ""),
        "GET /endpoints/{endpoint}": _ONE,
        "GET /endpoints/{endpoint}/live": _ONE,
        "GET /endpoints/{endpoint}/rollouts/{rollout}/sequences": _ONE,
        "POST /endpoints/{endpoint}/rollback": ("deploy", "{endpoint}"),
        # Which right a command takes is asked by the API.
        "POST /endpoints/{endpoint}/rollouts/{rollout}/{command}": _ONE,
    }
)

_PAGE = 50
_MAX_PLANS = 30
_MAX_EVENTS = 30
_MAX_ROLLOUTS = 20
_MAX_DECISIONS = 200
_MAX_INTERVALS = 20_000
_Name = Annotated[str, Path(min_length=1, max_length=128)]


@dataclass(frozen=True, slots=True)
class EndpointView:
    """What the page of an endpoint shows.

    Attributes:
        facts: The endpoint as this server serves it.
        diagram: Its plan.
        live: What it does now.
        story: The latest rollout, or the one that the address names; None without any.
        rollouts: The latest rollouts, the latest first.
        plans: Its latest plans, the newest first.
        events: Its latest history, the latest first.
        may_deploy: Whether the person may deploy here.
        may_approve: Whether the person may promote a rollout.
    """

    facts: EndpointFacts
    diagram: Svg
    live: LiveView
    story: Story | None
    rollouts: Sequence[StoredRollout]
    plans: Sequence[StoredPlan]
    events: Sequence[PlanEvent]
    may_deploy: bool
    may_approve: bool

    @property
    def can_roll_back(self) -> bool:
        """Whether there is an earlier plan; a rollout under way is aborted instead."""
        return self.may_deploy and self.facts.rollout is None and len(self.plans) > 1


@dataclass(frozen=True, slots=True)
class EndpointsView:
    """One page of the list of endpoints."""

    rows: Sequence[EndpointFacts]
    total: int
    start: int
    query: str

    @property
    def back(self) -> str:
        return _address(self.query, max(0, self.start - _PAGE)) if self.start else ""

    @property
    def more(self) -> str:
        after = self.start + _PAGE
        return _address(self.query, after) if after < self.total else ""

    @property
    def said(self) -> str:
        return f"{self.start + 1} to {self.start + len(self.rows)} of {self.total}"


@router.get("/endpoints")
def endpoints(
    request: Request,
    q: Annotated[str, Query(max_length=128)] = "",
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """The list."""
    context, session = context_of(request), current(request)
    server = server_facts(context.server)
    rollouts = {one.rollout.endpoint: one for one in active_rollouts(context, session)}
    found = [one for one in endpoints_of(context, session) if q.lower() in one.name.lower()]
    rows = [
        endpoint_facts(one, server, rollouts.get(one.name)) for one in found[start : start + _PAGE]
    ]
    view = EndpointsView(rows, len(found), start, q)
    return render(request, "endpoints.html", view, title="Endpoints")


@router.get("/endpoints/{endpoint}")
def one_endpoint(
    request: Request,
    endpoint: _Name,
    rollout: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """One endpoint; `?rollout=ID` shows an earlier rollout of it."""
    context, session = context_of(request), current(request)
    book = context.endpoints()
    found = book.endpoint(endpoint)
    rollouts = _rollouts(request, endpoint)
    shown = _of_endpoint(context.rollouts().get(rollout), endpoint) if rollout else None
    if shown is None and rollouts:
        shown = rollouts[0]
    active = next((one for one in rollouts if one.ended_at is None), None)
    facts = endpoint_facts(found, server_facts(context.server), active)
    plan = found.current.plan
    view = EndpointView(
        facts=facts, diagram=diagram(plan), live=_live(request, plan),
        story=None if shown is None else _story(request, shown),
        rollouts=rollouts, plans=book.plans(endpoint, latest=_MAX_PLANS),
        events=book.history(endpoint, latest=_MAX_EVENTS)[::-1],
        may_deploy=session.allows("deploy", endpoint),
        may_approve=session.allows("approve", endpoint),
    )  # fmt: skip
    crumbs = [Crumb("Endpoints", "/endpoints"), Crumb(endpoint)]
    return render(request, "endpoint.html", view, title=endpoint, crumbs=crumbs)


@router.get("/endpoints/{endpoint}/live")
def live(request: Request, endpoint: _Name) -> Response:
    """The part of the page that is asked for every two seconds."""
    plan = context_of(request).endpoints().endpoint(endpoint).current.plan
    return render(request, "endpoint_live.html", _live(request, plan), title=endpoint)


@router.get("/endpoints/{endpoint}/rollouts/{rollout}/sequences")
def sequences(request: Request, endpoint: _Name, rollout: _Name) -> Response:
    """The confidence sequences of a rollout, which take longer than the page may."""
    book = context_of(request).rollouts()
    stored = _of_endpoint(book.get(rollout), endpoint)
    kept = console_of(request).kept
    count = stored.intervals if stored.ended_at else some_of(stored.intervals)
    key = ("sequences", stored.rollout.id, count)
    found = kept.get(key)
    if found is None and count <= _MAX_INTERVALS:
        with console_of(request).drawing:
            intervals = [one for one, _ in book.store.intervals(stored.rollout.id)][:count]
            found = kept.get(key) or kept.put(key, sequences_of(stored.rollout, intervals))
    return render(request, "sequences.html", found, title=endpoint)


@router.post("/endpoints/{endpoint}/rollback")
async def roll_back(request: Request, endpoint: _Name) -> Response:
    """Serve an earlier plan again."""
    form = form_of(request)
    to, reason = field(form, "to"), field(form, "reason")
    body = {"reason": reason, **({"to": int(to)} if to.isdecimal() else {})}
    names = {"endpoint": endpoint}
    answer = await call(request, "POST /api/v1/endpoints/{endpoint}/rollback", names, body)
    flash = Flash("good", answer.body["sentence"]) if answer.is_done else None
    return see(request, _path(endpoint), flash or Flash("bad", answer.problem))


@router.post("/endpoints/{endpoint}/rollouts/{rollout}/{command}")
async def command(request: Request, endpoint: _Name, rollout: _Name, command: _Name) -> Response:
    """Pause, resume, abort or promote a rollout."""
    names = {"rollout": rollout, "command": command}
    body = {"reason": field(form_of(request), "reason")}
    answer = await call(request, "POST /api/v1/rollouts/{rollout}/{command}", names, body)
    flash = Flash("good", answer.body["sentence"]) if answer.is_done else None
    path = f"{_path(endpoint)}?rollout={quote(rollout, safe='')}#rollout"
    return see(request, path, flash or Flash("bad", answer.problem))


def diagram(plan: Plan) -> Svg:
    """The plan, as requests flow."""
    routes = [Route(one.name, one.version, one.share_percent) for one in plan.arms]
    if plan.shadow is not None:
        shadow = plan.shadow
        routes.append(
            Route("shadow", shadow.version, shadow.share_percent, "answers unseen", is_copy=True)
        )
    if plan.fallback:
        routes.append(Route("fallback", plan.fallback, 0.0, "answers where an arm fails"))
    return split(plan.endpoint, routes)


def _live(request: Request, plan: Plan) -> LiveView:
    samples = console_of(request).looks.look(context_of(request).server, plan)
    return live_view(plan, samples, f"{_path(plan.endpoint)}/live")


def _rollouts(request: Request, endpoint: str) -> list[StoredRollout]:
    """Of an endpoint, the latest first."""
    with suppress(NotFound):
        store = context_of(request).rollouts().store
        return store.rollouts(endpoint, latest=_MAX_ROLLOUTS)[::-1]
    return []


def _of_endpoint(stored: StoredRollout, endpoint: str) -> StoredRollout:
    """The rollout, of an endpoint that the person may read; another one is not told of."""
    if stored.rollout.endpoint != endpoint:
        raise NotFound(f"endpoint {endpoint} has no such rollout", hint=_path(endpoint))
    return stored


def _story(request: Request, stored: StoredRollout) -> Story:
    book = context_of(request).rollouts()
    name, store = stored.rollout.id, book.store
    return story_of(
        stored, store.decisions(name, latest=_MAX_DECISIONS),
        store.evidence(name, most=SHOWN_INTERVALS),
    )  # fmt: skip


def _path(endpoint: str) -> str:
    return f"/endpoints/{quote(endpoint, safe='')}"


def _address(query: str, start: int) -> str:
    return f"/endpoints?start={start}" + (f"&q={quote(query)}" if query else "")
