"""The table of jobs, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    # Of kind and input: what is asked for twice is known.
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("is_confined", sa.Boolean, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("due", UtcTime),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("begun", sa.Integer, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("log", sa.Text, nullable=False),
    # What the kind keeps of the job beside its progress, once: the manifest of a batch run.
    sa.Column("facts", sa.JSON(none_as_null=True)),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    # Why its process is asked to stop; empty while it is not.
    sa.Column("stop", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("updated_at", UtcTime, nullable=False, index=True),
    sa.Column("ended_at", UtcTime),
    # The lease: the process that runs it, for people and for its machine, and until when.
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Index(None, "kind", "subject", "created_at"),
)
