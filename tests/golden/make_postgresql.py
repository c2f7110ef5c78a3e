"""Writes `postgresql-NUMBER.sql`: the stored catalogue of a schema, as PostgreSQL holds it.

Run once for a new schema, by `pytest tests/golden/make_postgresql.py`, with the schema's release:
the rows are those of `registry-NUMBER.sql`, which is SQLite's.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.stores import PASSWORD, all_tables, postgresql_program

from bascule.catalogue import migrations, schema
from bascule.catalogue.postgresql import PostgresqlDatabase

HERE = Path(__file__).parent


def test_write_the_stored_catalogue_of_this_schema(postgresql_url):
    rows = sqlite3.connect(":memory:")
    rows.executescript((HERE / f"registry-{schema.HEAD}.sql").read_text())
    rows.row_factory = sqlite3.Row
    engine = PostgresqlDatabase(postgresql_url).engine.execution_options(writes=True)
    with engine.begin() as connection:
        migrations.upgrade(connection)
        for made in ("releases", "audit_head"):  # rows that migrations make
            connection.exec_driver_sql(f"DELETE FROM {made}")
        for table in all_tables().sorted_tables:
            for row in rows.execute(f"SELECT * FROM {table.name}").fetchall():
                connection.execute(sa.insert(table).values(**_typed(table, dict(row))))
            counted = table.autoincrement_column
            if counted is not None:
                sequence = f"pg_get_serial_sequence('{table.name}', '{counted.name}')"
                largest = f"(SELECT max({counted.name}) FROM {table.name})"
                connection.exec_driver_sql(f"SELECT setval({sequence}, {largest})")
    rows.close()
    dumped = subprocess.run(
        [
            postgresql_program("pg_dump"), "--inserts", "--no-owner", "--no-privileges",
            "-d", postgresql_url.replace(f":{PASSWORD}@", "@"),
        ],
        env={**os.environ, "PGPASSWORD": PASSWORD},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = [line for line in dumped.splitlines() if line and not line.startswith(("--", "\\"))]
    (HERE / f"postgresql-{schema.HEAD}.sql").write_text("\n".join(lines) + "\n")


def _typed(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    for column in table.columns:
        value = row[column.name]
        if value is None:
            continue
        if isinstance(column.type, schema.UtcTime):
            row[column.name] = datetime.fromisoformat(value).replace(tzinfo=UTC)
        elif isinstance(column.type, sa.JSON):
            row[column.name] = json.loads(value)
        elif isinstance(column.type, sa.Boolean):
            row[column.name] = bool(value)
    return row
