"""`bascule ledger`: what was asked and answered, and what was true."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context, ledger_keeping
from bascule.cli.screen import print_json, print_table, say
from bascule.core import Invalid, printable

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_ROWS = 1_000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Ask what was asked and answered.", no_args_is_help=True)
    group.command("query")(query)
    ledger_keeping.add_to(group)
    app.add_typer(group, name="ledger")


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the table predictions.")],
    model: Annotated[
        str | None, typer.Option(help='The model whose fields are columns: "input.NAME".')
    ] = None,
    as_json: context.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="Write a file instead: .parquet, .csv or .json.")
    ] = None,
) -> None:
    """Ask the ledger by SQL; a server need not run."""
    from bascule.app import open_ledger

    if to is not None and to.suffix not in (".parquet", ".csv", ".json"):
        raise Invalid(f"--to {to}: no such form", hint="use .parquet, .csv or .json")
    found = open_ledger(context.settings()).query(sql, model=model)
    if to is not None:
        _write(found, to)
        say(f"{found.num_rows:,} rows in {to}")
    elif as_json:
        print_json(found.to_pylist())
    elif as_csv:
        text = _csv(found)  # a program gets the values as they are
        typer.echo(printable(text) if sys.stdout.isatty() else text, nl=False)
    else:
        _show(found)


def _write(table: pa.Table, file: Path) -> None:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, file)
    elif file.suffix == ".csv":
        file.write_text(_csv(table))
    else:
        file.write_text(json.dumps(table.to_pylist(), default=str) + "\n")


def _show(table: pa.Table) -> None:
    rows = table.slice(0, _SHOWN_ROWS).to_pylist()
    print_table(
        table.column_names,
        (["" if value is None else str(value) for value in row.values()] for row in rows),
        empty="no rows; bascule ledger status shows what the ledger holds",
    )
    if table.num_rows > _SHOWN_ROWS:
        say(f"{table.num_rows - _SHOWN_ROWS:,} more rows: --to FILE writes all")


def _csv(table: pa.Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.column_names)
    writer.writerows(row.values() for row in table.to_pylist())
    return text.getvalue()
