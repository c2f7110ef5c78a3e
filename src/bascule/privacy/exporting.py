"""Gives out what is held about a person (GDPR, articles 15 and 20): answers, truths, batch rows."""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.catalogue import Catalogue, events
from bascule.core import replacing
from bascule.jobs import Jobs
from bascule.monitoring.ledger import ANY_MODEL, Ledger, offer_subject
from bascule.privacy.erasing import models_of, record, subject_of
from bascule.privacy.persons import Person
from bascule.privacy.sinks import sinks_of

if TYPE_CHECKING:
    import duckdb

_TRUTHS = """SELECT * FROM outcome_history SEMI JOIN doomed
ON outcome_history.id = doomed.id AND outcome_history.row = doomed.row"""


def held_about(
    home: Path, catalogue: Catalogue, person: Person, model: str = ANY_MODEL
) -> Iterator[dict[str, Any]]:
    """Each row that is held, as JSON: `source`, `of`, and the row; private values are opened."""
    subject = subject_of(home, person)

    def rows(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, dict[str, Any]]]:
        offer_subject(connection, home, subject, person.text)
        asked = {"ledger": "SELECT * FROM doomed", "outcomes": _TRUTHS}
        return [
            (source, row)
            for source, sql in asked.items()
            for row in connection.sql(sql).to_arrow_table().to_pylist()
        ]

    ledger = Ledger(home, is_private=True)
    for name in models_of(home) if model == ANY_MODEL else [model]:
        for source, row in ledger.ask(rows, model=name, what="subject"):
            yield _plain({"source": source, "of": name, "row": row})
    for file in sinks_of(Jobs(catalogue).find(kind="batch")).files:
        for row in _rows_of(file, person):
            yield _plain({"source": "batch", "of": str(file), "row": row})


def export_about(
    home: Path, catalogue: Catalogue, person: Person, model: str, by: str
) -> list[dict[str, Any]]:
    """The export of `held_about`, with an event in the history: its reader, and how many rows."""
    rows = list(held_about(home, catalogue, person, model))
    about = {"field": person.field, "subject": subject_of(home, person).digest, "rows": len(rows)}
    name = events.Subject("export", secrets.token_hex(8))
    record(catalogue, name, "subject_exported", by, {**about, "model": model})
    return rows


def write_export(file: Path, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write rows as lines of JSON, or as a zip with a Parquet file for each source; how many."""
    held = list(rows)
    with replacing(file) as draft:
        draft.touch(0o600)
        if file.suffix != ".zip":
            draft.write_text("".join(f"{json.dumps(row)}\n" for row in held), encoding="utf-8")
            return len(held)
        import pyarrow as pa
        import pyarrow.parquet as pq

        with zipfile.ZipFile(draft, "w") as archive:
            for source, of in dict.fromkeys((row["source"], row["of"]) for row in held):
                name = f"{source}-{Path(of).name}.parquet"
                same = [row["row"] for row in held if (row["source"], row["of"]) == (source, of)]
                with archive.open(name, "w") as opened:
                    pq.write_table(pa.Table.from_pylist(same), opened)
    return len(held)


def _rows_of(file: Path, person: Person) -> Iterator[dict[str, Any]]:
    import pyarrow.dataset as ds

    form = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".arrow": "ipc"}
    if file.suffix not in form:
        return
    table = ds.dataset(file, format=form[file.suffix])
    if person.field in table.schema.names:
        for batch in table.to_batches():
            yield from (
                r for r in batch.to_pylist() if person.is_value(person.field, r[person.field])
            )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(row, default=str))
    return plain
