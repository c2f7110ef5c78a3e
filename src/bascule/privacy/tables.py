"""Tables in files, without the rows of a person; other rows stay byte for byte, or value for value.

Parquet and Arrow are written again by batches. Lines of CSV and JSON are copied as they stand. A
database of SQLite overwrites what it deletes, and its journal is emptied.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Unavailable, replacing, sync_folder
from bascule.privacy.persons import Person

if TYPE_CHECKING:
    import pyarrow as pa

IsRow = Callable[[Mapping[str, Any]], bool]
"""Whether a row, by the names of its columns, is the person's."""
TABLES = (".parquet", ".csv", ".jsonl", ".arrow", ".feather")
DATABASES = (".db", ".sqlite", ".sqlite3")
_WAIT_S = 30.0


def erase_rows(file: Path, person: Person, is_row: IsRow, *, is_trial: bool = False) -> int:
    """Write a table again without the rows of a person; how many there are.

    Args:
        file: The table; replaced whole, or not at all.
        person: Whose rows.
        is_row: Tells them.
        is_trial: Count alone.
    """
    if file.suffix in DATABASES:
        return _in_sqlite(file, person, is_trial=is_trial)
    gone = _copied(file, None, person, is_row)
    if gone and not is_trial:
        with replacing(file) as draft:
            _copied(file, draft, person, is_row)
            draft.chmod(file.stat().st_mode)
        sync_folder(file.parent)
    return gone


def _copied(file: Path, draft: Path | None, person: Person, is_row: IsRow) -> int:
    if file.suffix in (".csv", ".jsonl"):
        return _copy_lines(file, draft, is_row)
    return _copy_batches(file, draft, person, is_row)


def _copy_batches(file: Path, draft: Path | None, person: Person, is_row: IsRow) -> int:
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet as pq

    gone = 0
    with file.open("rb") as opened:
        if file.suffix == ".parquet":
            source = pq.ParquetFile(opened)
            schema, batches = source.schema_arrow, source.iter_batches(8_192)
        else:
            reader = pa.ipc.open_file(opened)
            schema = reader.schema
            batches = (reader.get_batch(at) for at in range(reader.num_record_batches))
        names = [name for name in schema.names if name in (person.field, "prediction_id")]
        writer = None
        if draft is not None and file.suffix == ".parquet":
            packed = source.metadata.to_dict()["row_groups"][0]["columns"][0]["compression"]
            writer = pq.ParquetWriter(draft, schema, compression=packed)
        elif draft is not None:
            writer = pa.ipc.new_file(str(draft), schema)
        for batch in batches if names else ():
            ours = [is_row(row) for row in batch.select(names).to_pylist()]
            gone += sum(ours)
            if writer is not None:
                writer.write_batch(_kept(batch, ours))
        if writer is not None:
            writer.close()
    return gone


def _kept(batch: pa.RecordBatch, ours: list[bool]) -> pa.RecordBatch:
    import pyarrow as pa

    return batch.filter(pa.array([not one for one in ours]))


def _copy_lines(file: Path, draft: Path | None, is_row: IsRow) -> int:
    gone = 0
    read = _json_rows if file.suffix == ".jsonl" else _csv_rows
    how: dict[str, Any] = {"encoding": "utf-8", "newline": "", "errors": "surrogateescape"}
    with file.open(**how) as source, (draft or Path(os.devnull)).open("w", **how) as target:
        for raw, row in read(source):
            if row is not None and is_row(row):
                gone += 1
            else:
                target.write(raw)
    return gone


def _json_rows(source: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    for line in source:
        row = None
        with suppress(ValueError):
            row = json.loads(line)
        yield line, row if isinstance(row, dict) else None


def _csv_rows(source: Any) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Each record with its line breaks, and its values by the names of the first record."""
    names: list[str] | None = None
    raw = ""
    for line in source:
        raw += line
        if raw.count('"') % 2:
            continue  # a line break within quotes
        values = next(csv.reader([raw]), [])
        yield raw, None if names is None else dict(zip(names, values, strict=False))
        names = names if names is not None else values
        raw = ""
    if raw:
        yield raw, None


def _in_sqlite(file: Path, person: Person, *, is_trial: bool) -> int:
    gone = 0
    with closing(sqlite3.connect(file, timeout=_WAIT_S)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            columns = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            if (person.field,) not in columns.fetchall():
                continue
            name, field = (part.replace('"', '""') for part in (table, person.field))
            same = f"""FROM "{name}" WHERE CAST("{field}" AS TEXT) IN (?, ? || '.0')"""
            asked = (person.text, person.text)
            gone += connection.execute(f"SELECT count(*) {same}", asked).fetchone()[0]
            if not is_trial:
                connection.execute(f"DELETE {same}", asked)
        connection.commit()
        if not is_trial:
            connection.execute("VACUUM")
            is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise Unavailable(f"{file} is read by another process", hint="resume the job later")
    return gone
