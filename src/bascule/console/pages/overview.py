"""`/`: what runs, whether it is well, and what waits for a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request, Response

from bascule.charts import Svg, shares
from bascule.console.facts import (
    EndpointFacts,
    ServerFacts,
    alerts_of,
    endpoint_facts,
    endpoints_of,
    recent_rollouts,
    server_facts,
)
from bascule.console.session import current
from bascule.console.site import context_of, page_router, render

if TYPE_CHECKING:
    from bascule.monitoring.alerts import Alert
    from bascule.release.rollouts import StoredRollout

router = page_router({"GET /": ("read", "")})

_MAX_ENDPOINTS = 50
_MAX_ALERTS = 20
_SEVERITY = {"critical": "bad", "warning": "warn", "info": "info"}


@dataclass(frozen=True, slots=True)
class ToDo:
    """Something that waits for a person: its tone, what it is, why, and where it is done."""

    tone: str
    name: str
    text: str
    path: str
    label: str


def todos_of(
    server: ServerFacts,
    endpoints: Sequence[EndpointFacts],
    rollouts: Sequence[StoredRollout],
    alerts: Sequence[Alert],
) -> list[ToDo]:
    """What waits for a decision, the most severe first. Pure."""
    todos = [*_of_rollouts(rollouts), *_of_alerts(alerts), *_of_server(server, endpoints)]
    return sorted(todos, key=lambda one: ("bad", "warn", "info").index(one.tone))


@router.get("/")
def overview(request: Request) -> Response:
    """The page."""
    context, session = context_of(request), current(request)
    recent = recent_rollouts(context, session)
    rollouts = [one for one in recent if one.ended_at is None]
    by_endpoint = {one.rollout.endpoint: one for one in recent}
    server = server_facts(context.server)
    endpoints = [
        endpoint_facts(one, server, by_endpoint.get(one.name))
        for one in endpoints_of(context, session)
    ]
    alerts = alerts_of(context, session)
    shown = sorted(endpoints, key=lambda one: (not one.rollout, one.name))[:_MAX_ENDPOINTS]
    return render(
        request, "overview.html", "Overview", server=server,
        rows=[(one, _bar(one)) for one in shown],
        todos=todos_of(server, endpoints, rollouts, alerts), alerts=alerts[:_MAX_ALERTS],
        more_endpoints=len(endpoints) - len(shown),
        unplanned=[one for one in server.served if not one.is_planned],
    )  # fmt: skip


def _bar(facts: EndpointFacts) -> Svg:
    plan = facts.endpoint.current.plan
    return shares(
        [(f"{one.name}, {one.version}", one.share_percent) for one in plan.arms],
        f"Shares of {facts.name}: {facts.endpoint.answers}",
    )


def _of_rollouts(rollouts: Sequence[StoredRollout]) -> list[ToDo]:
    return [
        ToDo(
            "warn" if one.state == "waiting" else "info",
            f"{one.rollout.candidate} waits for an approval"
            if one.state == "waiting"
            else f"The rollout of {one.rollout.candidate} is paused",
            f"Rollout to {one.rollout.endpoint}, against {one.rollout.current}.",
            f"/endpoints/{one.rollout.endpoint}#rollout",
            "Decide",
        )
        for one in rollouts
        if one.state in ("waiting", "paused")
    ]


def _of_alerts(alerts: Sequence[Alert]) -> list[ToDo]:
    return [
        ToDo(
            _SEVERITY.get(one.finding.severity, "info"),
            f"{one.finding.model or 'Server'}: {one.finding.kind.replace('_', ' ')}",
            one.finding.sentence,
            f"/monitoring/{one.finding.model}" if one.finding.model else "/#alerts",
            "Look",
        )
        for one in alerts[:_MAX_ALERTS]
        if one.state == "firing" and one.acknowledgement is None
    ]


def _of_server(server: ServerFacts, endpoints: Sequence[EndpointFacts]) -> list[ToDo]:
    made = []
    if server.state == "down":
        made.append(
            ToDo(
                "bad", "Workers are down",
                f"{server.alive} of {server.workers} workers answer.", "/health", "Health",
            )
        )  # fmt: skip
    made += [
        ToDo(
            "warn", f"{one.name} is {one.state}",
            f"Plan {one.endpoint.current.plan.number} is the newest; this server serves plan "
            f"{one.served_plan}.",
            f"/endpoints/{one.name}", "Look",
        )
        for one in endpoints
        if one.state == "behind"  # what is not served may be served by another server
    ]  # fmt: skip
    return made
