"""The registry's records in the catalogue: one code path for every database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from bascule.bundle.disk import Statement
from bascule.catalogue import Catalogue, events, identity_of, insert, put, put_new, where
from bascule.core import canonical_json, sha256_bytes
from bascule.registry.holding import Hold, Marked
from bascule.registry.metrics import metrics_of
from bascule.registry.search import Term
from bascule.registry.stores import schema
from bascule.registry.stores.searching import condition_of
from bascule.registry.versions import (
    Alias,
    Check,
    Deprecation,
    Event,
    Gates,
    Retirement,
    Version,
    verdict,
)
from bascule.security import Key, Permission

_MANY = 500


Uses = Callable[[sa.Connection, str], Iterable[str]]
"""What of another room needs a version, `MODEL/NUMBER`, in words."""


class Records:
    """Where names, numbers, aliases, history and statements are kept."""

    def __init__(self, catalogue: Catalogue, uses: Sequence[Uses] = ()) -> None:
        self._catalogue = catalogue
        self._uses = uses

    def create(self) -> None:
        """Make it ready to be written, where it is not yet; fine when it is there."""
        self._catalogue.create()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view. Raises `NotFound` where there is no catalogue; creates none."""
        with self._catalogue.read() as connection:
            yield Transaction(connection, self._uses)

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[Transaction]:
        """All or nothing, after and before others. Raises `NotFound` as `read` does.

        `alone`: no other writer runs beside, on PostgreSQL either; see `Catalogue.write`.
        """
        with self._catalogue.write(alone=alone) as connection:
            yield Transaction(connection, self._uses)


