"""Asking the ledger by SQL: segments and spool as one table, read-only, with or without a server.

The tables that a query sees are of one moment: what the manifest names, and what the spool had
beyond it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from bascule.core import BasculeError, Invalid, NotFound, Scratch, Unavailable, first_line
from bascule.monitoring.ledger.blocks import read_blocks
from bascule.monitoring.ledger.hashing import (
    DRAW_BITS,
    DRAW_DIGITS,
    KEY_FILE,
    hash_key,
    hashed,
)
from bascule.monitoring.ledger.manifest import LEDGER, Gap, Manifest, Segment, read_manifest
from bascule.monitoring.ledger.outcome_spool import OUTCOMES
from bascule.monitoring.ledger.outcomes import SCHEMA as OUTCOME_SCHEMA, Outcomes
from bascule.monitoring.ledger.sealing import ENCRYPTED, KEYS_FILE, PRIVATE, FieldKeys, veiled
from bascule.monitoring.ledger.shared import NO_VIEW, Gone, View, shared_of
from bascule.monitoring.ledger.spool import writers
from bascule.monitoring.ledger.tables import FIXED, answers_of, tables_of

if TYPE_CHECKING:
    import duckdb

Answer = TypeVar("Answer")
Days = tuple[str, str]
"""The first and the last of some UTC days, as `2026-11-26`."""
_TRIES = 5
_QUERY_BYTES, _SPILL_BYTES = 1 << 30, 16 << 30
_STREAMED_ROWS = 2_048
"""In a batch: DuckDB's own number, so that long texts are not gathered."""
_PLACES = ", filename=true, file_row_number=true"
_NEWEST_OUTCOMES = """
SELECT * EXCLUDE (position),
    min(received_at) OVER (PARTITION BY model, id, row) AS first_received_at
FROM {history}
QUALIFY row_number() OVER (PARTITION BY model, id, row ORDER BY received_at DESC, position DESC) = 1
"""
_NEWEST_PREDICTIONS = """
SELECT newest.*, truth, truth_number, outcomes.time AS truth_time, received_at AS truth_received_at,
    first_received_at AS truth_first_received_at, reviewer, probability AS review_probability,
    received_at IS NOT NULL AND probability IS NULL AS is_outcome
FROM (
    SELECT *, count(*) OVER (PARTITION BY endpoint, id, row) - 1 AS repeats FROM {predictions}
    QUALIFY row_number() OVER (
        PARTITION BY endpoint, id, row ORDER BY status >= 300, time DESC, version DESC
    ) = 1
) newest
LEFT JOIN {outcomes} AS outcomes ON outcomes.id = newest.id AND outcomes.row = newest.row
    AND outcomes.model IN (newest.endpoint, newest.model)
QUALIFY row_number() OVER (
    PARTITION BY newest.endpoint, newest.id, newest.row ORDER BY received_at DESC
) = 1
"""
"""The one rule of what a truth is about: the newest answered prediction of its id and row, of the
model that answered or of the endpoint that was asked. `repeats` counts the other predictions."""
_JOINED = f"""
CREATE TEMP MACRO outcome_draw(name) AS
    ('0x' || left(sha256(name), {DRAW_DIGITS}))::UBIGINT / {2.0**DRAW_BITS};
CREATE TEMP VIEW newest_predictions AS
{_NEWEST_PREDICTIONS.format(predictions="predictions", outcomes="outcomes")};
CREATE TEMP VIEW predictions_with_outcomes AS
SELECT * FROM newest_predictions WHERE truth_received_at IS NOT NULL
"""


