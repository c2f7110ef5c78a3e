"""Keeps alerts, silences and the outbox in the catalogue; one decision is one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, Lease, check_held, events, insert
from bascule.core import Conflict, Invalid, NotFound
from bascule.monitoring.alerts import schema
from bascule.monitoring.alerts.advancing import Acknowledgement, Alert, Change, Rules, advance
from bascule.monitoring.alerts.findings import Finding, Observation
from bascule.monitoring.alerts.routing import Contacts, Notification, Routing, Silence, notify

ACTOR = "bascule"
KEEP_DAYS = 90
"""How long resolved alerts, ended silences and sent notifications are kept."""
MAX_WHY = 1_000
_UNACKNOWLEDGED = {"acknowledged_by": None, "acknowledged_why": None, "acknowledged_at": None}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A notification that is to be sent, after `attempts` that failed."""

    notification: Notification
    attempts: int


class AlertStore:
    """The alerts of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def take(
        self,
        lease: Lease,
        observations: Sequence[Observation],
        rules: Rules,
        routing: Routing,
        contacts: Mapping[str, Contacts],
        now: datetime,
    ) -> list[Change]:
        """Advance the alerts by these looks: states, history and outbox in one transaction.

        Raises:
            Conflict: The lease is no longer held.
        """

        def decide(connection: sa.Connection, *, lock: bool) -> tuple[list[Any], ...]:
            alerts = _alerts(connection, schema.alerts.c.state != "resolved", lock=lock)
            changes = advance(alerts, observations, rules, now)
            after = {**alerts, **{one.id: one.alert for one in changes}}
            there = [one for one in after.values() if one is not None]
            silences = _silences(connection, now)
            return changes, *notify(there, silences, routing, contacts, rules.repeat_s, now)

        with self._catalogue.read() as connection:
            if not any(decide(connection, lock=False)):
                return []  # without a write, which would wake every watch
        with self._catalogue.write() as connection:
            check_held(connection, lease)
            # Locked: an acknowledgement or another host's look meanwhile must not be lost.
            changes, told, notifications = decide(connection, lock=True)
            for change in changes:
                _put(connection, change)
            for alert in told:
                _update(connection, alert.id, told=list(alert.told), told_at=alert.told_at)
            _post(connection, notifications)
        return changes

    def alerts(self, *, resolved: bool = False, model: str | None = None) -> list[Alert]:
        """The alerts of a model, or all; the latest change first."""
        condition = sa.true() if resolved else schema.alerts.c.state != "resolved"
        if model is not None:
            condition = sa.and_(condition, schema.alerts.c.model == model)
        try:
            with self._catalogue.read() as connection:
                found = _alerts(connection, condition)
        except NotFound:
            return []
        return sorted(found.values(), key=lambda one: one.since, reverse=True)

    def find(self, alert: str) -> Alert:
        """One alert by its id. Raises `NotFound`."""
        with self._catalogue.read() as connection:
            return _one(connection, alert)

    def acknowledge(self, alert: str, *, by: str, why: str, now: datetime) -> Alert:
        """Note that a person works on it, so that it is not repeated.

        Raises:
            NotFound: There is no such alert.
            Conflict: It is resolved.
            Invalid: `why` is too long.
        """
        _check_why(why)
        with self._catalogue.write() as connection:
            if _one(connection, alert).state == "resolved":
                raise Conflict(f"alert {alert} is resolved", hint="bascule alerts list")
            _update(
                connection, alert,
                acknowledged_by=by, acknowledged_why=why, acknowledged_at=now,
            )  # fmt: skip
            _record(connection, alert, "alert_acknowledged", now, actor=by, reason=why)
            return _one(connection, alert)

    def silence(
        self,
        *,
        by: str,
        why: str,
        until: datetime,
        now: datetime,
        model: str = "*",
        source: str = "",
        alert: str = "",
    ) -> Silence:
        """Keep notifications back until then. Raises `Invalid`."""
        _check_why(why)
        if until <= now:
            raise Invalid(f"until: {until.isoformat()} is past", hint="give a time to come")
        made = Silence(secrets.token_hex(6), model, by, why, now, until, source, alert)
        with self._catalogue.write() as connection:
            connection.execute(sa.insert(schema.silences).values(**asdict(made)))
            body = {"until": until.isoformat(), "source": source, "alert": alert}
            subject = events.Subject("silence", model)
            events.append(connection, events.Event(subject, "silenced", now, by, why, body))
        return made

    def end_silence(self, silence: str, *, by: str, now: datetime) -> Silence:
        """End a silence now. Raises `NotFound`."""
        with self._catalogue.write() as connection:
            found = next((one for one in _silences(connection, now) if one.id == silence), None)
            if found is None:
                raise NotFound(f"no silence has the id {silence!r}", hint="bascule alerts list")
            table = schema.silences
            connection.execute(sa.update(table).where(table.c.id == silence).values(until=now))
            subject = events.Subject("silence", found.model)
            events.append(connection, events.Event(subject, "silence_ended", now, by))
        return found

    def silences(self, now: datetime) -> list[Silence]:
        """Those that hold, the first to end first."""
        try:
            with self._catalogue.read() as connection:
                return _silences(connection, now)
        except NotFound:
            return []

    def due(self, now: datetime) -> list[Waiting]:
        """Notifications to send now, in order; of each receiver only those behind none that waits.

        A receiver that is away keeps its own notifications back, and no others.
        """
        table = schema.notifications
        with self._catalogue.read() as connection:
            rows = connection.execute(
                sa.select(table).where(table.c.state == "waiting").order_by(table.c.number)
            ).all()
        behind: set[str] = set()
        found = []
        for row in rows:
            if row.due_at > now:
                behind.add(row.receiver)
            elif row.receiver not in behind:
                found.append(Waiting(_notification(row.body), row.attempts))
        return found

    def sent(self, lease: Lease, notification: Notification, now: datetime) -> None:
        """Note that a receiver has taken it."""
        self._settle(lease, notification, "sent", "", now)

    def failed(self, lease: Lease, notification: Notification, why: str, now: datetime) -> None:
        """Give it up."""
        self._settle(lease, notification, "failed", why, now)

    def postpone(self, lease: Lease, notification: Notification, why: str, until: datetime) -> None:
        """Try again at `until`."""
        table = schema.notifications
        with self._catalogue.write() as connection:
            check_held(connection, lease)
            connection.execute(
                sa.update(table)
                .where(table.c.id == notification.id)
                .values(due_at=until, attempts=table.c.attempts + 1, problem=why)
            )

    def undelivered(self) -> list[dict[str, Any]]:
        """What waits for a receiver that is away, or was given up, with the reason."""
        table = schema.notifications
        waiting = sa.select(table).where(table.c.state != "sent", table.c.attempts > 0)
        rows = self._catalogue.rows(waiting.order_by(table.c.number))
        return [
            {
                "id": row.id, "receiver": row.receiver, "at": row.at, "state": row.state,
                "attempts": row.attempts, "problem": row.problem,
            }
            for row in rows
        ]  # fmt: skip

    def failing(self) -> dict[str, tuple[datetime, int, str]]:
        """By receiver that did not take what it was last sent: since when, attempts, the reason."""
        table = schema.notifications
        latest = (
            sa.select(sa.func.max(table.c.number))
            .where(table.c.attempts > 0)
            .group_by(table.c.receiver)
        )
        with self._catalogue.read() as connection:
            rows = connection.execute(
                sa.select(table).where(table.c.number.in_(latest), table.c.state != "sent")
            ).all()
        return {row.receiver: (row.at, row.attempts, row.problem) for row in rows}

    def sweep(self, lease: Lease, now: datetime) -> None:
        """Remove what ended more than `KEEP_DAYS` ago; the history keeps its events."""
        before = now - timedelta(days=KEEP_DAYS)
        alerts, outbox, silences = schema.alerts, schema.notifications, schema.silences
        with self._catalogue.write() as connection:
            check_held(connection, lease)
            for table, is_old in (
                (alerts, sa.and_(alerts.c.state == "resolved", alerts.c.since < before)),
                (outbox, sa.and_(outbox.c.state != "waiting", outbox.c.at < before)),
                (silences, silences.c.until < before),
            ):
                connection.execute(sa.delete(table).where(is_old))

    def _settle(
        self, lease: Lease, notification: Notification, state: str, why: str, now: datetime
    ) -> None:
        table = schema.notifications
        with self._catalogue.write() as connection:
            check_held(connection, lease)
            attempts = table.c.attempts + 1
            connection.execute(
                sa.update(table)
                .where(table.c.id == notification.id)
                .values(state=state, attempts=attempts, problem=why)
            )
            body = {"receiver": notification.receiver, "notification": notification.id}
            for alert in notification.alerts:
                _record(connection, alert["id"], f"notification_{state}", now, reason=why, **body)


def _check_why(why: str) -> None:
    if len(why) > MAX_WHY or not why.strip():
        raise Invalid(
            f"why: {len(why):,} characters, not from 1 to {MAX_WHY:,}",
            hint="say the reason briefly",
        )


def _put(connection: sa.Connection, change: Change) -> None:
    table, alert = schema.alerts, change.alert
    if alert is None:
        connection.execute(sa.delete(table).where(table.c.id == change.id))
        return
    values: dict[str, Any] = {
        "model": alert.finding.model,
        "state": alert.state,
        "since": alert.since,
        "absent_since": alert.absent_since,
        "finding": alert.finding.to_json(),
    }
    new = insert(connection, table).values(id=change.id, told=[], **values)
    if alert.told_at is None:  # a new one, perhaps in place of one that was resolved
        values |= {"told": [], "told_at": None}
        if alert.acknowledgement is None:
            values |= _UNACKNOWLEDGED
    connection.execute(new.on_conflict_do_update(index_elements=[table.c.id], set_=values))
    if change.is_of_state:
        _record(
            connection, change.id, f"alert_{alert.state}", alert.since,
            reason=alert.finding.sentence, finding=alert.finding.to_json(),
        )  # fmt: skip


def _record(
    connection: sa.Connection,
    alert: str,
    kind: str,
    at: datetime,
    *,
    actor: str = ACTOR,
    reason: str = "",
    **body: Any,
) -> None:
    subject = events.Subject("alert", alert)
    events.append(connection, events.Event(subject, kind, at, actor, reason, body))


def _update(connection: sa.Connection, alert: str, **values: Any) -> None:
    table = schema.alerts
    connection.execute(sa.update(table).where(table.c.id == alert).values(values))


def _post(connection: sa.Connection, notifications: Iterable[Notification]) -> None:
    table = schema.notifications
    last = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0)))
    for number, one in enumerate(notifications, int(last or 0) + 1):
        new = insert(connection, table).values(
            id=one.id, number=number, receiver=one.receiver, at=one.at, state="waiting",
            body={**asdict(one), "at": one.at.isoformat()}, due_at=one.at, attempts=0, problem="",
        )  # fmt: skip
        connection.execute(new.on_conflict_do_nothing(index_elements=[table.c.id]))


def _notification(body: dict[str, Any]) -> Notification:
    at = datetime.fromisoformat(body["at"])
    return Notification(**{**body, "at": at, "alerts": tuple(body["alerts"])})


def _one(connection: sa.Connection, alert: str) -> Alert:
    found = _alerts(connection, schema.alerts.c.id == alert).get(alert)
    if found is None:
        raise NotFound(f"no alert has the id {alert!r}", hint="bascule alerts list")
    return found


def _alerts(
    connection: sa.Connection, condition: sa.ColumnElement[bool], *, lock: bool = False
) -> dict[str, Alert]:
    query = sa.select(schema.alerts).where(condition).order_by(schema.alerts.c.id)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    return {row.id: _alert(row) for row in rows}


def _alert(row: Any) -> Alert:
    said = None
    if row.acknowledged_at is not None:
        said = Acknowledgement(row.acknowledged_by, row.acknowledged_why, row.acknowledged_at)
    return Alert(
        Finding.from_json(row.finding), row.state, row.since, row.absent_since,
        tuple(row.told), row.told_at, said,
    )  # fmt: skip


def _silences(connection: sa.Connection, now: datetime) -> list[Silence]:
    table = schema.silences
    rows = connection.execute(
        sa.select(table).where(table.c.until > now).order_by(table.c.until, table.c.id)
    )
    return [Silence(**row._mapping) for row in rows]
