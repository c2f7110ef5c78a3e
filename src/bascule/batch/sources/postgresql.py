"""A table or query of PostgreSQL as a source, by Arrow.

All chunks are read in one snapshot, which a connection of its own exports: a table that changes
meanwhile is read as it was. A chunk is a range of a table's pages, or of a key. Its digest is of
its rows: it costs one pass over the table on the server, and says after a crash or a restart of the
server whether the table is still the same.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from bascule.batch.addresses import Address, literal, quoted
from bascule.batch.columns import columns_read
from bascule.batch.databases.port import MAX_DIGITS, numbers_of
from bascule.batch.databases.postgresql import connect, explaining, rows_of
from bascule.batch.manifest import Chunk
from bascule.core import BasculeError, Conflict, Invalid, ModelFailed, Signature, sha256_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_BLOCK_BYTES = 8192
_BEGIN = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_EXACT = (
    "SELECT set_config('DateStyle', 'ISO', true), set_config('IntervalStyle', 'postgres', true), "
    "set_config('extra_float_digits', '3', true)"
)
"""A key that is written as text is then the same key when it is read."""
_Ranges = tuple[list[str], dict[int, Any]]
"""The condition of each chunk; by its number, the rows and the sum of their hashes."""


class PostgresqlSource:
    """A table by its pages, or a table or query by a key."""

    files: Sequence[str] = ()

    def __init__(self, job: Job, signature: Signature) -> None:
        self._address = Address.of(job.source, needs_table=not job.query)
        self.place = self._address.place
        if job.query and not job.key:
            raise Invalid("--query needs the key of its rows", hint="add --key COLUMN")
        self._key = quoted(job.key) if job.key else ""
        relation = f"({job.query})" if job.query else self._address.name_of(self._address.table)
        self._from = f"FROM {relation} AS rows_to_score"
        self._where = f"({job.where})" if job.where else "TRUE"
        self._hash = "hashtextextended(rows_to_score::text, 0)"
        self._lock = threading.Lock()
        self._planned: tuple[int, list[Chunk]] | None = None
        self._hold()
        try:
            self.schema: pa.Schema = self._described(job, signature)
            if job.key and job.key not in self.schema.names:  # it is read, where it is there
                raise Invalid(f"--key: {self.place} has no column {job.key!r}")
        except BaseException:
            self.close()
            raise

    def _described(self, job: Job, signature: Signature) -> pa.Schema:
        import pyarrow as pa

        with explaining(self._address), self._holder.cursor() as cursor:
            cursor.execute(f"SELECT * {self._from} WHERE {self._where} LIMIT 0")
            every = cursor.fetch_arrow_table().schema
            found = [every.field(one) for one in columns_read(job, signature, every.names)]
            if len(found) < len(every):
                names = ", ".join(quoted(one.name) for one in found)
                self._hash = f"hashtextextended(ROW({names})::text, 0)"
            digits = {} if job.query else self._digits(cursor)
            numbers = numbers_of(signature)
            # What the model reads is a double where the table declares no digits.
            texts = {*digits, *(() if numbers is None else {*every.names} - numbers)}
            self._columns = ", ".join(
                _read_as(field, "text" if field.name in texts else "float8") for field in found
            )
            cursor.execute(f"SELECT {self._columns} {self._from} LIMIT 0")
            schema = cursor.fetch_arrow_table().schema
        return pa.schema([pa.field(o.name, digits.get(o.name, o.type)) for o in schema])

    def _digits(self, cursor: Any) -> dict[str, pa.DataType]:
        """The columns of the table whose `numeric` has digits that Arrow has too."""
        import pyarrow as pa

        table = literal(self._address.name_of(self._address.table))
        declared = rows_of(
            cursor,
            "SELECT attname, (atttypmod - 4) >> 16 & 65535, (atttypmod - 4) & 2047 "
            f"FROM pg_attribute WHERE attrelid = {table}::regclass AND attnum > 0 "
            "AND atttypid = 'numeric'::regtype AND atttypmod > 0 AND NOT attisdropped",
        )
        return {
            name: pa.decimal128(precision, scale)
            for name, precision, scale in declared
            if scale <= precision <= MAX_DIGITS
        }

    def _hold(self) -> None:
        """Open the connection whose snapshot all chunks are read in."""
        self._holder = connect(self._address)
        with explaining(self._address), self._holder.cursor() as cursor:
            cursor.execute(_BEGIN)
            rows_of(cursor, _EXACT)
            ((self._snapshot,),) = rows_of(cursor, "SELECT pg_export_snapshot()")

    def plan(self, chunk_rows: int) -> list[Chunk]:
        with explaining(self._address), self._holder.cursor() as cursor:
            by_range = self._by_key if self._key else self._by_page
            ranges, found = by_range(cursor, chunk_rows)
            ((rows,),) = rows_of(cursor, f"SELECT count(*) {self._from} WHERE {self._where}")
        chunks = []
        for number, condition in enumerate(ranges):
            counted, total = found.get(number, (0, "0"))
            digest = sha256_bytes(f"{condition} {counted} {total}".encode())
            chunks.append(Chunk(number, digest, condition, int(counted)))
        if sum(chunk.rows or 0 for chunk in chunks) != rows:
            raise ModelFailed(f"the chunks of {self.place} have not all of its {rows:,} rows")
        self._planned = (chunk_rows, chunks)
        return chunks

    def _by_page(self, cursor: Any, chunk_rows: int) -> _Ranges:
        name = literal(self._address.name_of(self._address.table))
        ((kind,),) = rows_of(cursor, f"SELECT relkind FROM pg_class WHERE oid = {name}::regclass")
        if kind not in ("r", "p", "m", b"r", b"p", b"m"):
            raise Invalid(f"{self.place} is no table with pages", hint="add --key COLUMN")
        ((rows,),) = rows_of(cursor, f"SELECT count(*) {self._from}")
        ((size,),) = rows_of(
            cursor,
            "SELECT greatest(coalesce(max(pg_relation_size(relid)), 0), "
            f"pg_relation_size({name}::regclass)) FROM pg_partition_tree({name}::regclass)",
        )
        pages = max(1, size // _BLOCK_BYTES)
        step = max(1, min(pages, math.ceil(chunk_rows * pages / max(rows, 1))))
        ranges = [
            f"ctid >= '({first},0)'::tid AND ctid < '({first + step},0)'::tid"
            for first in range(0, pages, step)
        ]
        part = f"(ctid::text::point)[0]::bigint / {step}"
        grouped = (
            f"SELECT {part}, count(*), sum({self._hash})::text {self._from} WHERE {self._where} "
            "GROUP BY 1"
        )
        return ranges, {int(number): counted for number, *counted in rows_of(cursor, grouped)}

    def _by_key(self, cursor: Any, chunk_rows: int) -> _Ranges:
        key, where = self._key, f"{self._from} WHERE {self._where}"
        counts = f"SELECT count(*), count(DISTINCT {key}) {where}"
        ((rows, different),) = rows_of(cursor, counts)
        if rows != different:
            raise Invalid(
                f"--key: {rows - different:,} of {rows:,} rows of {self.place} have no {key} or "
                "share it with another",
                hint="name a column that is different in every row",
            )
        # Only the window sorts by the key, so by its own type and collation; a bound is a literal
        # without a type, which the comparison reads as one of the key's.
        numbered = f"{key} AS k, {self._hash} AS h, row_number() OVER (ORDER BY {key}) - 1 AS n"
        found = rows_of(
            cursor,
            f"SELECT n / {chunk_rows} AS part, count(*), sum(h)::text, "
            f"max(k::text) FILTER (WHERE n % {chunk_rows} = 0) "
            f"FROM (SELECT {numbered} {where}) AS numbered GROUP BY part ORDER BY part",
        )
        bounds = [literal(first) for *_, first in found] or ["NULL"]
        ranges = [f"{key} >= {one}" for one in bounds]
        for place, end in enumerate(bounds[1:]):
            ranges[place] += f" AND {key} < {end}"
        return ranges, {int(part): counted for part, *counted, _ in found}

    def read(self, chunk: Chunk, batch_rows: int) -> Iterator[pa.RecordBatch]:
        snapshot = self._living_snapshot()
        # Qualified: a plain name means the answer's column, which may be read as text or double.
        order = f"ORDER BY rows_to_score.{self._key}" if self._key else ""
        with (
            explaining(self._address),
            closing(connect(self._address)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(_BEGIN)
            cursor.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}")
            rows_of(cursor, _EXACT)
            cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            cursor.execute(
                f"SELECT {self._columns} {self._from} WHERE {chunk.reads} AND {self._where} {order}"
            )
            with closing(cursor.fetch_record_batch()) as batches:
                for batch in batches:
                    for start in range(0, batch.num_rows, batch_rows):
                        yield batch.slice(start, batch_rows).cast(self.schema)

    def read_all(self) -> pa.Table:
        """All rows in one pass, of which no digest is taken."""
        with explaining(self._address), self._holder.cursor() as cursor:
            cursor.execute(f"SELECT {self._columns} {self._from} WHERE {self._where}")
            return cursor.fetch_arrow_table().cast(self.schema)

    def _living_snapshot(self) -> str:
        """The snapshot; a new one, of the same rows, where the server has ended the connection."""
        with self._lock:
            try:
                with explaining(self._address), self._holder.cursor() as cursor:
                    rows_of(cursor, "SELECT 1")
            except BasculeError:
                with suppress(Exception):
                    self._holder.close()
                self._hold()
                self._check_unchanged()
            return str(self._snapshot)

    def _check_unchanged(self) -> None:
        assert self._planned is not None
        chunk_rows, before = self._planned
        if self.plan(chunk_rows) != before:
            raise Conflict(
                f"{self.place} has changed while it was read, and the server was restarted",
                hint="start the job again",
            )

    def close(self) -> None:
        with suppress(Exception):
            self._holder.close()


def _read_as(field: pa.Field, numeric: str) -> str:
    """A column as Arrow has it: `numeric` as told, what Arrow has no type for as text."""
    name = quoted(field.name)
    if (field.metadata or {}).get(b"ADBC:postgresql:typname") == b"numeric":
        value = f"nullif({name}, 'NaN')" if numeric == "text" else name
        return f"{value}::{numeric} AS {name}"
    is_plain = not hasattr(field.type, "extension_name") and not field.type.num_fields
    return name if is_plain else f"{name}::text AS {name}"


def open_source(job: Job, signature: Signature) -> PostgresqlSource:
    """The source of a job; see `sources.table`."""
    return PostgresqlSource(job, signature)
