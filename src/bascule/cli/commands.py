"""The command `bascule`: where each command is, and the options before a command.

A command is a function of the module that `PANELS` says: words to one or two calls, which imports
what they need when it runs. A module is imported when one of its commands is asked for: to make all
of them costs more than what most of them do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from bascule.cli import context
from bascule.cli.screen import say

PANELS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Build", "building", ("pack", "check", "rebuild"), ()),
    ("Build", "indexing", (), ("index",)),
    ("Build", "optimising", ("optimize",), ()),
    ("Build", "training", (), ("train", "trigger", "loop")),
    ("Build", "automl", ("automl",), ()),
    (
        "Registry",
        "registering",
        (
            "push", "models", "show", "history", "alias", "search", "diff", "tag", "deprecate",
            "retire", "gc", "export", "migrate", "import", "push-mlflow",
        ),
        (),
    ),
    ("Serve", "serving", ("serve", "up", "quickstart", "control"), ()),
    ("Serve", "running", ("load", "swap", "unload", "top"), ()),
    ("Deploy", "deploying", ("deploy", "rollback"), ()),
    ("Deploy", "endpoints", (), ("endpoints",)),
    ("Deploy", "rollouts", (), ("rollout",)),
    ("Deploy", "incidents", ("incident",), ()),
    ("Deploy", "configuring", ("apply",), ()),
    ("Deploy", "shipping", ("ship",), ()),
    ("Deploy", "capacity", ("capacity",), ()),
    ("Deploy", "pipelines", (), ("ci",)),
    ("Deploy", "edge", (), ("edge",)),
    ("Serve", "calling", ("predict", "snippet"), ()),
    ("Batch", "batch", (), ("batch",)),
    ("Batch", "jobs", (), ("jobs",)),
    ("Batch", "schedules", (), ("schedule",)),
    ("Monitor", "ledger", (), ("ledger",)),
    ("Monitor", "replaying", ("replay",), ()),
    ("Monitor", "outcomes", (), ("outcomes",)),
    ("Monitor", "drift", ("drift",), ()),
    ("Monitor", "performance", ("performance", "slices"), ()),
    ("Monitor", "monitoring", ("monitor", "report"), ()),
    ("Monitor", "usage", ("usage",), ()),
    ("Monitor", "alerts", (), ("alerts",)),
    ("Trust", "trust", ("sign", "verify", "card"), ()),
    ("Trust", "watermarks", (), ("watermark",)),
    ("Trust", "fairness", ("fairness",), ()),
    ("Trust", "passports", (), ("passport",)),
    ("Trust", "documents", ("document",), ()),
    ("Trust", "explaining", ("explain",), ()),
    ("Trust", "privacy", ("erase",), ("subject", "privacy")),
    ("Trust", "encrypted", (), ("encrypted",)),
    ("Trust", "keys", (), ("keys",)),
    ("Trust", "audit", (), ("audit",)),
    ("Trust", "signing_in", ("sign-in",), ("sessions",)),
    ("Machine", "machine", ("demo", "doctor"), ()),
    ("Machine", "backups", ("backup", "restore"), ()),
)  # fmt: skip
"""A panel of the help, a module, its commands, and its groups, which have commands of their own.
The help shows groups after commands, each in this order."""

DAY_ONE: Mapping[str, str] = {
    "pack": "Turn a fitted model into a bundle, and compare it with the original.",
    "check": "Judge a bundle by your criteria; exit code 1 if one is not met.",
    "push": "Put a bundle into the registry, as the next version of its model.",
    "models": "List the models of the registry.",
    "show": "Show a version in ten lines: inputs, quality, gates, speed.",
    "serve": "Answer requests over HTTP until Ctrl-C.",
    "snippet": "Print a request for a model: curl, Python, JavaScript or gRPC.",
    "deploy": "Give a version the requests of an endpoint, at once or step by step.",
    "rollout": "Follow, pause, promote or abort a deployment that goes step by step.",
    "rollback": "Let an endpoint answer by an earlier version again.",
    "monitor": "Show errors, drift and quality of a model in production.",
    "report": "Write the same with plots as one page of HTML.",
}
"""The commands that the first page of the help explains, in the order of a day; the others it
names."""

GROUPS = frozenset(name for *_, groups in PANELS for name in groups)
_MODULES = {name: module for _, module, names, _ in PANELS for name in names} | {
    name: module for _, module, _, groups in PANELS for name in groups
}


class _Commands(Mapping[str, Any]):
    """Each command by its name, made when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return _commands_of(_MODULES[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


@cache
def _commands_of(module: str) -> Mapping[str, Any]:
    """The commands and groups of a module of this package, with their panel of the help.

    A command is the function of its name, and a group NAME is `NAME_group`.
    """
    ((panel, _, names, groups),) = (row for row in PANELS if row[1] == module)
    alone, source = typer.Typer(), import_module(f"bascule.cli.{module}")
    for name in names:
        function = "import_" if name == "import" else name.replace("-", "_")
        alone.command(name, rich_help_panel=panel)(getattr(source, function))
    for name in groups:
        alone.add_typer(getattr(source, f"{name}_group"), name=name, rich_help_panel=panel)
    return typer.main.get_group(alone).commands


class _Bascule(TyperGroup):
    """The command itself, which knows the names of its commands and not yet what they take."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Commands()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """One screen: the commands of a first day, the names of the others, the options."""
        formatter.width = min(shutil.get_terminal_size().columns, 100)
        formatter.write_usage("bascule", "[OPTIONS] COMMAND [ARGS]...")
        formatter.write(f"\n{self.help}\n`bascule COMMAND -h` explains a command.\n")
        options = [
            param.get_help_record(ctx)
            for param in self.get_params(ctx)
            if param.name != "show_completion"  # another form of --install-completion
        ]
        for title, rows in (
            ("In the order of a day", DAY_ONE.items()),
            ("More", _others_by_panel().items()),
            ("Options", filter(None, options)),
        ):
            with formatter.section(title):
                formatter.write_dl(list(rows), col_max=20)


def _others_by_panel() -> dict[str, str]:
    """The names of the commands that are not of the first day, by panel."""
    names: dict[str, list[str]] = {}
    for panel, _, ours, groups in PANELS:
        names.setdefault(panel, []).extend(one for one in (*ours, *groups) if one not in DAY_ONE)
    return {panel: ", ".join(others) for panel, others in names.items()}


app = typer.Typer(
    name="bascule",
    cls=_Bascule,
    help="From a fitted model to a proven, gated, registered and served one.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    store: Annotated[
        str | None, typer.Option(help="The catalogue: sqlite or postgresql://USER@HOST/NAME.")
    ] = None,
    objects: Annotated[
        str | None, typer.Option(help="The bundles: files, files:///DIR or s3://BUCKET/PREFIX.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            envvar="BASCULE_SERVER",
            help="The control API of a server, with the key in BASCULE_KEY.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """From a fitted model to a proven, gated, registered and served one."""
    given = {"store": store, "objects": objects, "server": server or None}
    context.stores.clear()
    context.stores.update({name: value for name, value in given.items() if value is not None})
    _act_as(ctx.invoked_subcommand or "")
    if version:
        from bascule.core import VERSION

        say(f"bascule {VERSION}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())
        raise typer.Exit(2)


def _act_as(command: str) -> None:
    """Have the audit chain name this command and host for what the process does."""
    from bascule.catalogue import origins

    origins.act(origins.Origin(f"bascule {command}", address=os.uname().nodename))
