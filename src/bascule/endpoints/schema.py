"""The tables of endpoints, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    # The alias that is its source, MODEL@ALIAS; empty for none.
    sa.Column("follows", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    # What a move of that alias deploys with: fields of `release.rollouts.RolloutRequest`.
    sa.Column("following", sa.JSON(none_as_null=True)),
    # The id of the latest event of that alias that was acted on.
    sa.Column("followed", sa.Integer),
    # Of an endpoint that was deleted: its plans and its history stay.
    sa.Column("deleted_at", UtcTime),
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoints.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("content", sa.JSON, nullable=False),
    sa.Column("made_at", UtcTime, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
"""Only ever added to. The plan with the greatest number is the one that is served."""
