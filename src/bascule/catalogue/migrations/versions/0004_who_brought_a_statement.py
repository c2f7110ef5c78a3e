"""The user that pushed a statement. Earlier rows have none: they count as recorded by a check."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("statements", sa.Column("brought_by", sa.Text))
