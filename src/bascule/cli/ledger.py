"""`bascule ledger` and `bascule outcomes`: what was asked and answered, and what was true."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context, ledger_keeping
from bascule.cli.screen import print_json, print_table, say
from bascule.core import Invalid

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_ROWS = 1_000
_SHOWN_REFUSALS = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Ask what was asked and answered.", no_args_is_help=True)
    group.command("query")(query)
    ledger_keeping.register(group)
    app.add_typer(group, name="ledger")
    group = typer.Typer(help="Keep the truth about predictions.", no_args_is_help=True)
    group.command("import")(import_outcomes)
    app.add_typer(group, name="outcomes")


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
        typer.echo(_csv(found), nl=False)
    else:
        _show(found)


def import_outcomes(
    model: Annotated[str, typer.Argument(help="The model that was asked.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="A table (.parquet .csv .jsonl .feather).", show_default=False)
    ],
    id_column: Annotated[str, typer.Option(help="The column of the prediction ids.")] = "id",
    truth_column: Annotated[str, typer.Option(help="The column of the truths.")] = "truth",
    time_column: Annotated[
        str | None, typer.Option(help="The column of when each became true. Default: now.")
    ] = None,
    as_json: context.AsJson = False,
) -> None:
    """Keep truths by prediction id, or ID#ROW; the newest one counts.

    The exit code is 1 if some lines were refused; the others are kept.
    """
    import pyarrow as pa

    from bascule.bundle import read_rows
    from bascule.monitoring import Outcomes

    table = read_rows(file, "outcomes")
    if not isinstance(table, pa.Table):
        raise Invalid(f"{file} has no columns", hint="use .parquet, .csv, .jsonl or .feather")
    done = Outcomes(context.settings().home).add(
        model, table, id_column=id_column, truth_column=truth_column, time_column=time_column
    )
    if as_json:
        print_json({"taken": done.taken, "refused": done.refused})
    else:
        say(f"{done.taken:,} outcomes of {model}")
        for number, why in list(done.refused.items())[:_SHOWN_REFUSALS]:
            say(f"line {number:,} of the table: {why}; not kept")
        if (more := len(done.refused) - _SHOWN_REFUSALS) > 0:
            say(f"{more:,} more lines were not kept")
    if done.refused:
        raise typer.Exit(1)


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
    )
    if table.num_rows > _SHOWN_ROWS:
        say(f"{table.num_rows - _SHOWN_ROWS:,} more rows: --to FILE writes all")


def _csv(table: pa.Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.column_names)
    writer.writerows(row.values() for row in table.to_pylist())
    return text.getvalue()
