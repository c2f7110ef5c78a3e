"""A table or query of a database as a source, in the order of a key.

A chunk is a range of keys. Its digest is of its rows, which `plan` reads once. Reading a chunk
computes the digest again, so that a table that changes ends the run before the chunk is committed:
unlike PostgreSQL, these databases share no snapshot between connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bascule.batch.columns import columns_read
from bascule.batch.databases.port import KEY, Selection, numbers_of
from bascule.batch.databases.table import open_database
from bascule.batch.manifest import Chunk
from bascule.batch.sources.digesting import RowDigest
from bascule.core import Conflict, Invalid, Signature

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_READ_ROWS = 65_536
"""Of a batch that is read to plan."""


class DatabaseSource:
    """Rows of a database behind `databases.port`."""

    files: Sequence[str] = ()

    def __init__(self, job: Job, signature: Signature) -> None:
        import pyarrow as pa

        is_shared = job.source.partition("#")[0] == job.sink.partition("#")[0]
        self._database = open_database(
            job.source, "both" if is_shared else "read", needs_table=not job.query
        )
        self.place = self._database.place
        try:
            self._rows = Selection(
                job.query, job.where, self._key_of(job), numbers=numbers_of(signature)
            )  # fmt: skip
            every: pa.Schema = self._database.schema(self._rows)
            needed = columns_read(job, signature, every.names)
            if len(needed) < len(every):
                self._rows = replace(self._rows, columns=tuple(needed))
                every = pa.schema(map(every.field, needed))
            self.schema = every
        except BaseException:
            self.close()
            raise

    def _key_of(self, job: Job) -> str:
        key = job.key or ("" if job.query else self._database.table_key())
        if not key:
            raise Invalid(
                f"{self.place}: no column is known to be different in every row",
                hint="name one: --key COLUMN",
                field="key",
            )
        return key

    def plan(self, chunk_rows: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        with closing(_Cutter(self.place, self._rows.key)) as cutter:
            for batch in self._database.read(self._rows, self.schema, _READ_ROWS):
                rest = batch
                while rest.num_rows:
                    taken = rest.slice(0, chunk_rows - cutter.rows)
                    cutter.add(taken)
                    if cutter.rows == chunk_rows:
                        chunks.append(cutter.cut(len(chunks)))
                    rest = rest.slice(taken.num_rows)
            if cutter.rows or not chunks:
                chunks.append(cutter.cut(len(chunks)))
        return chunks

    def read(self, chunk: Chunk, batch_rows: int) -> Iterator[pa.RecordBatch]:
        first, last = chunk.reads
        rows = replace(self._rows, first=first, last=last)
        with closing(RowDigest()) as digest:
            for batch in self._database.read(rows, self.schema, batch_rows):
                digest.add(batch)
                part = batch.select(self.schema.names)
                for start in range(0, part.num_rows, batch_rows):
                    yield part.slice(start, batch_rows)
            if digest.take() != chunk.digest:
                raise Conflict(
                    f"{self.place} has changed while it was read", hint="start the job again"
                )

    def read_all(self) -> pa.Table:
        """All rows in one pass, of which no digest is taken."""
        import pyarrow as pa

        batches = self._database.read(self._rows, self.schema, _READ_ROWS)
        rows = (batch.select(self.schema.names).cast(self.schema) for batch in batches)
        return pa.Table.from_batches(rows, self.schema)

    def close(self) -> None:
        self._database.close()


class _Cutter:
    """Makes chunks of the rows that are added, and checks that their keys increase."""

    def __init__(self, place: str, key: str) -> None:
        self._place, self._key = place, key
        self._digest = RowDigest()
        self._first: Any = None
        self._last: Any = None
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        import pyarrow.compute as pc

        keys = batch.column(batch.schema.get_field_index(KEY))
        bad = keys.null_count or (self._last is not None and keys[0].as_py() == self._last)
        if not bad and len(keys) > 1:
            bad = pc.any(pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))).as_py()
        if bad:
            raise Invalid(
                f"--key: rows of {self._place} have no {self._key!r} or share it with another row",
                hint="name a column that is different in every row",
                field="key",
            )
        if not self.rows:
            self._first = keys[0].as_py()
        self._last = keys[-1].as_py()
        self._digest.add(batch)
        self.rows += batch.num_rows

    def cut(self, number: int) -> Chunk:
        bounds = [self._first, self._last]
        made = Chunk(number, self._digest.take(), bounds, self.rows)
        self.rows = 0
        return made

    def close(self) -> None:
        self._digest.close()
