"""The tables of the registry, on the metadata that all rooms share; see `bascule.catalogue`."""

from __future__ import annotations

import sqlalchemy as sa

from bascule.catalogue import UtcTime, metadata

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at", UtcTime, nullable=False),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("model", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.Text, nullable=False, index=True),
    sa.Column("pushed_at", UtcTime, nullable=False, index=True),
    sa.Column("pushed_by", sa.Text, nullable=False),
    # Of a tombstone; a number that was retired is never given out again.
    sa.Column("retired_at", UtcTime),
    sa.Column("retired_by", sa.Text),
    sa.Column("retired_reason", sa.Text),
    # When, by whom and why it was deprecated, its sunset, its successor; null for none of it.
    sa.Column("deprecation", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("model", "digest"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("moved_at", UtcTime, nullable=False),
    sa.ForeignKeyConstraint(["model", "number"], ["versions.model", "versions.number"]),
)


statements = sa.Table(
    "statements",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # Of the statement itself: the same one is kept once.
    sa.Column("content", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    # Of a gates statement: its verdict, so that listing versions need not read every body.
    sa.Column("passed", sa.Boolean),
    sa.Column("body", sa.JSON, nullable=False),
    # The user that pushed the bundle with it; none if it was recorded by a check here.
    sa.Column("brought_by", sa.Text),
    sqlite_autoincrement=True,
)


def counting_checks() -> sa.ColumnElement[bool]:
    """Which statements are verdicts that count; the latest of them, by `id`, is the verdict.

    A pass that a bundle brought is an unverified file: it stops counting once the registered
    version is checked. A failure always counts.
    """
    told = statements.alias()
    was_told = (
        sa.exists()
        .where(
            told.c.digest == statements.c.digest,
            told.c.kind == "gates",
            told.c.brought_by.is_(None),
        )
        .correlate(statements)
    )
    is_sound = sa.or_(
        statements.c.brought_by.is_(None), statements.c.passed.is_(sa.false()), ~was_told
    )
    return sa.and_(statements.c.kind == "gates", is_sound)


tags = sa.Table(
    "tags",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["model", "number"], ["versions.model", "versions.number"]),
    sa.Index(None, "key", "value"),
)

metrics = sa.Table(
    "metrics",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Index(None, "name", "value"),
)
"""The latest figure of each name, taken out of the statements, so that a search need not read
them."""

objects = sa.Table(
    "objects",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("since", UtcTime, nullable=False),
)
"""What garbage collection has marked, and what it is removing; also the lock of a digest."""

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("until", UtcTime, nullable=False),
)
"""Who uses a bundle, and until when if nothing more is heard: servers, and pushes under way."""

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("token_sha256", sa.Text, nullable=False, unique=True),
    sa.Column("permissions", sa.JSON, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
    sa.Column("revoked_by", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
"""Who may ask a server for what; see `security.keys`. Of the keys themselves only hashes."""
