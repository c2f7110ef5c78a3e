"""Jobs: long work with its progress, log and result."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_text = partial(sa.Column, type_=sa.Text(), nullable=False)
_number = partial(sa.Column, type_=sa.Integer(), nullable=False)
_moment = partial(sa.Column, type_=sa.DateTime(timezone=True))
_json = partial(sa.Column, type_=sa.JSON(none_as_null=True))


def upgrade() -> None:
    op.create_table(
        "jobs",
        *map(_text, ("id", "kind", "subject", "title")),
        _json("input", nullable=False),
        *map(_text, ("digest", "folder")),
        sa.Column("is_confined", sa.Boolean(), nullable=False),
        *map(_text, ("by", "key", "host", "schedule")),
        _moment("due"),
        _text("state"),
        *map(_number, ("attempt", "begun")),
        _json("progress", nullable=False),
        _text("log"),
        *map(_json, ("facts", "result", "error")),
        _text("stop"),
        _moment("created_at", nullable=False),
        _moment("started_at"),
        _moment("updated_at", nullable=False),
        _moment("ended_at"),
        *map(_text, ("holder", "process")),
        _number("fence"),
        _moment("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    subjects = ["kind", "subject", "created_at"]
    op.create_index(op.f("ix_jobs_kind_subject_created_at"), "jobs", subjects)
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"])
    op.create_index(op.f("ix_jobs_updated_at"), "jobs", ["updated_at"])
