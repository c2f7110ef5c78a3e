"""A table of a database as a sink, for every database behind `databases.port`.

Scored rows wait in a draft. A chunk is one short transaction: its rows, its quarantined rows, its
line in `bascule_batch_chunks`. So it is there once and whole, also where the connection ends during
the commit. The transaction also finds the token of this process in `bascule_batch_claims`, or
changes nothing. With `replace`, rows go to a table of the run's own; the end moves them into the
other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from bascule.batch.addresses import literal
from bascule.batch.claims import Claim, check_token, held
from bascule.batch.databases.port import Session, Tables
from bascule.batch.databases.table import open_tables
from bascule.batch.manifest import Chunk, Manifest, Record
from bascule.batch.sinks.drafts import Draft
from bascule.batch.sinks.partitions import check_partitions
from bascule.batch.sinks.types import cast, check_columns, plain_schema
from bascule.core import BasculeError, Conflict, Invalid

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.jobs import Job

_RUNS, _CHUNKS, _CLAIMS = "bascule_batch_runs", "bascule_batch_chunks", "bascule_batch_claims"
_POISON = "quarantine"
_WRITERS = 64
_RECORD = "chunk, scored, quarantined, seconds"


def _schemas() -> dict[str, pa.Schema]:
    """By name, the tables that keep runs."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    return {
        _RUNS: pa.schema({"run": text, "sink": text, "done": number, "manifest": text}),
        _CHUNKS: pa.schema(
            {"run": text, "chunk": number, "scored": number, "quarantined": number,
             "seconds": pa.float64()}
        ),
        _CLAIMS: pa.schema({"sink": text, "token": text, "beat": number, "content": text}),
        _POISON: pa.schema(
            {"run": text, "chunk": number, "row": number, "reason": text, "content": text}
        ),
    }  # fmt: skip


def _row_of(name: str, row: dict[str, object]) -> pa.RecordBatchReader:
    import pyarrow as pa

    return pa.Table.from_pylist([row], _schemas()[name]).to_reader()


class _ClaimRow:
    """The claim of a sink's table, as a row."""

    def __init__(self, sink: DatabaseSink) -> None:
        self._sink = sink
        self._where = f"WHERE sink = {literal(sink._table)}"

    def read(self) -> Claim | None:
        with self._sink._turn, self._sink._database.session() as session:
            return self._found(session)

    def _found(self, session: Session) -> Claim | None:
        claims = session.name_of(_CLAIMS)
        found = session.rows(f"SELECT content, beat FROM {claims} {self._where}")
        if not found:
            return None
        return msgspec.structs.replace(
            msgspec.json.decode(found[0][0], type=Claim), beat=int(found[0][1])
        )

    def swap(self, seen: Claim | None, new: Claim) -> bool:
        row = {"sink": self._sink._table, "token": new.token, "beat": new.beat}
        row["content"] = content = msgspec.json.encode(new).decode()
        with suppress(Conflict), self._sink._turn, self._sink._database.session() as session:
            if seen is None:
                session.append(_CLAIMS, _row_of(_CLAIMS, row))
            else:
                session.rows(
                    f"UPDATE {session.name_of(_CLAIMS)} SET token = {literal(new.token)}, "
                    f"beat = {new.beat}, content = {literal(content)} {self._where} "
                    f"AND token = {literal(seen.token)} AND beat = {seen.beat}"
                )
            is_mine = self._found(session) == new
            session.commit()
            return is_mine
        return False

    def check(self, session: Session, token: str) -> None:
        """Raise `Conflict` unless the token is there, where it stays until the commit."""
        before = self._found(session)
        session.rows(
            f"UPDATE {session.name_of(_CLAIMS)} SET beat = beat + 1 {self._where} "
            f"AND token = {literal(token)}"
        )
        now = self._found(session)
        # A snapshot that is older than another's claim shows the row as it was.
        check_token(self._sink.place, token, None if now == before else now)


