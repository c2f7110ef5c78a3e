"""Deprecation of versions; what an endpoint does when its alias moves; deleted endpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("deprecation", sa.JSON))
    op.add_column("endpoints", sa.Column("following", sa.JSON))
    op.add_column("endpoints", sa.Column("followed", sa.Integer))
    op.add_column("endpoints", sa.Column("deleted_at", sa.DateTime(timezone=True)))
