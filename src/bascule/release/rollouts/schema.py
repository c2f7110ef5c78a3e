"""The tables of rollouts, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, nullable=False, index=True),
    sa.Column("content", sa.JSON, nullable=False),
    # The number of the latest decision, and the latest look, which decides nothing.
    sa.Column("decisions", sa.Integer, nullable=False),
    sa.Column("latest", sa.JSON, nullable=False),
    # What is sealed of each source's counts, so that no count is used twice.
    sa.Column("sealed", sa.JSON, nullable=False),
    sa.Column("intervals", sa.Integer, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

decisions = sa.Table(
    "rollout_decisions",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
    # The state before; null for the first one.
    sa.Column("before", sa.JSON, nullable=True),
    sa.Column("content", sa.JSON, nullable=False),
    # The plan that was made; null where traffic did not change.
    sa.Column("plan_number", sa.Integer),
)
"""Only ever added to."""

intervals = sa.Table(
    "rollout_intervals",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.JSON, nullable=False),
    sa.Column("log_e", sa.Float),
)
"""Only ever added to: what decisions are made of."""

counts = sa.Table(
    "rollout_counts",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
)
"""Of each source, such as a server and a plan: its counts since it began, replaced as they grow."""

cohorts = sa.Table(
    "rollout_cohorts",
    metadata,
    sa.Column("rollout", sa.Text, sa.ForeignKey("rollouts.id"), primary_key=True),
    # Each count of outcomes that changes something has the next revision.
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.JSON, nullable=False),
)
"""Only ever added to: of a cohort, the row of the greatest revision counts."""
