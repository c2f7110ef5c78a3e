"""The commands about the product on this machine: see it work, and see what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import print_either, table


def demo(
    keep: Annotated[bool, typer.Option(help="Leave the server running at the end.")] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Another story: explain, refuse, forget, audit and document."),
    ] = False,
    edge: Annotated[
        bool, typer.Option("--edge", help="Another story: export, publish, update and refuse.")
    ] = False,
    loop: Annotated[
        bool, typer.Option("--loop", help="Another story: drift, retrain, judge and replace.")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Another story: a model that writes, judged by thumbs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the life of a model on real flights: train, pack, check, serve, watch, roll out."""
    from bascule.demo import run_demo

    asked = {"edge": edge, "trust": trust, "loop": loop, "chat": chat}
    other = next((name for name, is_asked in asked.items() if is_asked), "")
    raise typer.Exit(run_demo(keep=keep, as_json=as_json, other=other))


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: what is there, what is missing, and what to do about it."""
    from bascule.cli.doctor import examine

    findings = examine(context.settings())
    rows = [(one.what, one.state, one.found, one.hint or "-") for one in findings]
    shown = table(("what", "state", "found", "next step"), rows)
    print_either([finding.to_json() for finding in findings], shown, as_json=as_json)
    if any(one.state == "FAILED" for one in findings):
        raise typer.Exit(1)
