"""Rows of the catalogue as lines of JSON, the same from SQLite and PostgreSQL.

The tables are those that the migrations make, so a new table is in the next backup without a change
here. Times are in UTC, bytes in base64, and columns of JSON keep the text that the database holds.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import HEAD, migrations
from bascule.core import Conflict, Untrusted

_BATCH_ROWS = 1_000
_VERSION_TABLE = "alembic_version"


@cache
def tables_of(revision: str) -> frozenset[str]:
    """The names of the tables of a schema: those that its migrations make of an empty database."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, connection.begin():
        migrations.migrate(connection, revision)
        names = sa.inspect(connection).get_table_names()
    engine.dispose()
    return frozenset(names) - {_VERSION_TABLE}


def copy_out(connection: sa.Connection, revision: str, folder: Path) -> None:
    """Write every row that a transaction sees to a file for each table in `folder`."""
    for table in _tables(connection, revision):
        query = sa.select(*(_read(column) for column in table.columns))
        rows = connection.execute(query.order_by(*table.primary_key.columns))
        with (folder / f"{table.name}.jsonl").open("w", encoding="utf-8") as file:
            file.write(json.dumps([column.name for column in table.columns]) + "\n")
            for row in rows:
                file.write(json.dumps([_told(value) for value in row]) + "\n")


def check_schema(connection: sa.Connection) -> None:
    """Raise unless the tables are those of this release, which a backup of its rows needs."""
    version = sa.table(_VERSION_TABLE, sa.column("version_num"))
    revision = connection.scalar(sa.select(version.c.version_num))
    if revision != HEAD:
        raise Conflict(
            f"the catalogue has the tables of a newer release (schema {revision}); this one has "
            f"{HEAD}",
            hint="take and restore backups by the newer release",
        )


def is_empty(connection: sa.Connection) -> bool:
    """Whether nothing was ever recorded: neither an event nor a key."""
    tables = {one.name: one for one in _tables(connection, HEAD)}
    return all(
        connection.execute(sa.select(sa.literal(1)).select_from(tables[name]).limit(1)).first()
        is None
        for name in ("events", "keys", "models")
    )


def copy_in(connection: sa.Connection, revision: str, folder: Path) -> None:
    """Replace every row by those in `folder`, inside the transaction, and bring them to `HEAD`.

    Args:
        connection: Of a transaction that may write, on a catalogue of the schema `HEAD`.
        revision: The schema of the rows: `HEAD`, or an earlier one.
        folder: What `copy_out` wrote.

    Raises:
        Conflict: The catalogue has the tables of a newer release.
        Untrusted: The schema is not known here, or a file does not fit it.
    """
    if not revision.isdigit() or int(revision) > int(HEAD):
        raise Untrusted(
            f"the backup has the schema {revision}, and this release knows schemas up to {HEAD}",
            hint="pip install --upgrade bascule",
        )
    check_schema(connection)
    _clear(connection, revision)
    for table in _tables(connection, revision):
        with _file_of(table, folder).open(encoding="utf-8") as file:
            columns = json.loads(next(file, "[]"))
            if columns != [column.name for column in table.columns]:
                raise Untrusted(f"the backup has other columns of {table.name} than {revision} has")
            _insert(connection, table, map(json.loads, file))
    if revision != HEAD:
        migrations.upgrade(connection)


def _clear(connection: sa.Connection, revision: str) -> None:
    """Empty the tables; of an earlier schema, make its tables in place of those of now."""
    if revision == HEAD:
        for table in reversed(_tables(connection, HEAD)):
            connection.execute(sa.delete(table))
        return
    found = sa.MetaData()
    found.reflect(connection, only=[*tables_of(HEAD), _VERSION_TABLE])
    found.drop_all(connection)
    migrations.migrate(connection, revision)
    for table in reversed(_tables(connection, revision)):
        connection.execute(sa.delete(table))  # what migrations themselves write


def _tables(connection: sa.Connection, revision: str) -> list[sa.Table]:
    """The tables as the database has them, those that others refer to first."""
    found = sa.MetaData()
    found.reflect(connection, only=sorted(tables_of(revision)))
    return found.sorted_tables


def _file_of(table: sa.Table, folder: Path) -> Path:
    file = folder / f"{table.name}.jsonl"
    if not file.is_file():
        raise Untrusted(f"the backup has no rows of {table.name}", hint="use another copy of it")
    return file


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[Sequence[Any]]) -> None:
    columns = list(table.columns)
    statement = sa.insert(sa.table(table.name, *(sa.column(one.name) for one in columns))).values(
        {one.name: _written(one, connection.dialect.name) for one in columns}
    )
    while batch := list(islice(rows, _BATCH_ROWS)):
        values = [
            {
                f"value_{column.name}": _meant(column, value)
                for column, value in zip(columns, row, strict=True)
            }
            for row in batch
        ]
        connection.execute(statement, values)
    if connection.dialect.name == "postgresql":
        _count_on(connection, table)


def _count_on(connection: sa.Connection, table: sa.Table) -> None:
    """Have PostgreSQL number the next rows after those that were inserted with their numbers."""
    for column in table.primary_key.columns:
        if not isinstance(column.type, sa.Integer):
            continue
        sequence = connection.scalar(
            sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))
        )
        greatest = connection.scalar(sa.select(sa.func.max(column)))
        if sequence is not None and greatest is not None:
            connection.execute(sa.select(sa.func.setval(sequence, greatest)))


def _read(column: sa.Column[Any]) -> Any:
    # As text: a null of JSON and one of SQL stay two things.
    return sa.cast(column, sa.Text) if isinstance(column.type, sa.JSON) else column


def _told(value: Any) -> Any:
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _written(column: sa.Column[Any], dialect: str) -> Any:
    name = f"value_{column.name}"
    if not isinstance(column.type, sa.JSON):
        return sa.bindparam(name, type_=column.type)
    text = sa.bindparam(name, type_=sa.Text())
    # SQLite keeps JSON as text, and a cast to it would make a number of the text.
    return sa.cast(text, sa.JSON) if dialect == "postgresql" else text


def _meant(column: sa.Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, sa.DateTime):
        moment = datetime.fromisoformat(value)
        return moment if column.type.timezone else moment.replace(tzinfo=None)
    return base64.b64decode(value) if isinstance(column.type, sa.LargeBinary) else value
