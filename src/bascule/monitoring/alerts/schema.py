"""The tables of alerts, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("since", UtcTime, nullable=False),
    sa.Column("absent_since", UtcTime),
    sa.Column("told", sa.JSON, nullable=False),
    sa.Column("told_at", UtcTime),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("acknowledged_why", sa.Text),
    sa.Column("acknowledged_at", UtcTime),
    sa.Column("finding", sa.JSON, nullable=False),
)

silences = sa.Table(
    "silences",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("alert", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("until", UtcTime, nullable=False, index=True),
)

notifications = sa.Table(
    "notifications",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, index=True),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    # What the receiver is sent: the same bytes at each attempt.
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Index(None, "state", "due_at"),
)
"""The outbox: written with the change that it is about; sent later, in the order of `number`."""
