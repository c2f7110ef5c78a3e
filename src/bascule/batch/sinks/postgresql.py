"""A table of PostgreSQL as a sink, by Arrow.

A chunk is one transaction: its rows, its quarantined rows, its line in `bascule_batch_chunks`. So
it is there once and whole, also where the connection ends during the commit.
With `replace`, rows go to a table of the run's own, which takes the other's name at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.batch.manifest import Chunk, Manifest, Record
from bascule.batch.postgres import Address, connect, explaining, literal, quoted, rows_of
from bascule.core import Invalid

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_RUNS, _CHUNKS = "bascule_batch_runs", "bascule_batch_chunks"
_STAGED = "bascule_batch_staged"


class PostgresqlSink:
    """One table, with `TABLE_quarantine` and the two tables of runs in its schema."""

    def __init__(self, job: Job) -> None:
        self._address = Address.of(job.sink)
        self.place = self._address.place
        self._mode, self._key = job.mode, job.key
        self._table = self._address.table

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor, whose work is committed when the block ends without an error."""
        with explaining(self._address), closing(connect(self._address)) as connection:
            with connection.cursor() as cursor:
                yield cursor
            connection.commit()

    def _exists(self, cursor: Any, table: str) -> bool:
        name = literal(self._address.name_of(table))
        ((found,),) = rows_of(cursor, f"SELECT to_regclass({name}) IS NOT NULL")
        return bool(found)

    # -- what is there --

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        with self._transaction() as cursor:
            known: dict[str, bool] = {}
            if self._exists(cursor, _RUNS):
                table = self._address.name_of(_RUNS)
                has_rows = (
                    f"EXISTS (SELECT FROM {self._address.name_of(_CHUNKS)} c WHERE c.run = r.run)"
                )
                query = (
                    f"SELECT run, done FROM {table} r WHERE sink = {literal(self._table)} "
                    f"AND (done OR {has_rows})"
                )
                known = dict(rows_of(cursor, query))
            return known, not known and self._has_rows(cursor)

    def _has_rows(self, cursor: Any) -> bool:
        if not self._exists(cursor, self._table):
            return False
        name = self._address.name_of(self._table)
        return bool(rows_of(cursor, f"SELECT 1 FROM {name} LIMIT 1"))

    def open(self, manifest: Manifest, schema: pa.Schema) -> list[Record]:
        self._run = manifest.run
        self._schema = _writable(schema)
        self._target = f"{self._table}_{manifest.run}" if self._mode == "replace" else self._table
        name = self._address.name_of
        with self._transaction() as cursor:
            # Two that begin at once make the tables once.
            cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext({literal(name(_RUNS))}))")
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {name(_RUNS)} (run text PRIMARY KEY, sink text, "
                "done boolean, manifest text)"
            )
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {name(_CHUNKS)} (run text, chunk integer, "
                "rows bigint, quarantined bigint, seconds double precision, "
                "PRIMARY KEY (run, chunk))"
            )
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {name(self._table + '_quarantine')} (run text, "
                "chunk bigint, row bigint, reason text, content text)"
            )
            ((is_done,),) = rows_of(
                cursor,
                f"SELECT count(*) FROM {name(_RUNS)} WHERE run = {literal(self._run)} AND done",
            )
            if not is_done:
                self._make_target(cursor)
                values = ", ".join(map(literal, (self._run, self._table)))
                content = literal(msgspec.json.encode(manifest).decode())
                cursor.execute(
                    f"INSERT INTO {name(_RUNS)} VALUES ({values}, false, {content}) "
                    "ON CONFLICT DO NOTHING"
                )
            found = rows_of(
                cursor,
                f"SELECT chunk, rows, quarantined, seconds FROM {name(_CHUNKS)} "
                f"WHERE run = {literal(self._run)} ORDER BY chunk",
            )
            return [Record(*row) for row in found]

    def _make_target(self, cursor: Any) -> None:
        target = self._address.name_of(self._target)
        if not self._exists(cursor, self._target):
            self._ingest(cursor, self._target, self._schema.empty_table(), "create")
            if self._mode == "upsert":
                cursor.execute(f"ALTER TABLE {target} ADD PRIMARY KEY ({quoted(self._key)})")
        cursor.execute(f"SELECT * FROM {target} LIMIT 0")
        found = cursor.fetch_arrow_table().schema
        absent = [name for name in self._schema.names if name not in found.names]
        if absent:
            raise Invalid(
                f"{self.place} has no column {absent[0]!r}",
                hint="add it, choose --columns and --keep, or write to another table",
                field=absent[0],
            )
        types = {one.name: one.type for one in found}
        self._is_exact = self._mode != "upsert" and all(
            types[field.name] == field.type for field in self._schema
        )
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            f"WHERE attrelid = {literal(target)}::regclass AND attnum > 0 AND NOT attisdropped"
        )
        self._types = dict(rows_of(cursor, query))

    def _ingest(
        self, cursor: Any, table: str, rows: Any, mode: str, *, temporary: bool = False
    ) -> None:
        schema = None if temporary else self._address.schema or None
        cursor.adbc_ingest(table, rows, mode=mode, db_schema_name=schema, temporary=temporary)

    # -- what is written --

    @contextmanager
    def stage(self, chunk: Chunk) -> Iterator[_StagedRows]:  # noqa: ARG002 - the record names it
        with (
            explaining(self._address),
            closing(connect(self._address)) as connection,
            connection.cursor() as cursor,
        ):
            yield _StagedRows(self, connection, cursor)

    def finish(self) -> None:
        name, run = self._address.name_of, literal(self._run)
        with self._transaction() as cursor:
            ((done,),) = rows_of(
                cursor, f"SELECT done FROM {name(_RUNS)} WHERE run = {run} FOR UPDATE"
            )
            if done:
                return
            if self._mode == "replace":
                cursor.execute(f"DROP TABLE IF EXISTS {name(self._table)}")
                cursor.execute(f"ALTER TABLE {name(self._target)} RENAME TO {quoted(self._table)}")
                others = f"sink = {literal(self._table)} AND run <> {run}"
                cursor.execute(
                    f"DELETE FROM {name(_CHUNKS)} WHERE run IN "
                    f"(SELECT run FROM {name(_RUNS)} WHERE {others})"
                )
                cursor.execute(f"DELETE FROM {name(_RUNS)} WHERE {others}")
            cursor.execute(f"UPDATE {name(_RUNS)} SET done = true WHERE run = {run}")

    def insert(self) -> str:
        """Moves staged rows into the table, in its types; by the key, where rows may be old."""
        names = [quoted(name) for name in self._schema.names]
        values = ", ".join(f"{quoted(name)}::{self._types[name]}" for name in self._schema.names)
        target = self._address.name_of(self._target)
        made = f"INSERT INTO {target} ({', '.join(names)}) SELECT {values} FROM {_STAGED}"
        if self._mode == "upsert":
            changes = ", ".join(f"{name} = excluded.{name}" for name in names)
            made += f" ON CONFLICT ({quoted(self._key)}) DO UPDATE SET {changes}"
        return made

    def close(self) -> None:
        """Connections are closed with what they were opened for."""


