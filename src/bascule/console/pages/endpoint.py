"""`/endpoints` and `/endpoints/E`: the plan, what it does now, and its rollout as a story."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import Path, Query, Request, Response

from bascule.charts import Route, Svg, split
from bascule.console.calling import act
from bascule.console.facts import (
    EndpointFacts,
    endpoint_facts,
    endpoints_of,
    recent_rollouts,
    server_facts,
)
from bascule.console.forms import field
from bascule.console.live import live_view
from bascule.console.paging import pager_of
from bascule.console.session import current
from bascule.console.site import Crumb, PageRouter, console_of, context_of, form_of, render
from bascule.console.story import (
    SHOWN_INTERVALS,
    sequences_of,
    some_of,
    story_of,
)
from bascule.core import NotFound
from bascule.documents import Plot
from bascule.endpoints import operations as of_endpoints
from bascule.release.rollouts import operations as of_rollouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bascule.endpoints import Plan, StoredPlan
    from bascule.release.rollouts import StoredRollout

router = PageRouter()

_PAGE = 50
_MAX_PLANS = 30
_MAX_EVENTS = 30
_MAX_ROLLOUTS = 20
_MAX_DECISIONS = 200
_MAX_INTERVALS = 20_000
_Name = Annotated[str, Path(min_length=1, max_length=128)]


@router.page("GET /endpoints", "read")
def endpoints(
    request: Request,
    q: Annotated[str, Query(max_length=128)] = "",
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """The list."""
    context, session = context_of(request), current(request)
    server = server_facts(context.server)
    rollouts = {one.rollout.endpoint: one for one in recent_rollouts(context, session)}
    found = [one for one in endpoints_of(context, session) if q.lower() in one.name.lower()]
    rows = [
        endpoint_facts(one, server, rollouts.get(one.name)) for one in found[start : start + _PAGE]
    ]
    pager = pager_of("/endpoints", start, _PAGE, len(found), q=q)
    return render(
        request, "endpoints.html", "Endpoints", rows=rows, total=len(found), query=q, pager=pager
    )


@router.page("GET /endpoints/{endpoint}", "read", "{endpoint}")
def one_endpoint(
    request: Request,
    endpoint: _Name,
    rollout: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """One endpoint; `?rollout=ID` shows an earlier rollout of it."""
    context = context_of(request)
    book = context.endpoints()
    found = book.endpoint(endpoint)
    rollouts = _rollouts(request, endpoint)
    shown = _of_endpoint(context.rollouts().get(rollout), endpoint) if rollout else None
    if shown is None and rollouts:
        shown = rollouts[0]
    active = next((one for one in rollouts if one.ended_at is None), None)
    facts = endpoint_facts(found, server_facts(context.server), active)
    plan, plans = found.current.plan, book.plans(endpoint, latest=_MAX_PLANS)
    return render(
        request, "endpoint.html", endpoint,
        crumbs=[Crumb("Endpoints", "/endpoints"), Crumb(endpoint)],
        facts=facts, diagram=diagram(plan), live=_live(request, facts), page_plan=plan.number,
        story=None if shown is None else _story(request, shown), rollouts=rollouts, plans=plans,
        events=book.history(endpoint, latest=_MAX_EVENTS)[::-1],
        # A rollout under way is aborted instead.
        can_roll_back=active is None and has_other(plans),
    )  # fmt: skip


@router.page("GET /endpoints/{endpoint}/live", "read", "{endpoint}")
def live(
    request: Request, endpoint: _Name, plan: Annotated[int, Query(ge=0, lt=2**31)] = 0
) -> Response:
    """The part of the page that is asked for every two seconds; the page itself shows `plan`."""
    context = context_of(request)
    found = context.endpoints().endpoint(endpoint)
    facts = endpoint_facts(found, server_facts(context.server), None)
    shown = _live(request, facts)
    return render(request, "endpoint_live.html", endpoint, live=shown, page_plan=plan)


@router.page("GET /endpoints/{endpoint}/rollouts/{rollout}/sequences", "read", "{endpoint}")
def sequences(request: Request, endpoint: _Name, rollout: _Name) -> Response:
    """The confidence sequences of a rollout, which take longer than the page may."""
    book = context_of(request).rollouts()
    stored = _of_endpoint(book.get(rollout), endpoint)
    count = stored.intervals if stored.ended_at else some_of(stored.intervals)

    def drawn() -> list[Plot]:
        intervals = [one for one, _ in book.store.intervals(stored.rollout.id)][:count]
        cohorts = book.store.cohorts(stored.rollout.id).cohorts
        return sequences_of(stored.rollout, intervals, cohorts)

    key = ("sequences", stored.rollout.id, count)
    found = None if count > _MAX_INTERVALS else console_of(request).kept.get(key, drawn)
    return render(request, "sequences.html", endpoint, sequences=found)


@router.page("POST /endpoints/{endpoint}/rollback", "deploy", "{endpoint}")
async def roll_back(request: Request, endpoint: _Name) -> Response:
    """Serve an earlier plan again."""
    form = form_of(request)
    to = field(form, "to")
    body = {"reason": field(form, "reason"), **({"to": int(to)} if to.isdecimal() else {})}
    names = {"endpoint": endpoint}
    return await act(request, _path(endpoint), of_endpoints.ROLL_BACK, names, body)


@router.page("POST /endpoints/{endpoint}/rollouts/{rollout}/promote", "approve", "{endpoint}")
async def promote(request: Request, endpoint: _Name, rollout: _Name) -> Response:
    """Promote the candidate of a rollout, or approve that it is."""
    return await command(request, endpoint, rollout, "promote")


@router.page("POST /endpoints/{endpoint}/rollouts/{rollout}/{command}", "deploy", "{endpoint}")
async def command(request: Request, endpoint: _Name, rollout: _Name, command: _Name) -> Response:
    """Pause, resume or abort a rollout."""
    path = f"{_path(endpoint)}?rollout={quote(rollout, safe='')}#rollout"
    names = {"rollout": rollout, "command": command}
    form = form_of(request)
    body: dict[str, object] = {"reason": field(form, "reason")}
    if field(form, "allow_answers"):
        body["allow_answers"] = True
    return await act(request, path, of_rollouts.COMMAND, names, body)


def has_other(plans: Sequence[StoredPlan]) -> bool:
    """Whether a plan before the first of these served other versions or shares. Pure.

    Steps of a rollout do not count: with its evidence gone, there is no reason to return to one.
    """
    now = _shares(plans[0].plan)
    return any(
        shares != now and not (one.plan.rollout and len(shares) > 1)
        for one in plans[1:]
        for shares in [_shares(one.plan)]
    )


def _shares(plan: Plan) -> dict[str, float]:
    return {arm.version: arm.share_percent for arm in plan.arms if arm.share_percent}


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


def _live(request: Request, facts: EndpointFacts) -> dict[str, Any]:
    plan = facts.endpoint.current.plan
    looks = console_of(request).looks.look(context_of(request).server, plan)
    return live_view(plan, looks) | {"plan": plan.number, "state": facts.state}


def _rollouts(request: Request, endpoint: str) -> list[StoredRollout]:
    """Of an endpoint, the latest first."""
    with suppress(NotFound):
        store = context_of(request).rollouts().store
        return store.rollouts(endpoint, latest=_MAX_ROLLOUTS)[::-1]
    return []


def _of_endpoint(stored: StoredRollout, endpoint: str) -> StoredRollout:
    """The rollout, if it is of this endpoint, which the person may read; else `NotFound`."""
    if stored.rollout.endpoint != endpoint:
        raise NotFound(f"endpoint {endpoint} has no such rollout", hint=_path(endpoint))
    return stored


def _story(request: Request, stored: StoredRollout) -> dict[str, Any]:
    book = context_of(request).rollouts()
    name, store = stored.rollout.id, book.store
    return story_of(
        stored, store.decisions(name, latest=_MAX_DECISIONS),
        store.evidence(name, most=SHOWN_INTERVALS),
    )  # fmt: skip


def _path(endpoint: str) -> str:
    return f"/endpoints/{quote(endpoint, safe='')}"
