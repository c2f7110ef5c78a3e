"""Asking the ledger by SQL: segments and spool as one table, read-only, with or without a server.

The tables that a query sees are of one moment: what the manifest names, and what the spool had
beyond it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from bascule.core import Invalid, NotFound, Unavailable
from bascule.monitoring.ledger.blocks import read_blocks
from bascule.monitoring.ledger.manifest import LEDGER, Gap, Manifest, read_manifest
from bascule.monitoring.ledger.outcome_spool import OUTCOMES
from bascule.monitoring.ledger.outcomes import SCHEMA as OUTCOME_SCHEMA, Outcomes
from bascule.monitoring.ledger.spool import writers
from bascule.monitoring.ledger.tables import FIXED, answers_of, tables_of

if TYPE_CHECKING:
    import duckdb

_TRIES = 5
_JOINED = """
CREATE VIEW predictions_with_outcomes AS
SELECT newest.*, truth, truth_number, outcomes.time AS truth_time, received_at AS truth_received_at
FROM (
    SELECT *, count(*) OVER (PARTITION BY endpoint, id, row) - 1 AS repeats FROM predictions
    QUALIFY row_number() OVER (PARTITION BY endpoint, id, row ORDER BY time DESC) = 1
) newest
JOIN outcomes ON outcomes.model = newest.endpoint AND outcomes.id = newest.id
    AND outcomes.row = newest.row
"""
"""A truth joins the newest prediction of its id; `repeats` counts the earlier ones."""


class Ledger:
    """What was asked and answered, in the home at `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def query(self, sql: str, *, model: str | None = None) -> pa.Table:
        """The result of one SELECT over `predictions`, `outcomes`, and the tables made of both.

        Args:
            sql: In DuckDB's dialect.
            model: The model whose fields are columns as well: `"input.NAME"`, `"output.NAME"`.

        Raises:
            Invalid: DuckDB refuses it; the message says why.
            NotFound: `model` has no answers in the ledger.
        """
        import duckdb

        for _ in range(_TRIES):
            try:
                with duckdb.connect() as connection:
                    if not self._offer(connection, model):
                        continue
                    return connection.sql(sql).to_arrow_table()
            except (duckdb.IOException, FileNotFoundError):
                time.sleep(0.1)  # a segment was merged or removed meanwhile: look again
            except duckdb.Error as error:
                raise Invalid(
                    f"the query is refused: {str(error).splitlines()[0]}",
                    hint="tables: predictions, outcomes, outcome_history, "
                    "predictions_with_outcomes; "
                    'with --model also the columns "input.NAME" and "output.NAME"',
                ) from None
        raise Unavailable("the ledger changes faster than it can be read", hint="try again")

    def gaps(self) -> list[Gap]:
        """Requests that were answered and are not in the ledger, the latest last."""
        return read_manifest(self._home).gaps

    def _offer(self, connection: duckdb.DuckDBPyConnection, model: str | None) -> bool:
        """Make the table, then allow no other file; False where the scribe committed meanwhile."""
        manifest = read_manifest(self._home)
        spooled = [table for table in self._spooled(manifest) if _is_of(table, model)]
        if read_manifest(self._home).sequence != manifest.sequence:
            return False  # what was read of the spool may be in segments now, or gone
        fixed = ", ".join(FIXED.names)
        what = fixed if model is None else "*"
        parts = []
        for files in _files_by_version(manifest, model).values():
            listed = ", ".join(_quoted(self._home / LEDGER / file) for file in files)
            parts.append(f"SELECT {what} FROM read_parquet([{listed}], union_by_name=true)")
        for number, table in enumerate(spooled):
            name = f"spooled_{number}"
            connection.register(name, table)
            parts.append(f"SELECT {what} FROM {name}")
        if not parts and model is not None:
            raise NotFound(f"the ledger has no answers of {model!r}", hint="bascule ledger query")
        connection.register("no_predictions", FIXED.empty_table())
        parts.append("SELECT * FROM no_predictions")
        connection.execute("CREATE VIEW predictions AS " + " UNION ALL BY NAME ".join(parts))
        _offer_outcomes(connection, *Outcomes(self._home).stored())
        folders = ", ".join(_quoted(self._home / name) for name in (LEDGER, OUTCOMES))
        connection.execute(f"SET allowed_directories=[{folders}]")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        return True

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
            for _, _, table in tables_of(answers_of(blocks)):
                yield table


def _offer_outcomes(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], spooled: Sequence[pa.Table]
) -> None:
    """`outcome_history` has every truth that was received, `outcomes` the one that counts."""
    connection.register(
        "spooled_outcomes", pa.concat_tables([OUTCOME_SCHEMA.empty_table(), *spooled])
    )
    found = "SELECT * FROM spooled_outcomes"
    if files:
        listed = ", ".join(_quoted(file) for file in files)
        found += f" UNION ALL SELECT * FROM read_parquet([{listed}])"
    connection.execute(f"CREATE VIEW outcome_history AS {found}")
    connection.execute(
        "CREATE VIEW outcomes AS SELECT * EXCLUDE (position) FROM outcome_history "
        "QUALIFY row_number() OVER "
        "(PARTITION BY model, id, row ORDER BY received_at DESC, position DESC) = 1"
    )
    connection.execute(_JOINED)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _is_of(table: pa.Table, model: str | None) -> bool:
    return model is None or table["model"][0].as_py() == model


def _files_by_version(manifest: Manifest, model: str | None) -> dict[tuple[str, str], list[str]]:
    """Of each version apart: the same column may have another type in another version."""
    found: dict[tuple[str, str], list[str]] = {}
    for segment in manifest.segments:
        if model in (None, segment.model):
            found.setdefault((segment.model, segment.version), []).append(segment.file)
    return found