class DatabaseSink:
    """One table, with `TABLE_quarantine` and the two tables of runs in its schema."""

    def __init__(self, job: Job) -> None:
        self._database: Tables = open_tables(job.sink)
        self.place = self._database.place
        self._mode, self._key, self._by = job.mode, job.key, job.partition_by
        if self._by and self._mode != "replace_partitions":
            raise Invalid(
                "partition_by: a table of a database is divided where it is made",
                hint="--mode replace_partitions replaces the rows of the values that a run has",
            )
        self._table = self._database.table
        self._poison = f"{self._table}_{_POISON}"
        self._turn = threading.Semaphore(1 if self._database.has_one_writer else _WRITERS)
        self._claim, self._token = _ClaimRow(self), ""

    @contextmanager
    def claim(self, run: str) -> Iterator[None]:
        self._make_tables()
        with held(self._claim, run, self.place) as claim:
            self._token = claim.token
            try:
                yield
            finally:
                self._token = ""

    def _make_tables(self) -> None:
        keys = {_RUNS: ["run"], _CHUNKS: ["run", "chunk"], _CLAIMS: ["sink"]}
        for name, columns in reversed(_schemas().items()):  # `runs` asks for the first one
            table = self._poison if name == _POISON else name
            try:
                with self._turn, self._database.session() as session:
                    if session.columns(table) is None:
                        session.create(table, columns, keys.get(name, ()))
                        session.commit()
            except BasculeError:  # where another process has made it meanwhile, it is there
                with self._turn, self._database.session() as session:
                    if session.columns(table) is None:
                        raise

    # -- what is there --

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        with self._database.session() as session:
            known: dict[str, bool] = {}
            if session.columns(_RUNS):
                has_rows = f"SELECT 1 FROM {session.name_of(_CHUNKS)} c WHERE c.run = r.run"
                found = session.rows(
                    f"SELECT run, done FROM {session.name_of(_RUNS)} r "
                    f"WHERE sink = {literal(self._table)} AND (done = 1 OR EXISTS ({has_rows}))"
                )
                known = {run: bool(done) for run, done in found}
            if known or session.columns(self._table) is None:
                return known, False
            count = session.rows(f"SELECT count(*) FROM {session.name_of(self._table)}")
            return known, count != [(0,)]

    def fits(self, schema: pa.Schema) -> pa.Schema:
        check_partitions(schema, self._by)
        return plain_schema(self.place, schema)

    def open(self, manifest: Manifest, schema: pa.Schema) -> list[Record]:
        self._manifest, self._schema = manifest, self.fits(schema)
        self._target = f"{self._table}_{manifest.run}" if self._replaces else self._table
        self._make_tables()
        with self._database.session() as session:
            if not session.rows(f"SELECT run FROM {session.name_of(_RUNS)} {self._of_run}"):
                self._note(session, done=0)
            chunks = session.name_of(_CHUNKS)
            query = f"SELECT {_RECORD} FROM {chunks} {self._of_run} ORDER BY chunk"
            found = session.rows(query)
            if found and all(session.columns(one) is None for one in (self._target, self._table)):
                session.rows(f"DELETE FROM {chunks} {self._of_run}")  # it was dropped since
                session.rows(f"UPDATE {session.name_of(_RUNS)} SET done = 0 {self._of_run}")
                found = []
            if len(found) < len(manifest.chunks):
                self._make_target(session)
            session.commit()
        return [Record(*row) for row in found]

    @property
    def _of_run(self) -> str:
        return f"WHERE run = {literal(self._manifest.run)}"

    def _note(self, session: Session, *, done: int) -> None:
        content = msgspec.json.encode(self._manifest).decode()
        row = {"run": self._manifest.run, "sink": self._table, "done": done, "manifest": content}
        session.append(_RUNS, _row_of(_RUNS, row))

    def _make_target(self, session: Session) -> None:
        columns = session.columns(self._target)
        if columns is None:
            key = [self._key] if self._mode == "upsert" else []
            session.create(self._target, self._schema, key)
        else:
            check_columns(self.place, columns, self._schema)
        if self._replaces and (columns := session.columns(self._table)) is not None:
            # What the end will do, with no row: rights, types, and whether it is a view.
            kept = [name for name in self._schema.names if name in columns]
            session.rows(f"DELETE FROM {session.name_of(self._table)} WHERE 1 = 0")
            session.insert_from(self._table, self._target, kept, " WHERE 1 = 0")

    def _replace(self, session: Session) -> None:
        """Give the table the rows of the run; its grants, indexes, comments and views stay."""
        import pyarrow as pa

        columns = session.columns(self._table)
        if columns is None:
            session.create(self._table, self._schema)
        elif absent := [one for one in self._schema if one.name not in columns]:
            session.add_columns(self._table, pa.schema(absent))
        session.rows(f"DELETE FROM {session.name_of(self._table)}{self._replaced(session)}")
        session.insert_from(self._table, self._target, self._schema.names)
        session.rows(f"DROP TABLE {session.name_of(self._target)}")

    @property
    def _replaces(self) -> bool:
        return self._mode in ("replace", "replace_partitions")

    def _replaced(self, session: Session) -> str:
        """The condition of the rows that go: of all, or of the partitions that the run has."""
        if self._mode == "replace":
            return ""
        old, new = session.name_of(self._table), session.name_of(self._target)
        pairs = [(f"{old}.{session.quote(one)}", f"n.{session.quote(one)}") for one in self._by]
        same = " AND ".join(f"({a} = {b} OR ({a} IS NULL AND {b} IS NULL))" for a, b in pairs)
        return f" WHERE EXISTS (SELECT 1 FROM {new} n WHERE {same})"

    # -- what is written --

    @contextmanager
    def stage(self, chunk: Chunk) -> Iterator[_StagedRows]:  # noqa: ARG002 - the record names it
        staged = _StagedRows(self)
        try:
            yield staged
        finally:
            staged.discard()

    def commit(self, record: Record, rows: Draft, poison: Draft) -> None:
        """Make a chunk visible in one transaction."""
        line = {
            "run": self._manifest.run, "chunk": record.chunk, "scored": record.rows,
            "quarantined": record.quarantined, "seconds": record.seconds,
        }  # fmt: skip
        with self._turn, self._database.session() as session:
            if self._has(session, record.chunk):
                return  # it was committed, and the answer to that was lost
            if self._mode == "upsert":
                session.upsert(self._target, rows.reader(), self._key)
            else:
                session.append(self._target, rows.reader())
            if record.quarantined:
                session.append(self._poison, poison.reader())
            session.append(_CHUNKS, _row_of(_CHUNKS, line))
            self._check_claim(session)
            session.commit()

    def _check_claim(self, session: Session) -> None:
        if self._token:
            self._claim.check(session, self._token)

    def _has(self, session: Session, chunk: int) -> bool:
        chunks = session.name_of(_CHUNKS)
        return bool(session.rows(f"SELECT run FROM {chunks} {self._of_run} AND chunk = {chunk}"))

    def finish(self) -> None:
        with self._turn, self._database.session() as session:
            runs, chunks = session.name_of(_RUNS), session.name_of(_CHUNKS)
            if session.rows(f"SELECT run FROM {runs} {self._of_run} AND done = 1"):
                return
            self._check_claim(session)
            self._check_rows(session)
            # It is gone where a database that commits each DROP by itself was killed after it.
            if self._replaces and session.columns(self._target) is not None:
                self._replace(session)
            if self._mode == "replace":
                own = literal(self._manifest.run)
                others = f"sink = {literal(self._table)} AND run <> {own}"
                for (run,) in session.rows(f"SELECT run FROM {runs} WHERE {others}"):
                    if session.columns(f"{self._table}_{run}") is not None:  # it was killed
                        session.rows(f"DROP TABLE {session.name_of(f'{self._table}_{run}')}")
                session.rows(
                    f"DELETE FROM {chunks} WHERE run IN (SELECT run FROM {runs} WHERE {others})"
                )
                session.rows(f"DELETE FROM {runs} WHERE {others}")
            session.rows(f"UPDATE {runs} SET done = 1 {self._of_run}")
            session.commit()

    def _check_rows(self, session: Session) -> None:
        """Raise `Conflict` where a table of this run alone has not the rows of its records."""
        if not (self._mode == "error" or self._replaces) or session.columns(self._target) is None:
            return
        found = session.rows(f"SELECT count(*) FROM {session.name_of(self._target)}")
        chunks = session.name_of(_CHUNKS)
        expected = session.rows(f"SELECT coalesce(sum(scored), 0) FROM {chunks} {self._of_run}")
        if int(found[0][0]) != int(expected[0][0]):
            raise Conflict(
                f"{self.place} has {found[0][0]} rows, and this run has written {expected[0][0]}",
                hint="another writer has changed it; --mode replace writes anew",
            )

    def close(self) -> None:
        self._database.close()


class _StagedRows:
    """A chunk in drafts."""

    def __init__(self, sink: DatabaseSink) -> None:
        self._sink = sink
        self._rows = Draft(sink._schema)
        self._poison = Draft(_schemas()[_POISON])

    def write(self, batch: pa.RecordBatch) -> None:
        self._rows.write(cast(self._sink.place, batch, self._sink._schema))

    def quarantine(self, rows: pa.Table) -> None:
        import pyarrow as pa

        run = pa.array([self._sink._manifest.run] * rows.num_rows, pa.string())
        for batch in rows.add_column(0, "run", run).to_batches():
            self._poison.write(batch)

    def commit(self, record: Record) -> None:
        self._sink.commit(record, self._rows, self._poison)

    def discard(self) -> None:
        self._rows.close()
        self._poison.close()
