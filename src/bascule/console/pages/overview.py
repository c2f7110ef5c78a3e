"""`/`: what runs, whether it is well, and what waits for a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
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
from bascule.console.site import Console, PageRouter, console_of, context_of, render
from bascule.console.wellbeing import (
    Row,
    VersionMeasured,
    headline,
    objectives_by_model,
    subjects_of,
    versions_measured,
)
from bascule.core import NotFound
from bascule.serving.telemetry import BUCKETS_S, quantile_s

if TYPE_CHECKING:
    from bascule.endpoints import Plan
    from bascule.monitoring.alerts import Alert
    from bascule.release.rollouts import StoredRollout

router = PageRouter()

_MAX_ENDPOINTS = 50
_MAX_ALERTS = 20
_ERROR_LIMIT = 0.01
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


@router.page("GET /", "read")
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
    rows = _rows(console_of(request), endpoints, server, alerts)
    shown = sorted(rows, key=lambda one: (not one.problems, not one.facts.rollout, one.name))
    return render(
        request, "overview.html", "Overview", server=server,
        headline=headline(server, rows, alerts),
        rows=[(one, _bar(one.facts)) for one in shown[:_MAX_ENDPOINTS]],
        todos=todos_of(server, endpoints, rollouts, alerts), alerts=alerts[:_MAX_ALERTS],
        more_endpoints=len(endpoints) - _MAX_ENDPOINTS,
        unplanned=[one for one in server.served if not one.is_planned],
    )  # fmt: skip


def _rows(
    console: Console, endpoints: Sequence[EndpointFacts], server: ServerFacts,
    alerts: Sequence[Alert],
) -> list[Row]:  # fmt: skip
    context = console.context
    traffic = console.traffic.get() or {}
    settings = context.parts.shown.sections.get("alerts", {}) if context.parts.shown else {}
    objectives, limit = objectives_by_model(settings), settings.get("error_share", _ERROR_LIMIT)
    models = {one.name: models_of(one.endpoint.current.plan) for one in endpoints}
    stored = _stored(console, list(dict.fromkeys(m for each in models.values() for m in each)))
    return [
        Row(
            facts, traffic.get(facts.name), p99_s(server, facts.endpoint.current.plan),
            _measured(console, facts.endpoint.current.plan, stored),
            [one for one in alerts if one.finding.model in (facts.name, *models[facts.name])],
            next((objectives[m] for m in models[facts.name] if m in objectives), None), limit,
        )
        for facts in endpoints
    ]  # fmt: skip


def models_of(plan: Plan) -> list[str]:
    """The models whose versions answer. Pure."""
    return list(dict.fromkeys(one.version.rpartition("/")[0] for one in plan.arms))


def p99_s(server: ServerFacts, plan: Plan) -> float | None:
    """Of the answers of the plan's versions since the server started. Pure."""
    counts = [server.buckets[one.version] for one in plan.arms if one.version in server.buckets]
    return (
        quantile_s(BUCKETS_S, list(map(sum, zip(*counts, strict=True))), 0.99) if counts else None
    )


def _stored(console: Console, models: Sequence[str]) -> dict[str, tuple[str, datetime]]:
    """By model, the id of the newest report that is kept of it, and when it was measured."""
    try:
        done = console.context.jobs().newest_done("monitor", subjects_of(models))
    except NotFound:  # this server has no jobs
        return {}
    ordered = sorted(done.items(), key=lambda one: one[1][1])
    return {subject.rpartition("/")[0]: found for subject, found in ordered}


def _measured(
    console: Console, plan: Plan, stored: Mapping[str, tuple[str, datetime]]
) -> tuple[VersionMeasured, datetime] | None:
    """Of the first arm whose version has a report."""
    for arm in plan.arms:
        model, _, number = arm.version.rpartition("/")
        if model in stored:
            job, at = stored[model]
            with suppress(NotFound):  # it was replaced meanwhile
                versions = console.measured.get(job, partial(_read_measured, console, job))
                if number in versions:
                    return versions[number], at
    return None


def _read_measured(console: Console, job: str) -> Mapping[str, VersionMeasured]:
    return versions_measured(console.context.jobs().get(job).result)


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
