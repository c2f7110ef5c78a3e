"""What the tables of all rooms share, and the tables that no single room owns.

Each room defines its own tables on `metadata`. A change of any of them needs a migration
(`migrations/versions`) and a new `HEAD`; tests compare the two. Only what SQLite and PostgreSQL
both have is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from bascule.core import in_utc

HEAD = "0015"
"""The newest migration. Kept here so that an ordinary start need not import the migration tool."""
FLOOR = "0012"
"""The oldest schema whose releases can use this one: a migration that only adds leaves it as it is.

What a release still reads or writes is removed by the release after the next, which raises it."""


class UtcTime(TypeDecorator[datetime]):
    """A moment. Databases without time zones hold it in UTC; it always comes back with one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone names no moment")
        moment = in_utc(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        moment: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC)


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

identity = sa.Table(
    "identity",
    metadata,
    sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.Text, nullable=False),
)
"""One row: what tells this catalogue from every other, so that it collects no other's objects."""

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("revision", sa.Text, primary_key=True),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("floor", sa.Text),
)
"""Which release of Bascule brought the catalogue to which schema, and from which schema on releases
can use that one (`floor`)."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("subject_kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False, index=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Index(None, "subject_kind", "subject", "id"),
    sa.Index(None, "subject", "id"),
    sa.Index(None, "actor", "id"),
    # Numbers of deleted rows are never given out again: history is only added to.
    sqlite_autoincrement=True,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
)
"""A row stays after its lease has ended, so that its fence never goes back."""

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False, index=True),
    # Of the reply; none while the request is under way.
    sa.Column("status", sa.Integer),
    sa.Column("headers", sa.JSON),
    sa.Column("body", sa.LargeBinary),
)
"""Requests that carried an idempotency key, with their replies."""

audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("chain", sa.Text, nullable=False),
    sa.Column("after_event", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)
"""One row, which is locked to add to the chain: its id, the last event that is older than the
chain, and its last entry."""

audit_chain = sa.Table(
    "audit_chain",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event", sa.Integer, sa.ForeignKey("events.id"), nullable=False, unique=True),
    sa.Column("digests", sa.JSON, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)
"""See `chain`. Only ever added to."""

audit_values = sa.Table(
    "audit_values",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, primary_key=True, index=True),
    sa.Column("sealed", sa.Text, nullable=False),
)
"""Salts and origins of entries, encrypted by the key of a person."""

audit_keys = sa.Table(
    "audit_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("person", sa.Text, nullable=False, unique=True),
    sa.Column("key", sa.Text, nullable=False),
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("act", sa.JSON, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("at", UtcTime, nullable=False, index=True),
    sa.Column("ends_at", UtcTime, nullable=False),
    sa.Column("decided_by", sa.Text),
    sa.Column("outcome", sa.JSON),
)
"""Requests that wait for, or had, the approval of a second person."""


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An `INSERT` that may say `ON CONFLICT`, which both databases write the same way."""
    if connection.dialect.name == "postgresql":
        # With all its drivers: the slowest part of the start of a process that has SQLite.
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def put(
    connection: sa.Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Set these columns of the row of a key, which is made if it is not there."""
    new = insert(connection, table).values(**key, **values)
    connection.execute(new.on_conflict_do_update(index_elements=[*key], set_=values))


def put_new(
    connection: sa.Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Make the row of a key; one that is there stays as it is."""
    new = insert(connection, table).values(**key, **values)
    connection.execute(new.on_conflict_do_nothing(index_elements=[*key]))


def where(table: sa.Table, **values: Any) -> sa.ColumnElement[bool]:
    """Whether the columns of a row have these values."""
    return sa.and_(*(table.c[name] == value for name, value in values.items()))
