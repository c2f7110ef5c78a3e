"""`bascule edge`: models on devices."""

from __future__ import annotations

import typer

from bascule.cli.federating import federate


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Models on devices.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command()(federate)
    app.add_typer(group, name="edge")
