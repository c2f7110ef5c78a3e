"""The command `ship`: files for containers, clusters, meshes and clouds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, complete_reference
from bascule.cli.screen import note, print_json, say
from bascule.core import printable

if TYPE_CHECKING:
    from bascule.endpoints import Plan
    from bascule.ship import Files, Shipment, Target


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(ship)


def _complete_target(incomplete: str) -> list[str]:
    from bascule.ship import TARGETS

    return [name for name in TARGETS if name.startswith(incomplete)]


def ship(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="container, compose, kubernetes, helm, kserve, istio, gateway-api, envoy, "
            "argo-rollouts, flagger, ray, sagemaker, vertex or azureml.",
            autocompletion=_complete_target,
            show_default=False,
        ),
    ],
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An endpoint, with the shares of its plan, or a model: late, late/4, "
            "late@champion.",
            autocompletion=complete_reference,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder of the files.", show_default=False)
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print what would change in --out; exit 1 if anything.")
    ] = False,
    build: Annotated[
        bool, typer.Option("--build", help="Build the image, with podman, buildah or docker.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the target's own tool on the files.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take away with the target's own tool.")
    ] = False,
    image: Annotated[
        str, typer.Option(help="REGISTRY/PATH of the images.", show_default=False)
    ] = "",
    tag: Annotated[
        str, typer.Option(help="With --build: the whole name of the image.", show_default=False)
    ] = "",
    base: Annotated[
        str, typer.Option(help="An image with Python and pip. Default: python:VERSION-slim.")
    ] = "",
    wheels: Annotated[
        Path | None, typer.Option(help="A folder of wheels, before the index.", show_default=False)
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(help="An extra of Bascule in the image. Default: postgresql and s3."),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Pods of each version, at least.")] = 2,
    namespace: Annotated[str, typer.Option(help="Of Kubernetes.")] = "bascule",
    as_json: AsJson = False,
) -> None:
    """Render what a target needs to run a model: plain files, to review and to keep in git."""
    from bascule.ship import difference, write_files

    chosen = _target(target)
    shipment = _shipment(
        what,
        image=image,
        base=base,
        extras=(extra or ["postgresql", "s3"]) if target == "container" else None,
        replicas=replicas,
        namespace=namespace,
    )
    files = chosen.render(shipment)
    if diff:
        lines = list(difference(files, _folder(out)))
        sys.stdout.write(printable("".join(lines)))
        raise typer.Exit(1 if lines else 0)
    if build:
        _build(shipment, files, tag=tag, wheels=wheels, as_json=as_json)
        if out is None:
            return
    folder = _folder(out)
    changed = write_files(files, folder, target=target)
    if as_json and not build:
        print_json(
            {"target": target, "folder": str(folder), "files": sorted(files), "changed": changed}
        )
    elif not as_json:
        say(f"{folder}: {len(files)} files, {len(changed)} changed: {chosen.title}")
    for action, is_asked in (("apply", apply), ("remove", remove)):
        if is_asked:
            _act(chosen, target, action, folder)


def _target(name: str) -> Target:
    from bascule.core import Invalid
    from bascule.ship import TARGETS

    if name not in TARGETS:
        raise Invalid(f"no target {name!r}", hint=f"one of {', '.join(TARGETS)}")
    return TARGETS[name]


def _folder(out: Path | None) -> Path:
    from bascule.core import Invalid

    if out is None:
        raise Invalid("--out is missing", hint="name the folder of the files: --out ship/")
    return out


def _shipment(
    what: str, *, image: str, base: str, extras: list[str] | None, replicas: int, namespace: str
) -> Shipment:
    from bascule.ship import shipment_of

    registry = context.local_registry("ship")
    return shipment_of(
        registry, what, plan=_plan_of(what), repository=image, base=base, replicas=replicas,
        namespace=namespace, extras=extras,
    )  # fmt: skip


def _plan_of(name: str) -> Plan | None:
    """The plan of an endpoint; None for a plain model."""
    if "/" in name or "@" in name:
        return None
    found = [one for one in context.endpoints().endpoints() if one.name == name]
    return found[0].current.plan if found else None


def _build(
    shipment: Shipment, files: Files, *, tag: str, wheels: Path | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from bascule.ship import build

    built = build(
        shipment, files, tag=tag, wheels=wheels,
        say=note if sys.stderr.isatty() else lambda _: None,
    )  # fmt: skip
    if as_json:
        print_json(asdict(built))
    else:
        for one in built.scans:
            note(f"{one.what}: {f'not scanned: {one.reason}' if one.reason else 'nothing found'}")
        say(
            f"{built.image}  {built.digest}  {built.size_bytes / 1e6:.0f} MB, built by {built.tool}"
        )


def _act(target: Target, name: str, action: str, folder: Path) -> None:
    import shutil

    from bascule.core import Unavailable

    commands = target.commands.get(action)
    if commands is None:
        raise Unavailable(f"--{action} does nothing for {name}", hint=f"the files are in {folder}")
    command = next((one for one in commands if shutil.which(one[0])), None)
    if command is None:
        raise Unavailable(
            f"--{action} needs {' or '.join(one[0] for one in commands)}, which is not installed",
            hint=f"install it, or run in {folder}: {' '.join(commands[0])}",
        )
    ended = subprocess.run(command, cwd=folder, check=False)
    if ended.returncode:
        raise Unavailable(
            f"{command[0]} ended with {ended.returncode}", hint="its lines above say why"
        )
