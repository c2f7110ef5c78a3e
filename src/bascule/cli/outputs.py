"""Answers as tables: on the screen, or in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from bascule.bundle import Answer
from bascule.bundle.answer import flat
from bascule.bundle.disk.manifest import Manifest
from bascule.cli.screen import note, print_table
from bascule.core.errors import Invalid
from bascule.core.files import check_writable, replacing

_SHOWN_ROWS = 20


def as_table(answer: Answer, manifest: Manifest) -> pa.Table:
    """One column per output; probabilities become one column per class."""
    return pa.table({name: pa.array(values) for name, values in flat(answer, manifest).items()})


def check_output(path: Path) -> None:
    """Raise `Invalid` where a table cannot be written to `path`, before any work is done."""
    if path.suffix.lower() not in _WRITERS:
        raise Invalid(
            f"--output {path.name}: a {path.suffix or 'nameless'} file is not known",
            hint=f"use one of {', '.join(_WRITERS)}",
        )
    if not path.absolute().parent.is_dir():
        raise Invalid(f"--output: there is no folder {path.absolute().parent}", hint="make it")
    check_writable(path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write beside the place and rename: the file is there whole or not at all."""
    with replacing(path) as draft:
        _WRITERS[path.suffix.lower()](table, draft)


def _write_parquet(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path)


def _write_csv(table: pa.Table, path: Path) -> None:
    import pyarrow.csv

    pyarrow.csv.write_csv(table, path)


def _write_jsonl(table: pa.Table, path: Path) -> None:
    import msgspec

    with path.open("wb") as file:
        for batch in table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                file.write(msgspec.json.encode(row) + b"\n")


_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}


def print_answers(table: pa.Table) -> None:
    """The first rows, and how many there are."""
    shown = table.slice(0, _SHOWN_ROWS).to_pylist()
    rows = [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in shown
    ]
    print_table(table.column_names, rows, right=table.column_names)
    if table.num_rows > _SHOWN_ROWS:
        note(f"{_SHOWN_ROWS} of {table.num_rows:,} rows; --output FILE takes them all")
