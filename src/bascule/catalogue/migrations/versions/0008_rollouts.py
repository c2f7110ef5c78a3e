"""Rollouts, their decisions and their evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("decisions", sa.Integer, nullable=False),
        sa.Column("latest", sa.JSON, nullable=False),
        sa.Column("sealed", sa.JSON, nullable=False),
        sa.Column("intervals", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
    )
    op.create_index("ix_rollouts_endpoint", "rollouts", ["endpoint"])
    rollout = "fk_{table}_rollout_rollouts"
    op.create_table(
        "rollout_decisions",
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.Column("before", sa.JSON, nullable=True),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("plan_number", sa.Integer, nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=rollout.format(table="rollout_decisions")
        ),
        sa.PrimaryKeyConstraint("rollout", "number", name="pk_rollout_decisions"),
    )
    op.create_table(
        "rollout_intervals",
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("log_e", sa.Float, nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=rollout.format(table="rollout_intervals")
        ),
        sa.PrimaryKeyConstraint("rollout", "number", name="pk_rollout_intervals"),
    )
    op.create_table(
        "rollout_counts",
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=rollout.format(table="rollout_counts")
        ),
        sa.PrimaryKeyConstraint("rollout", "source", name="pk_rollout_counts"),
    )
