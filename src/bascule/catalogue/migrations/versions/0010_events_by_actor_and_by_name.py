"""Indexes for the history of an actor, and of subjects of a name, of any kind."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_events_actor_id"), "events", ["actor", "id"])
    op.create_index(op.f("ix_events_subject_id"), "events", ["subject", "id"])
