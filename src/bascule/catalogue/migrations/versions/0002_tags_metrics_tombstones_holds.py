"""Tags, metrics to search by, tombstones, and what garbage collection must know."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MEASURE = re.compile(r"\s*(.+?)\s*(?:>=|<=|==|>|<|$)")


def upgrade() -> None:
    op.add_column("versions", sa.Column("retired_at", sa.DateTime(timezone=True)))
    op.add_column("versions", sa.Column("retired_by", sa.Text))
    op.add_column("versions", sa.Column("retired_reason", sa.Text))
    op.add_column("events", sa.Column("key", sa.Text))
    op.add_column("events", sa.Column("from_value", sa.Text))
    op.add_column("events", sa.Column("to_value", sa.Text))
    op.create_index("ix_versions_pushed_at", "versions", ["pushed_at"])
    op.create_table(
        "tags",
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("model", "number", "key", name="pk_tags"),
        sa.ForeignKeyConstraint(
            ["model", "number"], ["versions.model", "versions.number"], name="fk_tags_model"
        ),
    )
    op.create_index("ix_tags_key_value", "tags", ["key", "value"])
    op.create_table(
        "metrics",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", "name", name="pk_metrics"),
    )
    op.create_index("ix_metrics_name_value", "metrics", ["name", "value"])
    op.create_table(
        "objects",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_objects"),
    )
    op.create_table(
        "holds",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", "holder", name="pk_holds"),
    )
    op.create_table(
        "identity",
        sa.Column("only", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("only", name="pk_identity"),
    )
    _fill_metrics()


def _fill_metrics() -> None:
    """The figures of statements that were made before there was a table for them."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT digest, kind, at, body FROM statements "
            "WHERE kind IN ('gates', 'provenance') ORDER BY at, id"
        )
    )
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        body = json.loads(row.body) if isinstance(row.body, str) else row.body
        for name, value in _figures(row.kind, body):
            latest[row.digest, name] = {
                "digest": row.digest, "name": name, "value": value, "at": row.at,
            }  # fmt: skip
    if latest:
        connection.execute(
            sa.text(
                "INSERT INTO metrics (digest, name, value, at) VALUES (:digest, :name, :value, :at)"
            ),
            list(latest.values()),
        )


def _figures(kind: str, body: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if kind == "provenance":
        said = body.get("metrics")
        pairs = list(said.items()) if isinstance(said, Mapping) else []
    else:
        pairs = [
            (match[1], result.get("value"))
            for result in body.get("results", ())
            if isinstance(result, Mapping)
            and (match := _MEASURE.match(str(result.get("criterion", ""))))
        ]
    for name, value in pairs:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield str(name), float(value)
