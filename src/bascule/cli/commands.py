"""The command `bascule`: its modules by theme, and the options before a command.

A module adds its commands by `register(app)`; a command is words to one or two calls, and imports
what they need when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from bascule.cli import (
    alerts,
    backups,
    batch,
    building,
    calling,
    configuring,
    context,
    deploying,
    drift,
    incidents,
    keys,
    ledger,
    machine,
    monitoring,
    outcomes,
    performance,
    pipelines,
    registering,
    replaying,
    rollouts,
    running,
    schedules,
    serving,
    shipping,
    signing_in,
    trust,
)
from bascule.cli.screen import say

PANELS = (
    ("Build", building),
    ("Registry", registering),
    ("Serve", serving),
    ("Serve", running),
    ("Deploy", deploying),
    ("Deploy", rollouts),
    ("Deploy", incidents),
    ("Deploy", configuring),
    ("Deploy", shipping),
    ("Deploy", pipelines),
    ("Ask", calling),
    ("Batch", batch),
    ("Batch", schedules),
    ("Monitor", ledger),
    ("Monitor", replaying),
    ("Monitor", outcomes),
    ("Monitor", drift),
    ("Monitor", performance),
    ("Monitor", monitoring),
    ("Monitor", alerts),
    ("Trust", trust),
    ("Trust", keys),
    ("Trust", signing_in),
    ("Machine", machine),
    ("Machine", backups),
)
"""The panel of the help in which the commands of each module stand, in the order of the help."""

app = typer.Typer(
    name="bascule",
    help="From a fitted model to a proven, gated, registered and served one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    store: Annotated[
        str | None, typer.Option(help="The catalogue: sqlite or postgresql://USER@HOST/NAME.")
    ] = None,
    objects: Annotated[
        str | None, typer.Option(help="The bundles: files, files:///FOLDER or s3://BUCKET/PREFIX.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            envvar="BASCULE_SERVER",
            help="The registry of a server, by its control API: http://HOST:PORT. A key is read "
            "from BASCULE_KEY.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """From a fitted model to a proven, gated, registered and served one."""
    given = {"store": store, "objects": objects, "server": server or None}
    context.stores.clear()
    context.stores.update({name: value for name, value in given.items() if value is not None})
    if version:
        from bascule.core import VERSION

        say(f"bascule {VERSION}")
        raise typer.Exit


def _register_all() -> None:
    for panel, module in PANELS:
        commands, groups = len(app.registered_commands), len(app.registered_groups)
        module.register(app)
        for command in app.registered_commands[commands:]:
            command.rich_help_panel = panel
        for group in app.registered_groups[groups:]:
            group.rich_help_panel = panel


_register_all()