class Transaction:
    """A consistent view of the catalogue, and what may be written in one step.

    All lists are in the order of writing. Nothing is visible to others before the end of the
    `with` block, and nothing at all when it ends with an error.
    """

    def __init__(self, connection: sa.Connection, uses: Sequence[Uses] = ()) -> None:
        self._connection = connection
        self._uses = uses

    def models(self) -> Sequence[str]:
        return self._connection.scalars(
            sa.select(schema.models.c.name).order_by(schema.models.c.name)
        ).all()

    def lock_model(self, model: str, *, at: datetime) -> None:
        """Keep other writers from `model` until the end, and create it where it is new."""
        row = sa.select(schema.models).where(schema.models.c.name == model).with_for_update()
        if self._connection.execute(row).first() is not None:
            return
        try:
            with self._connection.begin_nested():
                self._connection.execute(sa.insert(schema.models).values(name=model, created_at=at))
        except sa.exc.IntegrityError:
            # Another writer made it between the two, on a database where writers run side by
            # side; now it can be waited for.
            self._connection.execute(row).one()

    def versions(self, model: str) -> Sequence[Version]:
        return self._versions(schema.versions.c.model == model)

    def version(self, model: str, number: int) -> Version | None:
        found = self._versions(where(schema.versions, model=model, number=number))
        return found[0] if found else None

    def versions_of(self, digest: str) -> Sequence[Version]:
        return self._versions(schema.versions.c.digest == digest)

    def add_version(self, model: str, digest: str, *, at: datetime, by: str) -> Version:
        """Give `digest` the next number of a locked model."""
        table = schema.versions
        newest = sa.select(sa.func.max(table.c.number)).where(table.c.model == model)
        number = 1 + (self._connection.scalar(newest) or 0)
        row = {"model": model, "number": number, "digest": digest, "pushed_at": at, "pushed_by": by}
        self._connection.execute(sa.insert(table).values(row))
        return self._versions(where(table, model=model, number=number))[0]

    def aliases(self, model: str) -> Mapping[str, Alias]:
        table = schema.aliases
        rows = self._connection.execute(
            sa.select(table).where(table.c.model == model).order_by(table.c.alias)
        )
        return {row.alias: Alias(row.model, row.alias, row.number, row.moved_at) for row in rows}

    def put_alias(self, alias: Alias) -> None:
        put(
            self._connection, schema.aliases, {"model": alias.model, "alias": alias.name},
            {"number": alias.number, "moved_at": alias.moved_at},
        )  # fmt: skip

    def drop_alias(self, model: str, alias: str) -> None:
        self._delete(schema.aliases, model=model, alias=alias)

    def events(self, model: str, latest: int | None = None) -> Sequence[Event]:
        subject = events.Subject("model", model)
        found = events.find(self._connection, subject=subject, latest_first=True, limit=latest)
        return [_event(one) for one in reversed(found)]

    def add_event(self, event: Event) -> None:
        events.append(
            self._connection,
            events.Event(
                events.Subject("model", event.model), event.kind, event.at, event.by, event.reason,
                {name: said for name in _IN_BODY if (said := getattr(event, name)) is not None},
            ),
        )  # fmt: skip

    def statements(self, digest: str, kind: str | None = None) -> Sequence[Statement]:
        """By the time that they carry, the latest last."""
        table = schema.statements
        query = sa.select(table).where(table.c.digest == digest).order_by(table.c.at, table.c.id)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        return [_statement(row) for row in self._connection.execute(query)]

    def checks(self, digest: str) -> Sequence[Check]:
        """The verdicts that count: all but passes that bundles brought, after a check here."""
        table = schema.statements
        rows = self._connection.execute(
            sa.select(table)
            .where(table.c.digest == digest, schema.counting_checks())
            .order_by(table.c.id)
        )
        return [Check(_statement(row), row.brought_by) for row in rows]

    def add_statement(self, statement: Statement, *, brought_by: str | None = None) -> bool:
        """Keep it; False when it was there already. `brought_by` is the user that pushed it."""
        table = schema.statements
        content = sha256_bytes(canonical_json(statement.to_json()))
        is_gates = statement.kind == "gates"
        # Of two writers that say the same at once, one waits, and finds it said.
        added = self._connection.scalar(
            insert(self._connection, table)
            .values(
                content=content,
                digest=statement.subject,
                kind=statement.kind,
                at=datetime.fromisoformat(statement.at),
                by=statement.by,
                passed=verdict(statement.body) if is_gates else None,
                body=dict(statement.body),
                brought_by=brought_by,
            )
            .on_conflict_do_nothing(index_elements=[table.c.content])
            .returning(table.c.id)
        )
        if added is not None:
            self._put_metrics(statement)
        return added is not None

    def _put_metrics(self, statement: Statement) -> None:
        table, at = schema.metrics, datetime.fromisoformat(statement.at)
        for name, value in metrics_of(statement).items():
            new = insert(self._connection, table).values(
                digest=statement.subject, name=name, value=value, at=at
            )
            self._connection.execute(
                new.on_conflict_do_update(
                    index_elements=[table.c.digest, table.c.name],
                    set_={"value": value, "at": at},
                    where=table.c.at <= at,
                )
            )

    def search(self, terms: Sequence[Term], limit: int) -> Sequence[Version]:
        """Those that meet every term, the latest pushed first."""
        table = schema.versions
        wanted = (
            sa.select(table.c.model, table.c.number)
            .where(condition_of(terms))
            .order_by(table.c.pushed_at.desc(), table.c.model, table.c.number.desc())
            .limit(limit)
        )
        keys = [(row.model, row.number) for row in self._connection.execute(wanted)]
        found: dict[tuple[str, int], Version] = {}
        for start in range(0, len(keys), _MANY):
            some = sa.tuple_(table.c.model, table.c.number).in_(keys[start : start + _MANY])
            found |= {(one.model, one.number): one for one in self._versions(some)}
        return [found[key] for key in keys]

    def tags(self, model: str, number: int) -> Mapping[str, str]:
        table = schema.tags
        mine = sa.select(table).where(where(table, model=model, number=number))
        rows = self._connection.execute(mine.order_by(table.c.key))
        return {row.key: row.value for row in rows}

    def put_tag(self, model: str, number: int, key: str, value: str) -> None:
        tag = {"model": model, "number": number, "key": key}
        put(self._connection, schema.tags, tag, {"value": value})

    def drop_tag(self, model: str, number: int, key: str) -> None:
        self._delete(schema.tags, model=model, number=number, key=key)

    def metrics(self, digest: str) -> Mapping[str, float]:
        """The latest figure of each name."""
        table = schema.metrics
        rows = self._connection.execute(
            sa.select(table).where(table.c.digest == digest).order_by(table.c.name)
        )
        return {row.name: row.value for row in rows}

    def put_retirement(self, model: str, number: int, retired: Retirement | None) -> None:
        at, by, reason = astuple(retired) if retired else (None, None, None)
        self._set_version(model, number, retired_at=at, retired_by=by, retired_reason=reason)

    def put_deprecation(self, model: str, number: int, said: Deprecation | None) -> None:
        deprecation = None if said is None else msgspec.to_builtins(said)
        self._set_version(model, number, deprecation=deprecation)

    def _set_version(self, model: str, number: int, **values: Any) -> None:
        row = where(schema.versions, model=model, number=number)
        self._connection.execute(sa.update(schema.versions).where(row).values(values))

    def _delete(self, table: sa.Table, **key: Any) -> None:
        self._connection.execute(sa.delete(table).where(where(table, **key)))

    def deprecated(self) -> Sequence[Version]:
        """The versions in use that are deprecated, of every model."""
        table = schema.versions
        return self._versions(
            sa.and_(table.c.deprecation.is_not(sa.null()), table.c.retired_at.is_(None))
        )

    def needed_by(self, version: str) -> Sequence[str]:
        """What needs a version beside aliases, in words; see `sql.Uses`."""
        return [text for find in self._uses for text in find(self._connection, version)]

    def identity(self) -> str:
        """What tells this catalogue from every other, for ever."""
        return identity_of(self._connection)

    def lock_object(self, digest: str, *, at: datetime) -> Marked:
        """Keep others from a digest until the end; how far its removal has come."""
        table = schema.objects
        locked = sa.select(table).where(table.c.digest == digest).with_for_update()
        row = None
        while row is None:  # a removal that ends between the two statements takes the row away
            put_new(self._connection, table, {"digest": digest}, {"state": "kept", "since": at})
            row = self._connection.execute(locked).one_or_none()
        return Marked(row.state, row.since)

    def put_object(self, digest: str, marked: Marked) -> None:
        row = where(schema.objects, digest=digest)
        self._connection.execute(sa.update(schema.objects).where(row).values(asdict(marked)))

    def forget_object(self, digest: str) -> None:
        for table in (schema.objects, schema.holds):
            self._delete(table, digest=digest)

    def objects(self) -> Mapping[str, Marked]:
        rows = self._connection.execute(sa.select(schema.objects))
        return {row.digest: Marked(row.state, row.since) for row in rows}

    def holds(self, digest: str) -> Sequence[Hold]:
        table = schema.holds
        rows = self._connection.execute(
            sa.select(table).where(table.c.digest == digest).order_by(table.c.holder)
        )
        return [Hold(**row) for row in rows.mappings()]

    def put_hold(self, hold: Hold) -> None:
        holder = {"digest": hold.digest, "holder": hold.holder}
        put(self._connection, schema.holds, holder, {"until": hold.until})

    def drop_hold(self, digest: str, holder: str) -> None:
        self._delete(schema.holds, digest=digest, holder=holder)

    def keys(self, name: str | None = None) -> Sequence[Key]:
        """Of callers, in the order of making; all, or those of a name."""
        table = schema.keys
        query = sa.select(*(column for column in table.c if column is not table.c.number))
        if name is not None:
            query = query.where(table.c.name == name)
        rows = self._connection.execute(query.order_by(table.c.number))
        return [
            Key(**{**row, "permissions": tuple(map(Permission.parse, row["permissions"]))})
            for row in rows.mappings()
        ]

    def add_key(self, key: Key) -> None:
        said = [str(permission) for permission in key.permissions]
        values = {one.name: getattr(key, one.name) for one in fields(key)}
        self._connection.execute(sa.insert(schema.keys).values({**values, "permissions": said}))
        until = None if key.expires_at is None else key.expires_at.isoformat()
        body = {"name": key.name, "permissions": said, "expires_at": until}
        self._note_key(key.id, "key_created", key.created_at, key.created_by, body)

    def change_key(
        self, key_id: str, permissions: Sequence[Permission], *, expires_at: datetime | None,
        at: datetime, by: str, reason: str,
    ) -> None:  # fmt: skip
        """Give a key other rights, and record it in the history."""
        said = [str(permission) for permission in permissions]
        row = sa.update(schema.keys).where(schema.keys.c.id == key_id)
        self._connection.execute(row.values(permissions=said, expires_at=expires_at))
        until = None if expires_at is None else expires_at.isoformat()
        body = {"permissions": said, "expires_at": until}
        self._note_key(key_id, "key_changed", at, by, body, reason)

    def end_key(self, key_id: str, *, at: datetime, by: str) -> None:
        """Revoke it; one that is revoked stays as it is."""
        table = schema.keys
        ended = self._connection.scalar(
            sa.update(table)
            .where(table.c.id == key_id, table.c.revoked_at.is_(None))
            .values(revoked_at=at, revoked_by=by)
            .returning(table.c.name)
        )
        if ended is not None:
            self._note_key(key_id, "key_revoked", at, by, {"name": ended})

    def _note_key(
        self, key_id: str, kind: str, at: datetime, by: str, body: Mapping[str, Any],
        reason: str = "",
    ) -> None:  # fmt: skip
        subject = events.Subject("key", key_id)
        events.append(self._connection, events.Event(subject, kind, at, by, reason, body))

    def _versions(self, condition: sa.ColumnElement[bool]) -> Sequence[Version]:
        table, said = schema.versions, schema.statements
        rows = self._connection.execute(
            sa.select(table).where(condition).order_by(table.c.model, table.c.number)
        ).all()
        verdicts: dict[str, bool] = {
            row.digest: row.passed
            for row in self._connection.execute(
                sa.select(said.c.digest, said.c.passed)
                .join(table, table.c.digest == said.c.digest)
                .where(condition, schema.counting_checks())
                .order_by(said.c.id)
            )
        }
        return [_version(row, verdicts) for row in rows]


_IN_BODY = ("number", "alias", "from_number", "to_number", "key", "from_value", "to_value")
"""What is particular to events of models."""


def _event(found: events.Event) -> Event:
    body = {name: found.body.get(name) for name in _IN_BODY}
    return Event(
        kind=found.kind, model=found.subject.name, at=found.at, by=found.actor, reason=found.reason,
        **body,
    )  # fmt: skip


def _statement(row: Any) -> Statement:
    return Statement(row.kind, row.digest, row.at.isoformat(), row.by, row.body)


def _version(row: Any, verdicts: Mapping[str, bool]) -> Version:
    gates: Gates = "unchecked"
    if row.digest in verdicts:
        gates = "passed" if verdicts[row.digest] else "failed"
    return Version(
        model=row.model,
        number=row.number,
        digest=row.digest,
        pushed_at=row.pushed_at,
        pushed_by=row.pushed_by,
        gates=gates,
        retired=None
        if row.retired_at is None
        else Retirement(row.retired_at, row.retired_by, row.retired_reason),
        deprecated=None
        if row.deprecation is None
        else msgspec.convert(row.deprecation, Deprecation),
    )
