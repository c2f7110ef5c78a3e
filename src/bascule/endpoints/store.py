"""Endpoints and plans in the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from bascule.catalogue import Catalogue, Lease, Watch, check_held, events, put_new
from bascule.core import Conflict, NotFound
from bascule.endpoints import schema
from bascule.endpoints.plans import Plan
from bascule.endpoints.records import PlanEvent, StoredEndpoint, StoredPlan

SUBJECT = "endpoint"


class Follows(NamedTuple):
    """The source of an endpoint: the alias (empty for none), and what a move deploys with."""

    alias: str
    deploys_with: Mapping[str, Any]


class Move(NamedTuple):
    """A move of an alias that is acted on: its event, and the lease under which that is done."""

    event: int
    lease: Lease


class EndpointStore:
    """See the module. A catalogue that is not there yet has no endpoints."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._newest: dict[str, StoredPlan] = {}  # as last read: stored plans never change

    def watch(self) -> Watch:
        """Waits for changes; see `Catalogue.watch`."""
        return self.catalogue.watch()

    def endpoints(self, names: Sequence[str] | None = None) -> list[StoredEndpoint]:
        """The endpoints, by name; of these names alone if given."""
        newest = (
            sa.select(schema.plans.c.endpoint, sa.func.max(schema.plans.c.number).label("number"))
            .group_by(schema.plans.c.endpoint)
            .subquery()
        )
        query = (
            sa.select(schema.plans, schema.endpoints.c.follows, schema.endpoints.c.following)
            .join(schema.endpoints, schema.endpoints.c.name == schema.plans.c.endpoint)
            .join(
                newest,
                sa.and_(
                    newest.c.endpoint == schema.plans.c.endpoint,
                    newest.c.number == schema.plans.c.number,
                ),
            )
            .where(schema.endpoints.c.deleted_at.is_(None))
            .order_by(schema.plans.c.endpoint)
        )
        if names is not None:
            query = query.where(schema.plans.c.endpoint.in_(names))
        return [
            StoredEndpoint(row.endpoint, row.follows, self._current(row), row.following or {})
            for row in self.catalogue.rows(query)
        ]

    def _current(self, row: Any) -> StoredPlan:
        known = self._newest.get(row.endpoint)
        if known is None or (known.plan.number, known.made_at) != (row.number, row.made_at):
            known = self._newest[row.endpoint] = _stored(row)
        return known

    def deleted(self, names: Collection[str]) -> set[str]:
        """Which of these endpoints were deleted."""
        table = schema.endpoints
        query = sa.select(table.c.name).where(
            table.c.name.in_(names), table.c.deleted_at.is_not(None)
        )
        return {row.name for row in self.catalogue.rows(query)}

    def last_number(self, name: str) -> int:
        """The number of the last plan, also of an endpoint that was deleted; 0 for none."""
        with suppress(NotFound), self.catalogue.read() as connection:
            return _newest(connection, name)
        return 0

    def endpoint(self, name: str) -> StoredEndpoint:
        """One endpoint; raises `NotFound`."""
        found = self.endpoints([name])
        if not found:
            raise no_endpoint(name)
        return found[0]

    def plans(self, name: str, *, latest: int | None = None) -> list[StoredPlan]:
        """The plans of an endpoint, the newest first, also of a deleted one; raises `NotFound`.

        `latest`: so many of the newest ones; all if None.
        """
        query = sa.select(schema.plans).where(schema.plans.c.endpoint == name)
        query = query.order_by(schema.plans.c.number.desc()).limit(latest)
        rows = self.catalogue.rows(query)
        if not rows:
            raise no_endpoint(name)
        return [_stored(row) for row in rows]

    def plan(self, name: str, number: int) -> StoredPlan:
        """One plan; raises `NotFound`."""
        found = next((one for one in self.plans(name) if one.plan.number == number), None)
        if found is None:
            raise NotFound(
                f"endpoint {name} has no plan {number}", hint=f"bascule history {name} lists them"
            )
        return found

    def add(
        self, stored: Sequence[StoredPlan], happened: Sequence[PlanEvent], *,
        follows: Follows | None = None, move: Move | None = None,
    ) -> None:  # fmt: skip
        """Add plans of one endpoint, with the history, in one transaction.

        Args:
            stored: The next plans, in their order.
            happened: What is recorded of it.
            follows: The endpoint's source from now on; None for that of now.
            move: The move of an alias that is the cause; None for another cause.

        Raises:
            Conflict: Another plan was made meanwhile.
        """
        self.catalogue.create()
        with self.catalogue.write() as connection:
            self.add_in(connection, stored, happened, follows=follows)
            if move is not None:
                self.note_move(connection, stored[0].plan.endpoint, move)

    def add_in(
        self,
        connection: sa.Connection,
        stored: Sequence[StoredPlan],
        happened: Sequence[PlanEvent | events.Event],
        *,
        follows: Follows | None = None,
    ) -> None:
        """The same as a part of a transaction."""
        name = stored[0].plan.endpoint
        self.lock(connection, name, stored[0].made_at)
        newest = _newest(connection, name)
        if stored[0].plan.number != newest + 1:
            raise Conflict(
                f"endpoint {name} has plan {newest} now: another change was made meanwhile",
                hint="look at it again: bascule endpoints",
            )
        connection.execute(sa.insert(schema.plans), [_row(one) for one in stored])
        self._set(connection, name, deleted_at=None)
        if follows is not None:
            self.follow(connection, name, follows)
        for event in happened:
            self.note(connection, name, event)

    def follow(self, connection: sa.Connection, name: str, follows: Follows) -> None:
        """Set the source of an endpoint. Moves of before are not acted on."""
        moves = _moves(connection, follows.alias)
        self._set(
            connection, name, follows=follows.alias, following=dict(follows.deploys_with),
            followed=moves[-1].id if moves else 0,
        )  # fmt: skip

    def note(self, connection: sa.Connection, name: str, event: PlanEvent | events.Event) -> None:
        """Record an event of an endpoint."""
        made = event if isinstance(event, events.Event) else _event_of(name, event)
        events.append(connection, made)

    def record(self, name: str, event: PlanEvent) -> None:
        """The same in a transaction of its own."""
        with self.catalogue.write() as connection:
            self.note(connection, name, event)

    def note_move(self, connection: sa.Connection, name: str, move: Move) -> None:
        """Note that a move of the endpoint's alias was acted on.

        Raises:
            Conflict: It was before; or the lease is not held.
        """
        check_held(connection, move.lease)
        table = schema.endpoints
        done = connection.execute(
            sa.update(table)
            .where(table.c.name == name, sa.func.coalesce(table.c.followed, 0) < move.event)
            .values(followed=move.event)
        )
        if not done.rowcount:
            raise Conflict(f"the move {move.event} was acted on before", hint="look again")

    def moves(self) -> dict[str, events.Event]:
        """By endpoint, the last move of the alias that it follows, if it was not acted on yet."""
        table, found = schema.endpoints, {}
        query = sa.select(table).where(table.c.follows != "", table.c.deleted_at.is_(None))
        with suppress(NotFound), self.catalogue.read() as connection:
            for row in connection.execute(query).all():
                for event in _moves(connection, row.follows, row.followed or 0)[-1:]:
                    found[row.name] = event
        return found

    def delete(self, connection: sa.Connection, name: str, event: PlanEvent) -> None:
        """Mark an endpoint as deleted; its plans and its history stay."""
        self._set(connection, name, deleted_at=event.at, follows="", following=None)
        self.note(connection, name, event)

    def _set(self, connection: sa.Connection, name: str, **values: Any) -> None:
        row = schema.endpoints.c.name == name
        connection.execute(sa.update(schema.endpoints).where(row).values(**values))

    def history(self, name: str, *, latest: int | None = None) -> list[PlanEvent]:
        """What happened to an endpoint, in the order of recording; `latest`: as in `plans`."""
        subject = events.Subject(SUBJECT, name)
        with suppress(NotFound), self.catalogue.read() as connection:
            found = events.find(connection, subject=subject, latest_first=True, limit=latest)
            return [_event(one) for one in reversed(found)]
        return []

    def lock(self, connection: sa.Connection, name: str, at: datetime) -> None:
        """Have other changes of an endpoint wait for the end of the transaction."""
        put_new(connection, schema.endpoints, {"name": name}, {"follows": "", "created_at": at})
        row = sa.select(schema.endpoints).where(schema.endpoints.c.name == name)
        connection.execute(row.with_for_update()).one()


