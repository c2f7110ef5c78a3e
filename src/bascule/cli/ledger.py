"""`bascule ledger`: what was asked and answered, and what was true."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from bascule.cli import context
from bascule.cli.ledger_keeping import delete, status
from bascule.cli.screen import Output, print_table, say
from bascule.core import Invalid, counted, limited_memory, replacing

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_ROWS = 1_000
_MEMORY_BYTES = 2 << 30
"""That a query may have this process grow by."""


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the table predictions.")],
    model: Annotated[
        str | None, typer.Option(help='The model whose fields are columns: "input.NAME".')
    ] = None,
    private: Annotated[
        bool, typer.Option(help="Show encrypted values: it takes the keys of the home.")
    ] = False,
    as_json: context.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="Write a file instead: .parquet, .csv or .json.")
    ] = None,
) -> None:
    """Ask the ledger by SQL; a server need not run."""
    from bascule.app import open_ledger
    from bascule.monitoring.ledger import Ledger

    if to is not None and to.suffix not in _WRITERS:
        raise Invalid(f"--to {to}: no such form", hint="use .parquet, .csv or .json")
    ledger = open_ledger(context.settings())
    if private:
        ledger = Ledger(ledger.home, is_private=True)
    with limited_memory(_MEMORY_BYTES):
        if to is not None:
            with replacing(to) as draft:
                rows = ledger.stream(sql, partial(_WRITERS[to.suffix], draft), model=model)
            say(f"{counted(rows, 'row')} in {to}")
        else:
            show = _print_json if as_json else _print_csv if as_csv else _show
            ledger.stream(sql, show, model=model)


def _write_parquet(file: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(file: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    with file.open("w", newline="") as opened:
        return _csv(opened, schema, batches)


def _write_json(file: Path, _: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    with file.open("w") as opened:
        rows = _Rows(batches)
        opened.writelines(json.JSONEncoder(default=str).iterencode(rows))
        opened.write("\n")
    return rows.row_count


_WRITERS: dict[str, Callable[[Path, pa.Schema, Iterator[pa.RecordBatch]], int]] = {
    ".parquet": _write_parquet, ".csv": _write_csv, ".json": _write_json,
}  # fmt: skip


def _print_json(_: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    sys.stdout.writelines(json.JSONEncoder(indent=2, default=str).iterencode(_Rows(batches)))
    say("")


def _print_csv(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    _csv(Output(), schema, batches)


def _show(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    rows = _Rows(batches)
    print_table(
        schema.names,
        (
            ["" if value is None else str(value) for value in row.values()]
            for row in islice(rows, _SHOWN_ROWS)
        ),
        empty="no rows; bascule ledger status shows what the ledger holds",
    )
    if (more := sum(batch.num_rows for batch in batches) + rows.row_count - _SHOWN_ROWS) > 0:
        say(f"{more:,} more rows: --to FILE writes all")


class _Rows(list[Any]):
    """The rows of batches, as they are found: `json` writes a list of this type row by row."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        first = next((batch for batch in batches if batch.num_rows), None)
        super().__init__([] if first is None else [None])  # which is what tells whether it is empty
        self._batches = chain([] if first is None else [first], batches)
        self.row_count = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.row_count += batch.num_rows
            yield from batch.to_pylist()


def _csv(file: TextIO, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    rows, writer = _Rows(batches), csv.writer(file)
    writer.writerow(schema.names)
    writer.writerows(row.values() for row in rows)
    return rows.row_count


ledger_group = context.group_of("Ask what was asked and answered.", query, status, delete)
