"""What the ledger says of a model in production: monitor, report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import print_json, say
from bascule.core import BasculeError, Reference, length_of

Since = Annotated[str, typer.Option(help="How far back: 24h, 7d, 30d.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model, or the folder that is served.", show_default=False
    ),
]
FalseAlarms = Annotated[
    float, typer.Option(help="False alarms of drift a year that are acceptable.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(monitor)
    app.command()(report)


def monitor(
    model: Model, since: Since = "7d", budget: FalseAlarms = 4.0, as_json: AsJson = False
) -> None:
    """Show health, drift, truths and the ledger of a model on one screen; exit code 1: alarm."""
    from bascule import api

    overview = api.monitor(model, since=length_of(since, "--since"), budget=budget)
    if as_json:
        print_json(overview.to_json())
    else:
        say(repr(overview))
        _say_deprecated(model)
    if overview.is_alarm:
        raise typer.Exit(1)


def _say_deprecated(model: str) -> None:
    """Of each deprecated version that the registry has of a model, who still calls it."""
    from bascule.app import open_registry, usage_of

    settings = context.settings()
    with suppress(BasculeError):  # served from a folder, or without a registry
        name = Reference.parse(model).model
        for version in open_registry(settings).deprecated():
            if version.model == name and version.deprecated is not None:
                terms = version.deprecated.terms
                say(f"{version} is deprecated: {terms}; {usage_of(settings, version)}")


def report(
    model: Model,
    to: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")],
    since: Since = "30d",
    budget: FalseAlarms = 4.0,
) -> None:
    """Write one page of HTML with plots of a model in production; it loads nothing."""
    from bascule import api

    api.report(model, to, since=length_of(since, "--since"), budget=budget)
    say(f"{to}: {to.stat().st_size / 1e6:.1f} MB")