class Ledger:
    """What was asked and answered, in the home at `home`."""

    def __init__(self, home: Path, *, alone: bool = False, is_private: bool = False) -> None:
        """Read the ledger in `home`; with that of other hosts, where the home shares it.

        Args:
            home: The home.
            alone: Without other hosts: what the home has not added to the shared ledger.
            is_private: Show encrypted values to a reader who has the right, or may read the keys.
        """
        self._is_private = is_private
        self._problems: list[BasculeError] = []
        self.home = self._home = home
        self._shared = None if alone else shared_of(home)

    def __repr__(self) -> str:
        return f"Ledger({str(self.home)!r})"

    def query(self, sql: str, *, model: str | None = None, days: Days | None = None) -> pa.Table:
        """The result of one SELECT over `predictions`, `outcomes`, and the tables made of both.

        Args:
            sql: In DuckDB's dialect.
            model: The model whose fields are columns as well: `"input.NAME"`, `"output.NAME"`.
            days: As of `ask`.

        Raises:
            Invalid: It is no SELECT, or DuckDB refuses it; the message says why.
            NotFound: `model` has no answers in the ledger.
        """
        return self.ask(
            lambda connection: _selected(connection, sql).to_arrow_table(), model=model, days=days
        )

    def stream(
        self, sql: str, take: Callable[[pa.Schema, Iterator[pa.RecordBatch]], Answer],
        *, model: str | None = None,
    ) -> Answer:  # fmt: skip
        """What a function makes of the result of one SELECT, of which little is in memory at once.

        DuckDB may take `_QUERY_BYTES`; what it cannot keep there is on the disk, in bounds.

        Args:
            sql: As of `query`.
            take: Gets the columns, and the rows as they are found.
            model: As of `query`.

        Raises:
            Invalid, NotFound: As of `query`.
        """

        def taken(connection: duckdb.DuckDBPyConnection) -> Answer:
            reader = _selected(connection, sql).to_arrow_reader(_STREAMED_ROWS)
            return take(reader.schema, _batches(reader))

        with Scratch("bascule-query-") as folder:
            bounds = {
                "memory_limit": f"{_QUERY_BYTES}B", "temp_directory": str(folder),
                "max_temp_directory_size": f"{_SPILL_BYTES}B",
            }  # fmt: skip
            return self.ask(taken, model=model, bounds=bounds)

    def ask(
        self,
        question: Callable[[duckdb.DuckDBPyConnection], Answer],
        *,
        model: str | None = None,
        days: Days | None = None,
        is_ours: bool = False,
        what: str = "query",
        with_places: bool = False,
        bounds: Mapping[str, str] | None = None,
    ) -> Answer:
        """What a function finds on a connection that has the tables, and reads no other file.

        Args:
            question: Called again where segments were merged meanwhile.
            model: As of `query`.
            days: Reads the segments of these days alone, and the spool.
            is_ours: Whether the SQL is our own, which needs no guard and the tables `predictions`
                and `outcomes` alone. This process opens its database once, and each footer too.
            what: The name of what is asked, for errors.
            with_places: Adds `filename` and `file_row_number`, which rows of the spool lack.
            bounds: Settings of DuckDB.

        Raises:
            Invalid, NotFound: As of `query`.
        """
        import duckdb

        for _ in range(_TRIES):
            try:
                is_common = is_ours and not self._is_private  # functions are of a database
                with _database().cursor() if is_common else duckdb.connect() as connection:
                    if not self._offer(connection, model, days, with_places=with_places):
                        continue
                    self._offer_truths(connection, with_places=with_places)
                    if not is_ours:
                        connection.execute(_JOINED)
                        self._guard(connection, bounds or {})
                    return question(connection)
            except (duckdb.IOException, FileNotFoundError, Gone):
                time.sleep(0.1)  # a segment was merged or removed meanwhile: look again
            except duckdb.Error as error:
                if self._problems:  # of a function that DuckDB has called
                    raise self._problems.pop() from None
                raise Invalid(
                    f"the {what} is refused: {str(error).splitlines()[0]}",
                    hint="tables: predictions, outcomes, outcome_history, "
                    "newest_predictions, predictions_with_outcomes; "
                    'with --model also the columns "input.NAME" and "output.NAME"',
                ) from None
        raise Unavailable("the ledger changes faster than it can be read", hint="try again")

    def gaps(self) -> list[Gap]:
        """Requests that were answered and are not in the ledger, the latest last."""
        return read_manifest(self._home).gaps

    def rows_by_day(self, model: str, version: str = "") -> dict[str, int]:
        """By UTC day, how many rows of a model, or of a version, are in segments."""
        found: dict[str, int] = {}
        for one, _ in self._segments(read_manifest(self._home), self._view()):
            if one.model == model and version in ("", one.version):
                found[one.day] = found.get(one.day, 0) + one.rows
        return found

    def _offer(
        self, connection: duckdb.DuckDBPyConnection, model: str | None, days: Days | None,
        *, with_places: bool,
    ) -> bool:  # fmt: skip
        """Make the table of predictions; False where the scribe committed meanwhile."""
        manifest = read_manifest(self._home)
        spooled = [table for table in self._spooled(manifest) if _is_of(table, model)]
        view = self._view()
        if read_manifest(self._home).sequence != manifest.sequence:
            return False  # what was read of the spool may be in segments now, or gone
        # Segments of earlier releases lack some of them.
        fixed = f"COLUMNS('^({'|'.join(FIXED.names)})$')"
        what = fixed if model is None else "*"
        options = "union_by_name=true" + (_PLACES if with_places else "")
        parts = []
        for files in self._files_by_version(manifest, view, model, days).values():
            listed = ", ".join(quoted(file) for file in files)
            parts.append(f"SELECT {what} FROM read_parquet([{listed}], {options})")
        for number, table in enumerate(spooled):
            name = f"spooled_{number}"
            connection.register(name, table)
            parts.append(f"SELECT {what} FROM {name}")
        is_known = any(model == one.model for one, _ in self._segments(manifest, view))
        if not parts and model is not None and not is_known:
            raise NotFound(f"the ledger has no answers of {model!r}", hint="bascule ledger query")
        connection.register("no_predictions", _empty(FIXED, with_places=with_places))
        parts.append("SELECT * FROM no_predictions")
        rows = " UNION ALL BY NAME ".join(parts)
        if model is not None and (self._home / KEYS_FILE).exists():
            connection.execute(f"CREATE TEMP VIEW sealed_predictions AS {rows}")
            rows = self._shown(connection)
        connection.execute(f"CREATE TEMP VIEW predictions AS {rows}")
        return True

    def _shown(self, connection: duckdb.DuckDBPyConnection) -> str:
        """The rows, in which encrypted values are readable or are veiled."""
        described = connection.sql("DESCRIBE sealed_predictions").fetchall()
        shown = []
        if self._is_private:
            self._offer_keys(connection)
        for name, kind, *_ in described:
            if name.endswith(ENCRYPTED):
                cell, how = f'"{name}"', "private_value({0})"
                if not self._is_private:
                    how = f"CASE WHEN {{0}} IS NOT NULL THEN '{PRIVATE}' END"
                elif kind.endswith("]"):
                    how = "list_transform({0}::VARCHAR[], x -> private_value(x))"
                shown.append(f"{how.format(cell)} AS {cell}")
        replaced = f" REPLACE ({', '.join(shown)})" if shown else ""
        return f"SELECT *{replaced} FROM sealed_predictions"

    def _offer_keys(self, connection: duckdb.DuckDBPyConnection) -> None:
        """`private_value` of SQL opens encrypted values and tokens."""
        keys = FieldKeys(self._home)

        def opened(sealed: pa.ChunkedArray) -> pa.Array:
            values = sealed.to_pylist()  # of the spool, some are sealed by nothing yet
            try:
                shown = keys.open([None if value == PRIVATE else value for value in values])
            except BasculeError as problem:
                self._problems.append(problem)
                raise
            pairs = zip(values, shown, strict=True)
            return pa.array([text or value for value, text in pairs], pa.string())

        make: Any = connection.create_function  # its types lack functions of Arrow
        make("private_value", opened, ["VARCHAR"], "VARCHAR", type="arrow", null_handling="special")

    def _offer_truths(self, connection: duckdb.DuckDBPyConnection, *, with_places: bool) -> None:
        """Make the tables of outcomes."""
        if self._shared is not None:
            self._shared.share_outcomes()
        _offer_outcomes(connection, *Outcomes(self._home).stored(), with_places=with_places)

    def _guard(self, connection: duckdb.DuckDBPyConnection, bounds: Mapping[str, str]) -> None:
        """Allow no file but those of the ledger, and hash what is compared with private values."""
        for name, value in bounds.items():
            connection.execute(f"SET {name}={quoted(value)}")
        if (self._home / KEY_FILE).exists():
            key = hash_key(self._home)
            connection.create_function(
                "private_hash", lambda text: hashed([text], key)[0], ["VARCHAR"], "VARCHAR"
            )
        if (self._home / KEYS_FILE).exists():
            keys = FieldKeys(self._home)
            connection.create_function(
                "private_token", lambda text: keys.tokens([text], is_made=False)[0], ["VARCHAR"],
                "VARCHAR",
            )  # fmt: skip
        readable = (LEDGER, OUTCOMES, f"cache/{LEDGER}")
        folders = ", ".join(quoted(self._home / name) for name in readable)
        connection.execute(f"SET allowed_directories=[{folders}]")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET python_enable_replacements=false")  # no variables of this process
        connection.execute("SET lock_configuration=true")

    def _view(self) -> View:
        return NO_VIEW if self._shared is None else self._shared.view()

    def _segments(self, manifest: Manifest, view: View) -> Iterator[tuple[Segment, bool]]:
        """Each segment, and whether it is in the store that hosts share."""
        known = view.known()
        yield from ((one, False) for one in manifest.segments if one.file not in known)
        yield from ((one, True) for one in view.segments())

    def _files_by_version(
        self, manifest: Manifest, view: View, model: str | None, days: Days | None
    ) -> dict[tuple[str, str], list[Path]]:
        """Of each version apart: the same column may have another type in another version."""
        found: dict[tuple[str, str], list[Path]] = {}
        for one, is_shared in self._segments(manifest, view):
            if model not in (None, one.model) or not (
                days is None or days[0] <= one.day <= days[1]
            ):
                continue
            file = self._home / LEDGER / one.file
            if is_shared and self._shared is not None:
                file = self._shared.fetch(one)
            found.setdefault((one.model, one.version), []).append(file)
        return found

    def _spooled(self, manifest: Manifest) -> Iterator[pa.Table]:
        for writer in writers(self._home):
            done = manifest.writers.get(writer.name)
            if done is not None and done.is_ended:
                continue
            blocks = []
            for file in writer.files():
                try:
                    with file.open("rb") as opened:
                        opened.seek(0 if done is None else done.files.get(file.name, 0))
                        blocks += [block for block, _ in read_blocks(opened.read())]
                except FileNotFoundError:
                    continue
            for _, _, table in tables_of(answers_of(blocks), veiled):
                yield table


