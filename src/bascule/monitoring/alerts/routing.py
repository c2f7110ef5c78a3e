"""Decides which receivers are notified of which alerts. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal

from bascule.monitoring.alerts.advancing import Alert
from bascule.monitoring.alerts.findings import RECEIVERS, SEVERITIES
from bascule.monitoring.alerts.options import RouteOptions

Kind = Literal["firing", "repeated", "resolved"]


@dataclass(frozen=True, slots=True)
class Silence:
    """Notifications that are kept back for some time.

    Attributes:
        id: Of the silence.
        model: Of which models: a name, or a pattern with `*`.
        source: Of this source alone; empty for all.
        alert: The id of this alert alone; empty for all.
        by: The person.
        why: The reason.
        created_at: From when.
        until: To when.
    """

    id: str
    model: str
    by: str
    why: str
    created_at: datetime
    until: datetime
    source: str = ""
    alert: str = ""

    def holds(self, alert: Alert, now: datetime) -> bool:
        return (
            now < self.until
            and fnmatchcase(alert.finding.model, self.model)
            and self.source in ("", alert.finding.source)
            and self.alert in ("", alert.id)
        )


@dataclass(frozen=True, slots=True)
class Contacts:
    """The tags `owner`, `on_call` and `team` of a model. `owner` and `on_call` name receivers."""

    owner: str = ""
    on_call: str = ""
    team: str = ""


@dataclass(frozen=True, slots=True)
class Route(RouteOptions):
    """Which receivers take which alerts. Of several routes, each one that matches counts."""

    def takes(self, alert: Alert, contacts: Contacts) -> bool:
        finding = alert.finding
        return (
            any(fnmatchcase(finding.model, one) for one in self.models)
            and SEVERITIES.index(finding.severity) >= SEVERITIES.index(self.severity)
            and (not self.teams or contacts.team in self.teams)
        )


@dataclass(frozen=True, slots=True)
class Routing:
    """All routes, the receivers that there are, and the control API's address for links."""

    receivers: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    public_url: str = ""

    def receivers_of(self, alert: Alert, contacts: Contacts) -> tuple[str, ...]:
        """The receivers of an alert; all of them where nothing names one, so that none is lost.

        Besides the routes, the model's owner takes its alerts, and its on-call the critical ones.
        An alert about a receiver goes to others alone.
        """
        taking = [route for route in self.routes if route.takes(alert, contacts)]
        named = {name for route in taking for name in route.receivers} | {contacts.owner}
        if alert.finding.severity == "critical":
            named.add(contacts.on_call)
        about = alert.finding.column if alert.finding.source == RECEIVERS else ""
        able = tuple(one for one in self.receivers if one != about)
        return tuple(one for one in able if one in named) or able


@dataclass(frozen=True, slots=True)
class Notification:
    """What one receiver is sent: alerts of one model that began, go on or ended together.

    Attributes:
        id: The same for each attempt, so that a receiver can drop a repeated delivery.
        receiver: Its name.
        kind: `firing`, `repeated` or `resolved`.
        model: Of the alerts; empty for the server itself.
        at: When it was decided.
        alerts: As JSON: `shown`.
    """

    id: str
    receiver: str
    kind: Kind
    model: str
    at: datetime
    alerts: tuple[dict[str, Any], ...]


def notify(
    alerts: Iterable[Alert],
    silences: Sequence[Silence],
    routing: Routing,
    contacts: Mapping[str, Contacts],
    repeat_s: float,
    now: datetime,
) -> tuple[list[Alert], list[Notification]]:
    """The notifications that are due, and the alerts with the receivers that they are for.

    An acknowledged alert is not repeated. A silenced one is notified when the silence ends, if it
    still fires. A receiver is notified of the end of an alert if it was of the beginning.
    """
    told: list[Alert] = []
    grouped: dict[tuple[str, Kind, str], list[Alert]] = {}
    for alert in alerts:
        kind = _kind_due(alert, silences, repeat_s, now)
        if kind is None:
            continue
        of_model = contacts.get(alert.finding.model, Contacts())
        receivers = alert.told if kind == "resolved" else routing.receivers_of(alert, of_model)
        after = replace(alert, told=() if kind == "resolved" else receivers, told_at=now)
        told.append(after)
        for receiver in receivers:
            grouped.setdefault((receiver, kind, alert.finding.model), []).append(after)
    made = [
        _notification(*key, found, contacts, routing.public_url, now)
        for key, found in grouped.items()
    ]
    return told, made


def _kind_due(
    alert: Alert, silences: Sequence[Silence], repeat_s: float, now: datetime
) -> Kind | None:
    if alert.state == "resolved":
        return "resolved" if alert.told else None
    if alert.state == "pending" or any(one.holds(alert, now) for one in silences):
        return None
    if alert.told_at is None:
        return "firing"
    is_due = now - alert.told_at >= timedelta(seconds=repeat_s)
    return "repeated" if is_due and alert.acknowledgement is None else None


def _notification(
    receiver: str,
    kind: Kind,
    model: str,
    alerts: Sequence[Alert],
    contacts: Mapping[str, Contacts],
    public_url: str,
    now: datetime,
) -> Notification:
    named = [receiver, kind, now.isoformat(), *sorted(alert.id for alert in alerts)]
    made = hashlib.sha256("\0".join(named).encode()).hexdigest()[:24]
    of_model = contacts.get(model, Contacts())
    said = tuple(shown(alert, of_model, public_url) for alert in alerts)
    return Notification(made, receiver, kind, model, now, said)


def shown(alert: Alert, contacts: Contacts | None = None, public_url: str = "") -> dict[str, Any]:
    """An alert as JSON, for receivers, commands and the control API."""
    finding = alert.finding.to_json()
    said = alert.acknowledgement
    return {
        "id": alert.id,
        "state": alert.state,
        "since": alert.since.isoformat(),
        **{name: finding[name] for name in finding if name != "at"},
        "seen_at": finding["at"],
        "owner": contacts.owner if contacts else "",
        "link": f"{public_url.rstrip('/')}/api/v1/alerts/{alert.id}" if public_url else "",
        "acknowledged": said and {"by": said.by, "why": said.why, "at": said.at.isoformat()},
    }
