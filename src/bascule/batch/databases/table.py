"""The database that a text means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bascule.batch.databases.port import Access, Database, Tables
from bascule.core import load_named

DATABASES: Mapping[str, str] = {
    "duckdb": "bascule.batch.databases.duckdb:open_database",
    "postgres": "bascule.batch.databases.postgresql:open_database",
    "postgresql": "bascule.batch.databases.postgresql:open_database",
    "sqlite": "bascule.batch.databases.sqlite:open_database",
}
"""By the scheme of the URL; SQLAlchemy opens every other one."""
_ANY = "bascule.batch.databases.sqlalchemy:open_database"
_FILES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs")


def is_database(text: str, query: str = "") -> bool:
    """Whether a text is the URL of a database, and not a place of files."""
    scheme, _, rest = text.partition("://")
    is_url = bool(rest) and scheme not in _FILES
    return scheme in DATABASES or (is_url and ("#" in rest or bool(query)))


def open_database(text: str, access: Access, *, needs_table: bool = True) -> Database:
    """Open a database.

    Args:
        text: Its URL and, after `#`, a table.
        access: What the job does with it.
        needs_table: Whether a table must be named.

    Raises:
        Invalid: No database is meant, or no table is named.
        NotFound: Its file is not there.
        MissingExtra: A package is not installed.
        Unavailable: It is away, or another process holds it.
    """
    database: Database = _open(text, access, needs_table=needs_table)
    return database


def open_tables(text: str) -> Tables:
    """Open a database to write to a table; see `open_database`."""
    tables: Tables = _open(text, "write", needs_table=True)
    return tables


def _open(text: str, access: Access, *, needs_table: bool) -> Any:
    place = DATABASES.get(text.partition("://")[0], _ANY)
    return load_named(place)(text, access, needs_table=needs_table)
