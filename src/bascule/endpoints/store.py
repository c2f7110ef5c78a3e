"""Endpoints and plans in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, Watch, events, insert
from bascule.core import Conflict, NotFound
from bascule.endpoints import schema
from bascule.endpoints.plans import Plan
from bascule.endpoints.records import Endpoint, PlanEvent, StoredPlan

SUBJECT = "endpoint"


class EndpointStore:
    """See the module. A catalogue that is not there yet has no endpoints."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def watch(self) -> Watch:
        """Waits for changes; see `Catalogue.watch`."""
        return self._catalogue.watch()

    def endpoints(self, names: Sequence[str] | None = None) -> list[Endpoint]:
        """The endpoints, by name; of these names alone if given."""
        newest = (
            sa.select(schema.plans.c.endpoint, sa.func.max(schema.plans.c.number).label("number"))
            .group_by(schema.plans.c.endpoint)
            .subquery()
        )
        query = (
            sa.select(schema.plans, schema.endpoints.c.follows)
            .join(schema.endpoints, schema.endpoints.c.name == schema.plans.c.endpoint)
            .join(
                newest,
                sa.and_(
                    newest.c.endpoint == schema.plans.c.endpoint,
                    newest.c.number == schema.plans.c.number,
                ),
            )
            .order_by(schema.plans.c.endpoint)
        )
        if names is not None:
            query = query.where(schema.plans.c.endpoint.in_(names))
        with suppress(NotFound), self._catalogue.read() as connection:
            rows = connection.execute(query).all()
            return [Endpoint(row.endpoint, row.follows, _stored(row)) for row in rows]
        return []

    def endpoint(self, name: str) -> Endpoint:
        """One endpoint; raises `NotFound`."""
        found = self.endpoints([name])
        if not found:
            raise NotFound(
                f"no endpoint {name!r} has a plan",
                hint=f"bascule deploy MODEL/VERSION --to {name} makes one",
            )
        return found[0]

    def plans(self, name: str) -> list[StoredPlan]:
        """Every plan of an endpoint, the newest first; raises `NotFound`."""
        self.endpoint(name)
        query = sa.select(schema.plans).where(schema.plans.c.endpoint == name)
        with self._catalogue.read() as connection:
            rows = connection.execute(query.order_by(schema.plans.c.number.desc())).all()
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
        self, stored: Sequence[StoredPlan], happened: Sequence[PlanEvent], *, follows: str | None
    ) -> None:
        """Add plans of one endpoint, with the history, in one transaction.

        Args:
            stored: The next plans, in their order.
            happened: What is recorded of it.
            follows: The endpoint's source from now on; None for that of now.

        Raises:
            Conflict: Another plan was made meanwhile.
        """
        self._catalogue.create()
        with self._catalogue.write() as connection:
            self.add_in(connection, stored, happened, follows=follows)

    def add_in(
        self,
        connection: sa.Connection,
        stored: Sequence[StoredPlan],
        happened: Sequence[PlanEvent | events.Event],
        *,
        follows: str | None = None,
    ) -> None:
        """The same as a part of a transaction."""
        name = stored[0].plan.endpoint
        self.lock(connection, name, stored[0].made_at)
        newest = connection.scalar(
            sa.select(sa.func.max(schema.plans.c.number)).where(schema.plans.c.endpoint == name)
        )
        if stored[0].plan.number != (newest or 0) + 1:
            raise Conflict(
                f"endpoint {name} has plan {newest} now: another change was made meanwhile",
                hint="look at it again: bascule endpoints",
            )
        connection.execute(sa.insert(schema.plans), [_row(one) for one in stored])
        if follows is not None:
            row = schema.endpoints.c.name == name
            connection.execute(sa.update(schema.endpoints).where(row).values(follows=follows))
        for event in happened:
            made = event if isinstance(event, events.Event) else _event_of(name, event)
            events.append(connection, made)

    def history(self, name: str) -> list[PlanEvent]:
        """What happened to an endpoint, in the order of recording."""
        with suppress(NotFound), self._catalogue.read() as connection:
            found = events.find(connection, subject=events.Subject(SUBJECT, name))
            return [_event(one) for one in found]
        return []

    def lock(self, connection: sa.Connection, name: str, at: datetime) -> None:
        """Have other changes of an endpoint wait for the end of the transaction."""
        made = insert(connection, schema.endpoints).values(name=name, follows="", created_at=at)
        connection.execute(made.on_conflict_do_nothing(index_elements=[schema.endpoints.c.name]))
        row = sa.select(schema.endpoints).where(schema.endpoints.c.name == name)
        connection.execute(row.with_for_update()).one()


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