class _StagedRows:
    """An open transaction with the rows of a chunk."""

    def __init__(self, sink: PostgresqlSink, connection: Any, cursor: Any) -> None:
        self._sink, self._connection, self._cursor = sink, connection, cursor
        self._is_staged = False

    def write(self, batch: pa.RecordBatch) -> None:
        sink = self._sink
        rows = batch.cast(sink._schema)
        if sink._is_exact:
            sink._ingest(self._cursor, sink._target, rows, "append")
            return
        mode = "append" if self._is_staged else "create"
        sink._ingest(self._cursor, _STAGED, rows, mode, temporary=True)
        self._is_staged = True

    def quarantine(self, rows: pa.Table) -> None:
        import pyarrow as pa

        run = pa.array([self._sink._run] * rows.num_rows, pa.string())
        table = f"{self._sink._table}_quarantine"
        self._sink._ingest(self._cursor, table, rows.add_column(0, "run", run), "append")

    def commit(self, record: Record) -> None:
        sink = self._sink
        if self._is_staged:
            self._cursor.execute(sink.insert())
        run, name = literal(sink._run), sink._address.name_of(_CHUNKS)
        new = rows_of(
            self._cursor,
            f"INSERT INTO {name} VALUES ({run}, {record.chunk}, {record.rows}, "
            f"{record.quarantined}, {record.seconds}) ON CONFLICT DO NOTHING RETURNING chunk",
        )
        if new:
            self._connection.commit()
        else:  # it was committed, and the answer to that was lost
            self._connection.rollback()


def _writable(schema: pa.Schema) -> pa.Schema:
    """The schema in types that PostgreSQL has: it has no unsigned or short numbers, for example."""
    import pyarrow as pa
    import pyarrow.types as kinds

    def fits(kind: pa.DataType) -> pa.DataType:
        if kinds.is_dictionary(kind):
            return fits(kind.value_type)
        if kinds.is_unsigned_integer(kind):
            return pa.int64()
        if kinds.is_int8(kind):
            return pa.int16()
        if kinds.is_float16(kind):
            return pa.float32()
        if kinds.is_decimal(kind):
            return pa.float64()
        if kinds.is_timestamp(kind):
            return pa.timestamp("us", kind.tz and "UTC")
        return pa.string() if kinds.is_null(kind) or kinds.is_large_string(kind) else kind

    return pa.schema([pa.field(one.name, fits(one.type)) for one in schema])


def open_sink(job: Job) -> PostgresqlSink:
    """The sink of a job; see `sinks.table`."""
    return PostgresqlSink(job)
