"""The commands about where a bundle comes from, and where else it is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli.screen import note, print_json, print_table, say, short, stages

if TYPE_CHECKING:
    from bascule.bundle import Rebuilt
    from bascule.registry import Version

Find = Callable[[str], "tuple[Version | None, Path]"]

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_Bundle = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle's folder, or a registered model: gb, gb/3, gb@champion.",
        show_default=False,
    ),
]


def register(app: typer.Typer, *, find: Find, statements: Any) -> None:
    """Put the commands into `app`; what they need of it is handed in."""

    @app.command()
    def rebuild(
        bundle: _Bundle,
        train: Annotated[
            Path | None, typer.Option(help="The training rows, as they were handed to pack.")
        ] = None,
        test: Annotated[
            Path | None,
            typer.Option(help="The held-out rows, where the bundle does not hold them."),
        ] = None,
        calibration: Annotated[
            Path | None,
            typer.Option(help="The rows that it was calibrated on, where they were of their own."),
        ] = None,
        target: Annotated[
            list[str] | None,
            typer.Option(
                show_default=False,
                help="The column of the tables that holds the truth; repeat it for several "
                "outputs.",
            ),
        ] = None,
        to: Annotated[
            Path | None, typer.Option(help="Keep what was rebuilt. Default: it is compared only.")
        ] = None,
        as_json: _Json = False,
    ) -> None:
        """Pack a bundle again from what is recorded, and compare; exit code 1 if it differs."""
        from bascule.bundle import rebuild as rebuild_bundle
        from bascule.bundle.table_files import read_rows, split_truth

        version, path = find(bundle)
        sets: dict[str, Any] = {}
        for what, file in (("train", train), ("test", test), ("calibration", calibration)):
            if file is not None:
                table = read_rows(file, f"--{what} table")
                rows, truth = split_truth(
                    table, target, f"--{what} table {file.name}", required=False
                )
                sets[what] = rows if truth is None else (rows, truth)
        with stages(quiet=as_json) as tell:
            made = rebuild_bundle(
                path, to=to, statements=statements(version) if version else None,
                progress=tell, **sets,
            )  # fmt: skip
        _print(made, to, as_json=as_json)
        if not made.same:
            raise typer.Exit(1)

    @app.command()
    def push_mlflow(
        bundle: _Bundle,
        uri: Annotated[
            str | None,
            typer.Option(help="MLflow's tracking server. Default: MLFLOW_TRACKING_URI."),
        ] = None,
        name: Annotated[
            str | None,
            typer.Option(help="What its registry calls the model. Default: the bundle's name."),
        ] = None,
        run: Annotated[
            str | None, typer.Option(help="The run that it is logged to. Default: a new one.")
        ] = None,
        as_json: _Json = False,
    ) -> None:
        """Put a bundle into MLflow's registry as a model, which our program answers."""
        from bascule.mlflow import push

        _, path = find(bundle)
        with stages(quiet=as_json) as tell:
            made = push(path, uri=uri, registered_model_name=name, run_id=run)
            tell(f"logged to run {made.run_id}")
        if as_json:
            print_json(
                {
                    "name": made.name,
                    "version": made.version,
                    "run": made.run_id,
                    "model_uri": made.model_uri,
                }
            )
        else:
            say(made.model_uri)


def _print(made: Rebuilt, to: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(made.to_json())
        return
    if made.same:
        say(f"the same bundle: {made.packed}")
    else:
        rows = [
            (one.what, _word(one.packed), _word(one.rebuilt), one.why) for one in made.differences
        ]
        print_table(("what", "packed", "rebuilt", "known to be different"), rows)
        say(f"another bundle: {made.rebuilt[:19]}, and packed was {made.packed[:19]}")
    if to is not None:
        note(f"it is at {to}")


def _word(value: str) -> str:
    return short(value) if value.startswith("sha256:") else value