def _selected(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """The result of one SELECT: other statements may write, also to the files of the ledger."""
    import duckdb

    statements = connection.extract_statements(sql)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        raise Invalid(
            "the query is refused: it is not one SELECT", hint="the ledger can only be read"
        )
    return connection.sql(sql)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches of a result; raises `Invalid` where DuckDB ends it, or memory does."""
    is_first = True
    try:
        for batch in reader:
            yield batch
            is_first = False
    except (pa.ArrowException, OSError, MemoryError) as error:
        if is_first and str(error).startswith("IO Error"):
            raise FileNotFoundError(str(error)) from None  # merged meanwhile: `ask` looks again
        raise Invalid(
            f"the query is refused: {first_line(error)}", hint="ask for less, or for fewer columns"
        ) from None


@cache
def _database() -> duckdb.DuckDBPyConnection:
    import duckdb

    made = duckdb.connect()
    made.execute("SET parquet_metadata_cache=true")  # segments never change
    return made


def _offer_outcomes(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[Path],
    spooled: Mapping[Path, pa.Table],
    *,
    with_places: bool,
) -> None:
    """`outcome_history` has every truth that was received, `outcomes` the one that counts."""
    tables = [_empty(OUTCOME_SCHEMA, with_places=with_places)]
    for file, table in spooled.items():
        if with_places:
            table = table.append_column("filename", pa.repeat(str(file), len(table)))
            table = table.append_column("file_row_number", pa.array(range(len(table)), pa.int64()))
        tables.append(table)
    connection.register("spooled_outcomes", pa.concat_tables(tables))
    found = "SELECT * FROM spooled_outcomes"
    if files:
        listed = ", ".join(quoted(file) for file in files)
        options = "union_by_name=true" + (_PLACES if with_places else "")
        found += f" UNION ALL BY NAME SELECT * FROM read_parquet([{listed}], {options})"
    connection.execute(f"CREATE TEMP VIEW outcome_history AS {found}")
    newest = _NEWEST_OUTCOMES.format(history="outcome_history")
    connection.execute(f"CREATE TEMP VIEW outcomes AS {newest}")


def newest_of(ids: str) -> str:
    """The rows of `newest_predictions` whose ids are among those of a SELECT, as SQL.

    The table itself puts all rows in order before one of them is chosen.
    """
    chosen = "(SELECT * FROM {} WHERE id IN ({}))"
    history = chosen.format("outcome_history", ids)
    outcomes = f"({_NEWEST_OUTCOMES.format(history=history)})"
    predictions = chosen.format("predictions", ids)
    return _NEWEST_PREDICTIONS.format(predictions=predictions, outcomes=outcomes)


def _empty(schema: pa.Schema, *, with_places: bool) -> pa.Table:
    if with_places:
        schema = schema.append(pa.field("filename", pa.string()))
        schema = schema.append(pa.field("file_row_number", pa.int64()))
    return schema.empty_table()


def quoted(text: str | Path) -> str:
    """A text as SQL has it."""
    return "'" + str(text).replace("'", "''") + "'"


def _is_of(table: pa.Table, model: str | None) -> bool:
    return model is None or table["model"][0].as_py() == model
