"""Events of every kind of subject, leases, and requests with an idempotency key."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IN_BODY = ("number", "alias", "from_number", "to_number", "key", "from_value", "to_value")
_MANY = 1_000


def upgrade() -> None:
    # Copied aside first: the new table takes over the name, and the names of its constraints.
    op.execute("CREATE TABLE events_0004 AS SELECT * FROM events")
    op.drop_table("events")
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("subject_kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index(
        "ix_events_subject_kind_subject_id", "events", ["subject_kind", "subject", "id"]
    )
    _move_events()
    op.drop_table("events_0004")
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "requests",
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.JSON),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("caller", "key", name="pk_requests"),
    )
    op.create_index("ix_requests_at", "requests", ["at"])


def _move_events() -> None:
    connection, last = op.get_bind(), 0
    some = sa.text("SELECT * FROM events_0004 WHERE id > :last ORDER BY id LIMIT :many")
    into = sa.text(
        "INSERT INTO events (id, subject_kind, subject, kind, at, actor, reason, body) "
        "VALUES (:id, 'model', :model, :kind, :at, :by, :reason, :body)"
    ).bindparams(sa.bindparam("body", type_=sa.JSON))
    while rows := connection.execute(some, {"last": last, "many": _MANY}).mappings().all():
        last = rows[-1]["id"]
        connection.execute(into, [_moved(dict(row)) for row in rows])
    if last and connection.dialect.name == "postgresql":
        connection.execute(
            sa.text("SELECT setval(pg_get_serial_sequence('events', 'id'), :last)"), {"last": last}
        )


def _moved(row: dict[str, Any]) -> dict[str, Any]:
    body = {name: row.pop(name) for name in _IN_BODY}
    return {**row, "body": {name: said for name, said in body.items() if said is not None}}
