"""`bascule slices`: the rows in which a version is worse."""

from __future__ import annotations

from typing import Annotated

import typer

from bascule.cli.context import AsJson, Ref
from bascule.cli.jobs import result_of
from bascule.cli.screen import print_blocks, print_json
from bascule.core import seconds_of


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(slices)


def slices(
    model: Ref,
    against: Annotated[
        str, typer.Option(help="A version that answers the same rows: late/3, late@champion.")
    ] = "",
    since: Annotated[str, typer.Option(help="How far back the ledger is read: 24h, 7d.")] = "30d",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Of the held-out rows in place of the ledger.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find slices of rows in which a version is worse; exit code 1 if there is one."""
    from bascule.monitoring.slices import slice_blocks

    content = {
        "model": model, "against": against, "since_s": seconds_of(since, "--since"),
        "held_out": held_out,
    }  # fmt: skip
    report = result_of("slices", content, as_json=as_json)
    if as_json:
        print_json(report)
    else:
        print_blocks(*slice_blocks(report))
    if report["slices"]:
        raise typer.Exit(1)
