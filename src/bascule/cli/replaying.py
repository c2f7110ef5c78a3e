"""`bascule replay`: asks a recorded request again."""

from __future__ import annotations

from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import print_json, print_table, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


def replay(
    prediction_id: Annotated[str, typer.Argument(help="As the answer said it.")],
    on: Annotated[
        str, typer.Option(help="Another version to ask: late/5.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a recorded request again; exit code 1 if an output has other bits."""
    from bascule.api import load
    from bascule.monitoring import Ledger, replay_prediction

    made = replay_prediction(Ledger(context.settings().home), prediction_id, load, on=on)
    if as_json:
        print_json(made.to_json())
    else:
        which = "the same bits" if made.is_same else "other answers"
        say(f"{made.id}: {made.rows} rows, answered by {made.version}; {made.on} gives {which}")
        rows = [
            (
                name,
                f"{differ} of {made.rows}",
                f"{made.largest[name]:.3g}" if name in made.largest else "-",
            )
            for name, differ in made.differing.items()
        ]
        print_table(("output", "rows that differ", "largest difference"), rows)
    if not made.is_same:
        raise typer.Exit(1)
