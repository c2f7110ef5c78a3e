"""The table of reviews, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("prediction_id", sa.Text, nullable=False),
    sa.Column("row", sa.Integer, nullable=False),
    sa.Column("predicted_at", UtcTime, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("probability", sa.Float, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reviewer", sa.Text),
    sa.Column("truth", sa.Text),
    sa.Column("answered_at", UtcTime),
    sa.Index(None, "model", "state", "predicted_at"),
)
