"""The table of jobs, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

_text = partial(sa.Column, type_=sa.Text, nullable=False)
_number = partial(sa.Column, type_=sa.Integer, nullable=False)
_moment = partial(sa.Column, type_=UtcTime)
_json = partial(sa.Column, type_=sa.JSON(none_as_null=True))

jobs = sa.Table(
    "jobs",
    metadata,
    _text("id", primary_key=True),
    *map(_text, ("kind", "subject", "title")),
    _json("input", nullable=False),
    _text("digest"),  # of kind and input: what is asked for twice is known
    _text("folder"),
    sa.Column("is_confined", sa.Boolean, nullable=False),
    *map(_text, ("by", "key", "host", "schedule")),
    _moment("due"),
    _text("state", index=True),
    *map(_number, ("attempt", "begun")),
    _json("progress", nullable=False),
    _text("log"),
    _json("facts"),  # kept once beside the progress: the manifest of a batch run
    *map(_json, ("result", "error")),
    _text("stop"),  # why its process is asked to stop; empty while it is not
    _moment("created_at", nullable=False),
    _moment("started_at"),
    _moment("updated_at", nullable=False, index=True),
    _moment("ended_at"),
    # The lease: the process that runs it, for people and for its machine, and until when.
    *map(_text, ("holder", "process")),
    _number("fence"),
    _moment("expires_at", nullable=False),
    sa.Index(None, "kind", "subject", "created_at"),
)
