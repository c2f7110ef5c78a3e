"""The commands about pipelines: `bascule ci init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_json, say

ci_group = context.group_of("Deliver a model by a pipeline.")


@ci_group.callback()
def pipelines() -> None:
    """Deliver a model by a pipeline."""


@ci_group.command()
def init(
    system: Annotated[str, typer.Argument(help="github, gitlab or azure.", show_default=False)],
    directory: Annotated[Path, typer.Option("--dir", help="The repository.")] = Path(),
    model: Annotated[
        str,
        typer.Option(help="The name that is packed. Default: of the folder.", show_default=False),
    ] = "",
    train: Annotated[
        str, typer.Option(help="What trains, and packs MODEL.bundle.")
    ] = "python train.py",
    test: Annotated[str, typer.Option(help="What tests the project.")] = "python -m pytest -q",
    data: Annotated[
        str,
        typer.Option(
            help="New rows, which are compared with the champion's baseline.", show_default=False
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            help="REGISTRY/PATH/NAME of the image. Default: none is built.", show_default=False
        ),
    ] = "",
    overwrite: Annotated[bool, typer.Option(help="Replace files that differ.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a workflow that tests, packs, gates, builds, scans, signs and deploys a model."""
    import platform

    from bascule.core import Conflict
    from bascule.ship import Project, render_pipeline, slug_of, text_of, write_file

    files = render_pipeline(
        system,
        Project(
            model=model or slug_of(directory.absolute().name), train=train, test=test, data=data,
            image=image, python=".".join(platform.python_version_tuple()[:2]),
        ),
    )  # fmt: skip
    changed = [name for name, text in files.items() if text_of(directory / name) != text]
    there = [name for name in changed if (directory / name).exists()]
    if there and not overwrite:
        raise Conflict(
            f"{', '.join(there)} would be replaced", hint="move your changes away, or --overwrite"
        )
    for name in changed:
        write_file(directory / name, files[name])
    if as_json:
        print_json({"system": system, "files": sorted(files), "changed": sorted(changed)})
        return
    for name in sorted(files):
        say(f"{'wrote' if name in changed else 'kept '} {directory / name}")
    note("every step runs here as well: sh ci/bascule.sh gates")
