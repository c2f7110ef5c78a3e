"""`bascule edge federate`: training on devices, by Flower."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import Criteria
from bascule.cli.screen import say


def federate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the app.")],
    model: Annotated[
        str, typer.Option(help="A classifier with held-out rows: late, late/4 or a folder.")
    ] = "",
    finish: Annotated[
        bool, typer.Option("--finish", help="Pack what the run has trained, and check its gates.")
    ] = False,
    criterion: Criteria = None,
) -> None:
    """Write a Flower app that trains a model on devices; its run ends with a bundle."""
    from bascule.bundle import disk, load
    from bascule.cli.building import check
    from bascule.core import Invalid
    from bascule.packing import federated_app, federated_bundle

    folder = folder.resolve()
    if finish:
        bundle = federated_bundle(folder, lambda reference: load(context.find(reference)[1]))
        check(str(bundle.path), criterion)
        return
    if not model:
        raise Invalid("which model?", hint="--model late/4; or --finish after the run")
    version, path = context.find(model)
    files = federated_app(
        load(path), model=str(version or path.resolve()), folder=str(folder),
        command=str(Path(sys.executable).with_name("bascule")), project=str(Path.cwd()),
    )  # fmt: skip
    with disk.drafting(folder) as draft:
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8")
    say(f"wrote {folder}; its README.md says how to run it")
