"""Answers that people look at, and how far each ledger was looked through for them."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_text = partial(sa.Column, type_=sa.Text(), nullable=False)
_moment = partial(sa.Column, type_=sa.DateTime(timezone=True))


def upgrade() -> None:
    op.create_table(
        "reviews",
        *map(_text, ("id", "model", "version", "prediction_id")),
        sa.Column("row", sa.Integer(), nullable=False),
        _moment("predicted_at", nullable=False),
        _text("reason"),
        sa.Column("probability", sa.Float(), nullable=False),
        _text("state"),
        sa.Column("claimed_by", sa.Text()),
        _moment("claimed_until"),
        sa.Column("truth", sa.Text()),
        _moment("answered_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    columns = ["model", "state", "predicted_at"]
    op.create_index(op.f("ix_reviews_model_state_predicted_at"), "reviews", columns)
    op.create_table(
        "review_marks",
        *map(_text, ("model", "place")),
        _moment("until", nullable=False),
        sa.PrimaryKeyConstraint("model", "place", name=op.f("pk_review_marks")),
    )
