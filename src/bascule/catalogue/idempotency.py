"""Requests that may be sent twice and act once: the reply is kept under the caller's key.

After the `Idempotency-Key` header of the IETF's HTTPAPI working group.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from bascule.catalogue import schema
from bascule.catalogue.catalogue import Catalogue
from bascule.core import Conflict, Invalid

KEPT = timedelta(hours=24)
"""How long a reply is replayed."""

UNDER_WAY_LIMIT = timedelta(minutes=10)
"""How long a request may take; after that its process is presumed dead."""

_table = schema.requests


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Requests:
    """The requests of the last 24 hours that carried a key."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def begin(self, key: str, caller: str, digest: str, *, now: datetime) -> Reply | None:
        """The reply to the same request, if it was answered; None: go on, then call `finish`.

        Args:
            key: As the client chose it.
            caller: The client, so that keys of two clients never meet.
            digest: Of the route and the body.
            now: The time.

        Raises:
            Invalid: The key came with another request, whose digest differs.
            Conflict: The first request is under way.
        """
        self._catalogue.create()
        with self._catalogue.write() as connection:
            _prune(connection, now)
            new = (
                schema.insert(connection, _table)
                .values(caller=caller, key=key, digest=digest, at=now)
                .on_conflict_do_nothing(index_elements=[_table.c.caller, _table.c.key])
            )
            if connection.execute(new.returning(_table.c.key)).first() is not None:
                return None
            row = connection.execute(
                sa.select(_table).where(_is(key, caller)).with_for_update()
            ).first()
            if row is not None and row.digest != digest:
                raise Invalid(
                    f"Idempotency-Key {key!r} was used for a request with another route or body",
                    hint="use a new key for each request, and the same key only to repeat one",
                )
            if row is not None and row.status is not None:
                return Reply(row.status, tuple(map(tuple, row.headers)), row.body)
            if row is None or now - row.at < UNDER_WAY_LIMIT:
                raise Conflict(
                    f"the first request with Idempotency-Key {key!r} is under way",
                    hint="wait, then send the same request again",
                )
            connection.execute(sa.update(_table).where(_is(key, caller)).values(at=now))
            return None

    def finish(self, key: str, caller: str, reply: Reply) -> None:
        """Keep the reply for those that send the request again."""
        with self._catalogue.write() as connection:
            connection.execute(
                sa.update(_table)
                .where(_is(key, caller))
                .values(status=reply.status, headers=reply.headers, body=reply.body)
            )

    def forget(self, key: str, caller: str) -> None:
        """Free the key of a request without a reply to keep, so that it may be sent again."""
        with self._catalogue.write() as connection:
            connection.execute(sa.delete(_table).where(_is(key, caller)))


def _is(key: str, caller: str) -> sa.ColumnElement[bool]:
    return sa.and_(_table.c.caller == caller, _table.c.key == key)


def _prune(connection: sa.Connection, now: datetime) -> None:
    # Locked rows are left to the next call: two that prune at once never wait for each other.
    old = (
        sa.select(_table.c.caller, _table.c.key)
        .where(_table.c.at <= now - KEPT)
        .with_for_update(skip_locked=True)
    )
    connection.execute(sa.delete(_table).where(sa.tuple_(_table.c.caller, _table.c.key).in_(old)))