def no_endpoint(name: str) -> NotFound:
    return NotFound(
        f"no endpoint {name!r} has a plan",
        hint=f"bascule deploy MODEL/VERSION --to {name} makes one",
    )


def plans_needing(connection: sa.Connection, version: str) -> Iterator[str]:
    """What of the current plans needs a version, in words."""
    newest = sa.select(schema.plans.c.endpoint, sa.func.max(schema.plans.c.number)).group_by(
        schema.plans.c.endpoint
    )
    table = schema.plans
    query = (
        sa.select(table.c.content)
        .join(schema.endpoints, schema.endpoints.c.name == table.c.endpoint)
        .where(
            sa.tuple_(table.c.endpoint, table.c.number).in_(newest),
            schema.endpoints.c.deleted_at.is_(None),
        )
        .order_by(table.c.endpoint)
    )
    for content in connection.scalars(query):
        plan = Plan.from_json(content)
        parts = [f"arm {arm.name}" for arm in plan.arms if arm.version == version]
        if plan.shadow is not None and plan.shadow.version == version:
            parts.append("its shadow")
        if plan.fallback == version:
            parts.append("its fallback")
        if parts:
            said = ", ".join(parts)
            yield f"plan {plan.number} of endpoint {plan.endpoint} needs it ({said})"


def _newest(connection: sa.Connection, name: str) -> int:
    query = sa.select(sa.func.max(schema.plans.c.number)).where(schema.plans.c.endpoint == name)
    return connection.scalar(query) or 0


def _moves(connection: sa.Connection, alias: str, after: int = 0) -> list[events.Event]:
    """The moves of an alias, `MODEL@ALIAS`, after an event, in their order."""
    model, _, name = alias.partition("@")
    found = events.find(
        connection, subject=events.Subject("model", model), cursor=after,
        kinds=("alias_moved", "alias_dropped"),
    )  # fmt: skip
    return [one for one in found if one.body.get("alias") == name]


def _row(one: StoredPlan) -> dict[str, Any]:
    return {
        "endpoint": one.plan.endpoint, "number": one.plan.number, "content": one.plan.to_json(),
        "made_at": one.made_at, "made_by": one.made_by, "reason": one.reason,
    }  # fmt: skip


def _stored(row: Any) -> StoredPlan:
    return StoredPlan(Plan.from_json(row.content), row.made_at, row.made_by, row.reason)


def _event_of(name: str, event: PlanEvent) -> events.Event:
    body = {**event.body, "sentence": event.sentence}
    subject = events.Subject(SUBJECT, name)
    return events.Event(subject, event.kind, event.at, event.by, event.reason, body)


def _event(found: events.Event) -> PlanEvent:
    body = dict(found.body)
    sentence = body.pop("sentence", "")
    return PlanEvent(found.kind, found.at, found.actor, found.reason, sentence, body)
