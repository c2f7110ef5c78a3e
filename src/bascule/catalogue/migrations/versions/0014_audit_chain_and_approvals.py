"""A hash chain over the history, and requests for approval."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

from bascule.catalogue.schema import UtcTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    head = op.create_table(
        "audit_head",
        sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("after_event", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
    )
    op.create_table(
        "audit_chain",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("event", sa.Integer, sa.ForeignKey("events.id"), nullable=False),
        sa.Column("digests", sa.JSON, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.UniqueConstraint("event"),
    )
    op.create_table(
        "audit_values",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("sealed", sa.Text, nullable=False),
    )
    op.create_index(op.f("ix_audit_values_key"), "audit_values", ["key"])
    op.create_table(
        "audit_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.UniqueConstraint("person"),
    )
    op.create_table(
        "audit_anchors",
        sa.Column("place", sa.Text, primary_key=True),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("at", UtcTime, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("act", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("at", UtcTime, nullable=False),
        sa.Column("ends_at", UtcTime, nullable=False),
        sa.Column("decided_by", sa.Text),
        sa.Column("outcome", sa.JSON),
    )
    op.create_index(op.f("ix_approvals_at"), "approvals", ["at"])
    chain = secrets.token_hex(32)
    newest = op.get_bind().scalar(sa.text("SELECT coalesce(max(id), 0) FROM events"))
    first = {"only": 1, "chain": chain, "after_event": newest, "sequence": 0, "digest": chain}
    op.bulk_insert(head, [first])
