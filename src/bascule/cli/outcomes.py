"""`bascule outcomes`: the truth about predictions, from files and from databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.screen import print_json, say
from bascule.core import Invalid, counted

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.monitoring import Outcomes, RemoteOutcomes

_SHOWN_REFUSALS = 5


def import_outcomes(
    model: Annotated[str, typer.Argument(help="The model that was asked.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Argument(help="A table (.parquet .csv .jsonl .feather).", show_default=False),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="A SELECT in place of the file.", show_default=False)
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="The database of --query: postgresql://USER@HOST/NAME, sqlite:///FILE.",
            envvar="BASCULE_DATABASE",
            show_default=False,
        ),
    ] = None,
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
    if (file is None) == (query is None):
        raise Invalid(
            "outcomes come from a FILE, or from --query with --database: give one of them",
            hint="bascule outcomes import MODEL truths.csv",
        )
    store = _store()
    taken, lines, refused = 0, 0, dict[int, str]()
    for table in _tables(file, query, database, id_column):
        done = store.add(
            model, table, id_column=id_column, truth_column=truth_column, time_column=time_column
        )
        taken += done.taken
        refused |= {lines + number: why for number, why in done.refused.items()}
        lines += table.num_rows
    if as_json:
        print_json({"taken": taken, "refused": refused})
    else:
        say(f"{counted(taken, 'outcome')} of {model}")
        for number, why in list(refused.items())[:_SHOWN_REFUSALS]:
            say(f"line {number:,} of the table: {why}; not kept")
        if (more := len(refused) - _SHOWN_REFUSALS) > 0:
            say(f"{more:,} more lines were not kept")
    if refused:
        raise typer.Exit(1)


def _store() -> Outcomes | RemoteOutcomes:
    """The outcomes of the home, or of `--server`."""
    if context.is_remote():
        from bascule.monitoring import RemoteOutcomes

        return RemoteOutcomes(context.control_client())
    from bascule.app import open_outcomes

    return open_outcomes(context.settings())


def _tables(
    file: Path | None, query: str | None, database: str | None, id_column: str
) -> Iterator[pa.Table]:
    import pyarrow as pa

    from bascule.batch import read_rows
    from bascule.core import check_file
    from bascule.monitoring.ledger import read_csv, read_query

    if query is not None:
        if database is None:
            raise Invalid(
                "--query names no database",
                hint="add --database postgresql://USER@HOST/NAME, or set BASCULE_DATABASE",
            )
        yield from read_query(database, query)
        return
    assert file is not None
    if file.suffix.lower() == ".csv":
        check_file(file, "outcomes")
        yield read_csv(file.read_bytes(), id_column=id_column)
        return
    table = read_rows(file, "outcomes")
    if not isinstance(table, pa.Table):
        raise Invalid(f"{file} has no columns", hint="use .parquet, .csv, .jsonl or .feather")
    yield table


outcomes_group = context.group_of(
    "Keep the truth about predictions.", **{"import": import_outcomes}
)
