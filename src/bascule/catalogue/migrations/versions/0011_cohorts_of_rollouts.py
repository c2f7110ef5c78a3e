"""Cohorts: outcomes of a rollout by the time of their predictions, in revisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollout_cohorts",
        sa.Column("rollout", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=op.f("fk_rollout_cohorts_rollout_rollouts")
        ),
        sa.PrimaryKeyConstraint("rollout", "revision", "number", name=op.f("pk_rollout_cohorts")),
    )
