"""Files without a person: tables lose the rows, and other texts the value.

What else is in them stays, byte for byte or value for value. Parquet and Arrow are written again by
batches, texts are copied line by line. A database of SQLite overwrites what it deletes, and its
journal is emptied.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from bascule.core import Unavailable, replacing, sync_folder
from bascule.privacy.persons import Person

IsRow = Callable[[Mapping[str, Any]], bool]
"""Whether a row, by the names of its columns, is the person's."""
FORMATS = {
    ".parquet": "parquet", ".arrow": "ipc", ".feather": "ipc", ".csv": "csv", ".jsonl": "json",
}  # fmt: skip
"""Of tables, by the ends of their names, as pyarrow calls them."""
COLUMNS = (".parquet", ".arrow", ".feather")
DATABASES = (".db", ".sqlite", ".sqlite3")
TABLES = (*FORMATS, *DATABASES)
_TEXTS = (".csv", ".jsonl", ".json", ".md", ".html", ".txt", ".log", ".toml", ".svg")
_WAIT_S = 30.0


def erase_in(file: Path, person: Person, is_row: IsRow, *, is_trial: bool = False) -> int:
    """Write a file again without a person; in how many rows and lines they are.

    Files that are neither tables nor texts stay as they are.

    Args:
        file: Replaced whole, or not at all.
        person: Who.
        is_row: Tells their rows.
        is_trial: Count alone.
    """
    if file.suffix in DATABASES:
        return _erase_in_sqlite(file, person, is_trial=is_trial)
    if file.suffix not in (*COLUMNS, *_TEXTS):
        return 0
    copy = _copy_batches if file.suffix in COLUMNS else _copy_lines
    places = copy(file, None, person, is_row)
    if places and not is_trial:
        with replacing(file) as draft:
            copy(file, draft, person, is_row)
            draft.chmod(file.stat().st_mode)
        sync_folder(file.parent)
    return places


def _copy_batches(file: Path, draft: Path | None, person: Person, is_row: IsRow) -> int:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.ipc
    import pyarrow.parquet as pq

    source = ds.dataset(file, format=FORMATS[file.suffix])
    names = [name for name in source.schema.names if name in (person.field, "prediction_id")]
    if not names:
        return 0
    rows, writer = 0, None
    with ExitStack() as opened:
        if draft is not None and file.suffix == ".parquet":
            packed = pq.read_metadata(file).row_group(0).column(0).compression
            writer = opened.enter_context(
                pq.ParquetWriter(draft, source.schema, compression=packed)
            )
        elif draft is not None:
            writer = opened.enter_context(pa.ipc.new_file(str(draft), source.schema))
        for batch in source.to_batches(columns=names if draft is None else None, batch_size=8_192):
            are_theirs = [is_row(row) for row in batch.select(names).to_pylist()]
            rows += sum(are_theirs)
            if writer is not None:
                writer.write_batch(batch.filter(pa.array([not theirs for theirs in are_theirs])))
    return rows


def _copy_lines(file: Path, draft: Path | None, person: Person, is_row: IsRow) -> int:
    places = 0
    how: dict[str, Any] = {"encoding": "utf-8", "newline": "", "errors": "surrogateescape"}
    with file.open(**how) as source, (draft or Path(os.devnull)).open("w", **how) as target:
        for text, row in _records(source, file.suffix):
            rest = "" if row is not None and is_row(row) else person.redacted(text)
            places += rest != text
            target.write(rest)
    return places


def _records(source: Any, suffix: str) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Each record with its line breaks, and its values by their names if it is of a table."""
    lines: list[str] = []

    def noted() -> Iterator[str]:
        for line in source:
            lines.append(line)
            yield line

    def taken() -> str:
        text = "".join(lines)
        lines.clear()
        return text

    if suffix == ".csv":
        rows = csv.reader(noted())  # a record may have line breaks within quotes
        names = next(rows, [])
        yield taken(), None
        for values in rows:
            yield taken(), dict(zip(names, values, strict=False))
        return
    for line in source:
        row = None
        if suffix == ".jsonl":
            with suppress(ValueError):
                row = json.loads(line)
        yield line, row if isinstance(row, dict) else None


def _erase_in_sqlite(file: Path, person: Person, *, is_trial: bool) -> int:
    rows = 0
    with closing(sqlite3.connect(file, timeout=_WAIT_S)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            columns = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            if (person.field,) not in columns.fetchall():
                continue
            name, field = (part.replace('"', '""') for part in (table, person.field))
            same = f"""FROM "{name}" WHERE CAST("{field}" AS TEXT) IN (?, ? || '.0')"""
            values = (person.text, person.text)
            rows += connection.execute(f"SELECT count(*) {same}", values).fetchone()[0]
            if not is_trial:
                connection.execute(f"DELETE {same}", values)
        connection.commit()
        if not is_trial:
            connection.execute("VACUUM")
            is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise Unavailable(f"{file} is read by another process", hint="resume the job later")
    return rows
