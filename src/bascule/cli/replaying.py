"""`bascule replay`: asks a recorded request again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import print_json, print_table, say
from bascule.core import counted


def replay(
    prediction_id: Annotated[str, typer.Argument(help="As the answer said it.")],
    on: Annotated[
        str, typer.Option(help="Another version to ask: late/5.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a recorded request again; exit code 1 if an output has other bits."""
    made = _replayed(prediction_id, on)
    rows, largest = made["rows"], made["largest"]
    if as_json:
        print_json(made)
    else:
        which = "the same bits" if made["is_same"] else "other answers"
        by = f"answered by {made['version']}; {made['on']} gives {which}"
        say(f"{made['id']}: {counted(rows, 'row')}, {by}")
        print_table(
            ("output", "rows that differ", "largest difference"),
            [
                (name, f"{n} of {rows}", f"{largest[name]:.3g}" if name in largest else "-")
                for name, n in made["differing"].items()
            ],
        )
    if not made["is_same"]:
        raise typer.Exit(1)


def _replayed(prediction_id: str, on: str) -> dict[str, Any]:
    """`Replayed` as JSON, made here or by `--server`."""
    if context.is_remote():
        from bascule.control import operations

        return context.remote().ask(operations.REPLAY, {"id": prediction_id, "on": on})
    from bascule.api import load
    from bascule.app import open_ledger
    from bascule.monitoring import replay_prediction

    return replay_prediction(open_ledger(context.settings()), prediction_id, load, on=on).to_json()
