"""Reads the facts of an incident: catalogue (history, plans, rollouts, alerts) and ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from bascule.catalogue import Catalogue, events
from bascule.core import NotFound
from bascule.endpoints import EndpointStore, PlanEvent, StoredPlan
from bascule.monitoring.alerts import Alert, AlertStore
from bascule.monitoring.ledger import quoted
from bascule.release.incidents.draft import Attempt, Entry, Exposure, Facts, Receipt
from bascule.release.rollouts import RolloutStore, StoredRollout, summed

if TYPE_CHECKING:
    from bascule.monitoring import Ledger
    from bascule.registry import ModelRegistry

_SENT = ("notification_sent", "notification_failed")
_EXPOSED = """
SELECT version, caller, sum(1 / kept_share) AS requests,
    sum(1 / kept_share) FILTER (WHERE status >= 500) AS errors,
    min(time) AS first, max(time) AS last
FROM (
    SELECT DISTINCT id, model || '/' || version AS version, caller, kept_share, status, time
    FROM predictions WHERE endpoint = {endpoint} AND kept_share > 0
    AND time BETWEEN TIMESTAMPTZ '{since}' AND TIMESTAMPTZ '{until}'
)
GROUP BY ALL
"""


def gather(
    endpoint: str,
    *,
    since: datetime,
    until: datetime,
    catalogue: Catalogue,
    registry: ModelRegistry,
    ledger: Ledger,
) -> Facts:
    """The facts of an endpoint, or of a model that is served under its own name.

    Raises:
        NotFound: Nothing has that name.
    """
    store = EndpointStore(catalogue)
    plans: Sequence[StoredPlan] = ()
    with suppress(NotFound):
        plans = store.plans(endpoint)
    recent = [one for one in plans if one.made_at >= since] or plans[:1]
    models = sorted(
        {version.partition("/")[0] for one in recent for version in one.plan.versions}
    ) or [endpoint]
    happened = [one for one in store.history(endpoint) if since <= one.at <= until]
    alerts = {
        one.finding.id: one
        for one in AlertStore(catalogue).alerts(resolved=True)
        if one.finding.model in (endpoint, "", *models)
    }
    of_alerts = _alert_events(catalogue, alerts, since, until)
    return Facts(
        endpoint=endpoint, since=since, until=until,
        serves=_serves(plans[0]) if plans else "its model, without a plan",
        entries=[
            *(Entry(one.at, one.kind, one.sentence, one.by, one.reason) for one in happened),
            *_of_registry(registry, models, since, until),
            *(_of_alert(one, alerts) for one in of_alerts if one.kind not in _SENT),
        ],
        attempts=[*_attempts(RolloutStore(catalogue), endpoint, since, until)],
        left=_left(happened, plans),
        exposures=_exposures(ledger, endpoint, since, until),
        receipts=[_receipt(one, alerts) for one in of_alerts if one.kind in _SENT],
        aliases={
            f"{model.name}@{alias}": f"{model.name}/{one.number}"
            for model in registry.models() if model.name in models
            for alias, one in model.aliases.items()
        },
        passed=frozenset(
            str(one) for name in models for one in registry.versions(name) if one.gates == "passed"
        ),
        firing=[one.finding.sentence for one in alerts.values() if one.state == "firing"],
    )  # fmt: skip


def _serves(stored: StoredPlan) -> str:
    arms = [one for one in stored.plan.arms if one.share_percent]
    said = ", ".join(f"{one.version} ({one.share_percent:g} %)" for one in arms)
    return f"{said} by plan {stored.plan.number}"


def _of_registry(
    registry: ModelRegistry, models: Sequence[str], since: datetime, until: datetime
) -> Iterator[Entry]:
    for name in models:
        for one in registry.history(name):
            if since <= one.at <= until:
                yield Entry(one.at, one.kind, one.sentence, one.by, one.reason)


def _alert_events(
    catalogue: Catalogue, alerts: Mapping[str, Alert], since: datetime, until: datetime
) -> list[events.Event]:
    with catalogue.read() as connection:
        found = events.find(connection, subject_kind="alert", since=since)
    return [one for one in found if one.subject.name in alerts and one.at <= until]


def _of_alert(event: events.Event, alerts: Mapping[str, Alert]) -> Entry:
    about = alerts[event.subject.name].finding.sentence
    what = event.kind.removeprefix("alert_")
    reason = event.reason if event.reason != about else ""
    return Entry(event.at, event.kind, f"alert {what}: {about}", event.actor, reason)


def _receipt(event: events.Event, alerts: Mapping[str, Alert]) -> Receipt:
    return Receipt(
        event.at, event.body["receiver"], alerts[event.subject.name].finding.sentence,
        event.kind.removeprefix("notification_"), event.reason,
    )  # fmt: skip


def _attempts(
    store: RolloutStore, endpoint: str, since: datetime, until: datetime
) -> Iterator[Attempt]:
    for one in store.rollouts(endpoint):
        is_over = one.ended_at is not None and one.ended_at < since
        if not is_over and one.rollout.started_at <= until:
            yield _attempt(store, one)


def _attempt(store: RolloutStore, stored: StoredRollout) -> Attempt:
    rollout, latest = stored.rollout, stored.latest
    decided = store.decisions(rollout.id)
    sealed = [interval for interval, _ in store.intervals(rollout.id)]
    total = summed(sealed) if sealed else None
    candidate = total.candidate.requests if total else 0
    return Attempt(
        id=rollout.id, candidate=rollout.candidate, current=rollout.current,
        state=stored.state,
        began_at=decided[0].at if decided else None, ended_at=stored.ended_at,
        sentence=latest.sentence if latest else "no server has begun it",
        guards=[str(one) for one in rollout.guards], log_e=latest.log_e if latest else {},
        requests=candidate, errors=total.candidate.errors if total else 0,
        all_requests=candidate + (total.current.requests if total else 0),
    )  # fmt: skip


def _left(happened: Sequence[PlanEvent], plans: Sequence[StoredPlan]) -> dict[str, str]:
    """Versions that a rollback by hand took out, with the sentence and reason of the rollback."""
    by_number = {one.plan.number: one.plan for one in plans}
    left = {}
    for one in happened:
        if one.kind == "rolled_back":
            stays = by_number[one.body["number"]].versions
            for version in by_number[one.body["from"]].versions:
                if version not in stays:
                    left[version] = f"{one.sentence} ({one.reason})"
    return left


def _exposures(
    ledger: Ledger, endpoint: str, since: datetime, until: datetime
) -> list[Exposure] | None:
    asked = _EXPOSED.format(
        endpoint=quoted(endpoint), since=since.isoformat(), until=until.isoformat()
    )
    rows = ledger.query(asked).to_pylist()
    found = [
        Exposure(
            one["version"], one["caller"] or "", round(one["requests"]), round(one["errors"] or 0),
            one["first"], one["last"],
        )
        for one in rows
    ]  # fmt: skip
    return found or None
