"""`/`: what runs, whether it is well, and what waits for a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request, Response

from bascule.charts import Svg, shares
from bascule.console.facts import (
    EndpointFacts,
    ServedFacts,
    ServerFacts,
    active_rollouts,
    alerts_of,
    endpoint_facts,
    endpoints_of,
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


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint in the table."""

    facts: EndpointFacts
    bar: Svg

    @property
    def path(self) -> str:
        return f"/endpoints/{self.facts.name}"


@dataclass(frozen=True, slots=True)
class OverviewView:
    """What the page shows.

    Attributes:
        server: The server beside this process.
        todos: What waits for a decision, the most severe first.
        rows: The endpoints, those with a rollout first.
        more_endpoints: How many are not shown.
        rollouts: The rollouts under way.
        alerts: Alerts that fire or are about to.
    """

    server: ServerFacts
    todos: Sequence[ToDo]
    rows: Sequence[Row]
    more_endpoints: int
    rollouts: Sequence[StoredRollout]
    alerts: Sequence[Alert]

    @property
    def unplanned(self) -> Sequence[ServedFacts]:
        """What is served under the name of its model, by no plan."""
        return [one for one in self.server.served if not one.is_planned]


def overview_view(
    server: ServerFacts,
    endpoints: Sequence[EndpointFacts],
    rollouts: Sequence[StoredRollout],
    alerts: Sequence[Alert],
) -> OverviewView:
    """The page, from facts. Pure."""
    ordered = sorted(endpoints, key=lambda one: (not one.rollout, one.name))
    rows = [Row(one, _bar(one)) for one in ordered[:_MAX_ENDPOINTS]]
    todos = [*_of_rollouts(rollouts), *_of_alerts(alerts), *_of_server(server, endpoints)]
    order = ("bad", "warn", "info")
    todos.sort(key=lambda one: order.index(one.tone))
    return OverviewView(
        server, todos, rows, len(endpoints) - len(rows), rollouts, alerts[:_MAX_ALERTS]
    )


@router.get("/")
def overview(request: Request) -> Response:
    """The page."""
    context, session = context_of(request), current(request)
    rollouts = active_rollouts(context, session)
    by_endpoint = {one.rollout.endpoint: one for one in rollouts}
    server = server_facts(context.server)
    endpoints = [
        endpoint_facts(one, server, by_endpoint.get(one.name))
        for one in endpoints_of(context, session)
    ]
    view = overview_view(server, endpoints, rollouts, alerts_of(context, session))
    return render(request, "overview.html", view, title="Overview")


def _bar(facts: EndpointFacts) -> Svg:
    plan = facts.endpoint.current.plan
    return shares(
        [(f"{one.name}, {one.version}", one.share_percent) for one in plan.arms],
        f"Shares of {facts.name}: {facts.endpoint.answers}",
    )


def _of_rollouts(rollouts: Sequence[StoredRollout]) -> list[ToDo]:
    return [
        ToDo(
            "warn" if one.state_name == "waiting" else "info",
            f"{one.rollout.candidate} waits for an approval"
            if one.state_name == "waiting"
            else f"The rollout of {one.rollout.candidate} is paused",
            f"Rollout to {one.rollout.endpoint}, against {one.rollout.current}.",
            f"/endpoints/{one.rollout.endpoint}#rollout",
            "Decide",
        )
        for one in rollouts
        if one.state_name in ("waiting", "paused")
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
            f"Plan {one.endpoint.current.plan.number} is the newest; this server serves "
            f"{f'plan {one.served_plan}' if one.served_plan else 'none'}.",
            f"/endpoints/{one.name}", "Look",
        )
        for one in endpoints
        if one.state in ("behind", "not served")
    ]  # fmt: skip
    return made
