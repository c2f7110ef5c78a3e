"""What servers have reserved of callers' budgets, and what callers cost on each server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        "rate_costs",
        sa.Column("counter", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("cost_ns", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("counter", "server", name=op.f("pk_rate_costs")),
    )
    op.create_index(op.f("ix_rate_costs_at"), "rate_costs", ["at"])
