"""Gives out what is held about a person (GDPR, articles 15 and 20): answers, truths, batch rows."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.catalogue import Catalogue, events
from bascule.jobs import Jobs
from bascule.monitoring.ledger import ANY_MODEL, Ledger, offer_subject
from bascule.privacy.erasing import models_of, record, subject_of
from bascule.privacy.files import FORMATS
from bascule.privacy.persons import Person
from bascule.privacy.sinks import sinks_of

if TYPE_CHECKING:
    import duckdb

_TRUTHS = """SELECT * FROM outcome_history SEMI JOIN doomed
ON outcome_history.id = doomed.id AND outcome_history.row = doomed.row"""


def export_about(
    home: Path, catalogue: Catalogue, person: Person, model: str = ANY_MODEL, by: str = ""
) -> list[dict[str, Any]]:
    """Each row that is held, as JSON: `source`, `of`, and the row; private values are opened.

    The history says who has exported how many.
    """
    subject = subject_of(home, person)

    def look(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, dict[str, Any]]]:
        offer_subject(connection, home, subject, person.text)
        queries = {"ledger": "SELECT * FROM doomed", "outcomes": _TRUTHS}
        return [
            (source, row)
            for source, sql in queries.items()
            for row in connection.sql(sql).to_arrow_table().to_pylist()
        ]

    ledger = Ledger(home, is_private=True)
    held = [
        {"source": source, "of": name, "row": row}
        for name in (models_of(home) if model == ANY_MODEL else [model])
        for source, row in ledger.ask(look, model=name, what="subject")
    ]
    held += [
        {"source": "batch", "of": str(file), "row": row}
        for file in sinks_of(Jobs(catalogue).find(kind="batch")).files
        if file.suffix in FORMATS
        for row in _rows_of(file, person)
    ]
    rows: list[dict[str, Any]] = json.loads(json.dumps(held, default=str))
    about = {"field": person.field, "subject": subject.digest, "model": model, "rows": len(rows)}
    name = events.Subject("export", secrets.token_hex(8))
    record(catalogue, name, "subject_exported", by, about)
    return rows


def _rows_of(file: Path, person: Person) -> Iterator[dict[str, Any]]:
    import pyarrow.dataset as ds

    table, field = ds.dataset(file, format=FORMATS[file.suffix]), person.field
    if field in table.schema.names:
        for batch in table.to_batches():
            yield from (row for row in batch.to_pylist() if person.is_value(field, row[field]))
