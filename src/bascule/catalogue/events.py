"""What happened, to what, when, by whom and why: one history for all rooms, only ever added to.

A room records its own kinds of events about its own kinds of subjects, in the transaction that
makes the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from bascule.catalogue import sealing
from bascule.catalogue.event import Event as Event, Subject as Subject, event_of
from bascule.catalogue.schema import events as _table


def append(connection: sa.Connection, event: Event) -> int:
    """Record an event with the transaction; returns its id, which grows with each event.

    `Catalogue.write` adds it to the audit chain at the end of the transaction (`sealing`).

    On PostgreSQL ids are given out before commits: of two subjects, the event with the greater id
    may be visible first. Events of one subject are in order where its writers lock it.
    """
    added = sa.insert(_table).values(
        subject_kind=event.subject.kind,
        subject=event.subject.name,
        kind=event.kind,
        at=event.at,
        actor=event.actor,
        reason=event.reason,
        body=dict(event.body),
    )
    event_id = int(connection.execute(added.returning(_table.c.id)).scalar_one())
    sealing.note(connection, replace(event, id=event_id))
    return event_id


def lock(connection: sa.Connection, subject: Subject) -> None:
    """Have other writers that lock this subject wait for the end of the transaction.

    On SQLite writers take turns anyway. A subject without events is not locked.
    """
    first = (
        sa.select(_table.c.id)
        .where(_table.c.subject_kind == subject.kind, _table.c.subject == subject.name)
        .order_by(_table.c.id)
        .limit(1)
    )
    connection.execute(first.with_for_update()).all()


def find(
    connection: sa.Connection,
    *,
    subject: Subject | None = None,
    subject_kind: str | None = None,
    subject_name: str | None = None,
    without: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: int | None = None,
    latest_first: bool = False,
    limit: int | None = None,
) -> list[Event]:
    """The events that meet every condition given, in the order of recording.

    Args:
        connection: Of a transaction.
        subject: About this subject alone.
        subject_kind: About any subject of this kind.
        subject_name: About any subject of this name.
        without: About no subject of these kinds.
        kinds: Of these kinds.
        actor: By this actor.
        since: Recorded at this time or later.
        until: Recorded before this time.
        cursor: The id of the last event of the page before; starts after it.
        latest_first: Whether to go backwards.
        limit: At most so many.
    """
    query = sa.select(_table).order_by(_table.c.id.desc() if latest_first else _table.c.id)
    if subject is not None:
        query = query.where(_table.c.subject_kind == subject.kind, _table.c.subject == subject.name)
    if subject_kind is not None:
        query = query.where(_table.c.subject_kind == subject_kind)
    if subject_name is not None:
        query = query.where(_table.c.subject == subject_name)
    if without:
        query = query.where(_table.c.subject_kind.not_in(without))
    if kinds is not None:
        query = query.where(_table.c.kind.in_(kinds))
    if actor is not None:
        query = query.where(_table.c.actor == actor)
    if since is not None:
        query = query.where(_table.c.at >= since)
    if until is not None:
        query = query.where(_table.c.at < until)
    if cursor is not None:
        query = query.where(_table.c.id < cursor if latest_first else _table.c.id > cursor)
    return [event_of(row) for row in connection.execute(query.limit(limit))]
