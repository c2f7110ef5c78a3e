"""What the ledger says of a model in production: monitor, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import print_json, say, say_sentences
from bascule.core import BasculeError, Invalid, Reference, length_of

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.monitoring import DriftReport, PerformanceReport, ProductionDrift
    from bascule.monitoring.reporting import Overview

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


def monitor(
    model: Model, since: Since = "7d", budget: FalseAlarms = 4.0, as_json: AsJson = False
) -> None:
    """Show health, drift, truths and the ledger of a model on one screen; exit code 1: alarm."""
    found = _look_at(model, since, budget)
    try:
        say_report(found, as_json=as_json)
    finally:
        if not as_json:
            _say_deprecated(model)


def _look_at(model: str, since: str, budget: float) -> Overview:
    from bascule.documents import progress_line
    from bascule.monitoring.reporting import look_at

    with progress_line("report") as tell:
        length = length_of(since, "--since")
        return look_at(*production(model), since=length, budget=budget, progress=tell)


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
    from bascule.monitoring.reporting import write_report

    write_report(_look_at(model, since, budget), to)
    say(f"{to}: {to.stat().st_size / 1e6:.1f} MB")


def production(model: str) -> tuple[Path, str, Callable[[str], Bundle | None]]:
    """The home with the ledger, the name of the model, and what opens its versions."""
    from bascule.control import versions_of

    return context.settings().home, *versions_of(model, context.registry)


def effects_of(written: Sequence[str], name: str, example: str) -> dict[str, float]:
    """`NAME=0.2` of each `--effect`; `name` says what they are of. Raises `Invalid`."""
    effects = {}
    for text in written:
        key, _, number = text.rpartition("=")
        try:
            effects[key] = float(number)
        except ValueError:
            key = ""
        if not key:
            raise Invalid(f"--effect {text!r} is not {name}=NUMBER", hint=f"--effect {example}")
    return effects


def say_report(
    found: Overview | DriftReport | ProductionDrift | PerformanceReport, *, as_json: bool
) -> None:
    """Print a report; the exit code is 1 on an alarm."""
    if as_json:
        print_json(found.to_json())
    else:
        say_sentences(repr(found))
    if found.is_alarm:
        raise typer.Exit(1)
