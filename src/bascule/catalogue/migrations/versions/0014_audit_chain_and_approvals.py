"""A hash chain over the history, requests for approval, reviews, and quotas of callers."""

from __future__ import annotations

import secrets
from functools import partial

import sqlalchemy as sa
from alembic import op

from bascule.catalogue.schema import UtcTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_text = partial(sa.Column, type_=sa.Text(), nullable=False)
_moment = partial(sa.Column, type_=sa.DateTime(timezone=True))


def upgrade() -> None:
    _audit()
    _reviews()
    _quotas()


def _audit() -> None:
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
        sa.UniqueConstraint("event", name="uq_audit_chain_event"),
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
        sa.UniqueConstraint("person", name="uq_audit_keys_person"),
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


def _reviews() -> None:
    op.create_table(
        "reviews",
        *map(_text, ("id", "model", "version", "prediction_id")),
        sa.Column("row", sa.Integer(), nullable=False),
        _moment("predicted_at", nullable=False),
        _text("reason"),
        sa.Column("probability", sa.Float(), nullable=False),
        _text("state"),
        sa.Column("reviewer", sa.Text()),
        sa.Column("truth", sa.Text()),
        _moment("answered_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    columns = ["model", "state", "predicted_at"]
    op.create_index(op.f("ix_reviews_model_state_predicted_at"), "reviews", columns)


def _quotas() -> None:
    op.create_table(
        "quotas",
        sa.Column("counter", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("short_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("counter", "day", name=op.f("pk_quotas")),
    )
    op.create_index(op.f("ix_quotas_day"), "quotas", ["day"])
    op.create_table(
        "rate_buckets",
        sa.Column("counter", sa.Text(), nullable=False),
        sa.Column("full_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("counter", name=op.f("pk_rate_buckets")),
    )
    op.create_index(op.f("ix_rate_buckets_full_at_us"), "rate_buckets", ["full_at_us"])
