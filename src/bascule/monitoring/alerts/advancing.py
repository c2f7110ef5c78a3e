"""Decides the states of alerts: pending, firing, resolved. Pure: findings and the time in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from bascule.monitoring.alerts.findings import Finding, Observation

State = Literal["pending", "firing", "resolved"]

REFRESH_S = 60.0
"""How old the numbers of a firing alert become before they are replaced by new ones."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A person works on it: the alert is not repeated."""

    by: str
    why: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong, or was.

    Attributes:
        finding: The latest that was kept of it.
        state: `pending` until it has lasted long enough; `resolved` is final.
        since: When it came into this state.
        absent_since: When a firing alert was first not found again.
        told: The receivers that were notified that it fires.
        told_at: When they last were.
        acknowledgement: Of a person; None for none.
    """

    finding: Finding
    state: State
    since: datetime
    absent_since: datetime | None = None
    told: tuple[str, ...] = ()
    told_at: datetime | None = None
    acknowledgement: Acknowledgement | None = None

    @property
    def id(self) -> str:
        return self.finding.id


@dataclass(frozen=True, slots=True)
class Rules:
    """How long things last.

    Attributes:
        for_s: By source: how long a finding lasts before its alert fires. 0 for others.
        keep_firing_s: By source: how long a finding is absent before its alert is resolved.
        repeat_s: How long after a notification an alert that still fires is repeated.
    """

    for_s: Mapping[str, float] = field(default_factory=dict)
    keep_firing_s: Mapping[str, float] = field(default_factory=dict)
    repeat_s: float = 14_400.0


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that goes on to another state; `alert` is None for a pending one that is dropped."""

    id: str
    before: Alert | None
    alert: Alert | None

    @property
    def is_of_state(self) -> bool:
        """Whether the state changes, and not the numbers alone."""
        before = None if self.before is None else (self.before.state, self.before.since)
        return self.alert is None or (self.alert.state, self.alert.since) != before


def advance(
    alerts: Mapping[str, Alert],
    observations: Sequence[Observation],
    rules: Rules,
    now: datetime,
) -> list[Change]:
    """What changes by these looks, at most one change an alert.

    Alerts that no observation is about stay as they are: no news is neither good nor bad.
    """
    return [
        change
        for observation in observations
        for change in _changes(alerts, observation, rules, now)
        if change.alert != change.before
    ]


def _changes(
    alerts: Mapping[str, Alert], observation: Observation, rules: Rules, now: datetime
) -> Iterator[Change]:
    found = {one.id: one for one in observation.findings}
    for name, finding in found.items():
        before = alerts.get(name)
        yield Change(name, before, _present(before, finding, rules, now))
    for name, alert in alerts.items():
        if name not in found and observation.is_about(alert.finding):
            yield Change(name, alert, _absent(alert, rules, now))


def _present(alert: Alert | None, finding: Finding, rules: Rules, now: datetime) -> Alert:
    if alert is None or alert.state == "resolved":
        alert = Alert(finding, "pending", now)
    waits = timedelta(seconds=rules.for_s.get(finding.source, 0.0))
    if alert.state == "pending" and now - alert.since >= waits:
        return Alert(finding, "firing", now)
    is_old = finding.at - alert.finding.at >= timedelta(seconds=REFRESH_S)
    if is_old or finding.severity != alert.finding.severity:
        alert = replace(alert, finding=finding)
    return replace(alert, absent_since=None)


def _absent(alert: Alert, rules: Rules, now: datetime) -> Alert | None:
    if alert.state == "pending":
        return None
    if alert.state == "resolved":
        return alert
    since = alert.absent_since or now
    if now - since >= timedelta(seconds=rules.keep_firing_s.get(alert.finding.source, 0.0)):
        return replace(alert, state="resolved", since=now, absent_since=since)
    return replace(alert, absent_since=since)
