"""The command `ship`: files for containers, clusters, meshes and clouds."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, complete_reference
from bascule.cli.screen import note, print_json, say
from bascule.core import counted, printable

if TYPE_CHECKING:
    from bascule.endpoints import Plan
    from bascule.ship import Commands, Files, Shipment, Target


def _complete_target(incomplete: str) -> list[str]:
    from bascule.ship import TARGETS

    return [name for name in TARGETS if name.startswith(incomplete)]


def ship(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="container, compose, kubernetes, helm, kserve, istio, gateway-api, envoy, "
            "argo-rollouts, ray, sagemaker, vertex or azureml.",
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
    candidate: Annotated[
        str,
        typer.Option(
            "--with",
            help="A candidate, shipped before its rollout begins: late/5.",
            show_default=False,
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="The folder of the files.", show_default=False)
    ] = None,
    diff: Annotated[
        bool,
        typer.Option(
            "--diff",
            help="Print what would change in --out, or with --apply in the cluster; exit 1 if "
            "anything.",
        ),
    ] = False,
    build: Annotated[
        bool, typer.Option("--build", help="Build the image, with podman, buildah or docker.")
    ] = False,
    push: Annotated[
        bool,
        typer.Option(
            "--push", help="With --build: push the image, and note its digest at the version."
        ),
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Run the target's own tool, and wait for the pods.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="After --apply: delete what this endpoint has left in the cluster."
        ),
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take away with the target's own tool.")
    ] = False,
    overlay: Annotated[
        str,
        typer.Option(
            help="Of kubernetes: production, plain, staging, keda or agent.", show_default=False
        ),
    ] = "",
    image: Annotated[
        str, typer.Option(help="REGISTRY/PATH of the images.", show_default=False)
    ] = "",
    tag: Annotated[
        str, typer.Option(help="With --build: the whole name of the image.", show_default=False)
    ] = "",
    base: Annotated[
        str, typer.Option(help="An image with Python and pip. Default: python:VERSION-slim.")
    ] = "",
    platform: Annotated[
        list[str] | None,
        typer.Option(help="With --build: linux/arm64; may be repeated, for an index of images."),
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option(help="A folder of wheels, before the index.", show_default=False)
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(help="An extra of Bascule in the image. Default: postgresql and s3."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Pods of each arm, at least.", show_default=False)
    ] = None,
    namespace: Annotated[str, typer.Option(help="Of Kubernetes.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Render what a target needs to run a model: plain files, to review and to keep in git.

    Options that are not given are those of the section ship of bascule.toml.
    """
    from bascule.core import Scratch
    from bascule.ship import difference, write_files

    chosen = _target(target)
    _check_options(chosen, overlay, apply=apply, prune=prune, build=build, push=push)
    shipment, overlay = _shipment(
        what,
        {
            "image": image, "base": base, "replicas": replicas, "namespace": namespace,
            "overlay": overlay,
        },
        extras=extra,
        is_image=target == "container",
        candidate=candidate,
    )  # fmt: skip
    files = chosen.render(shipment)
    commands = chosen.commands(shipment, overlay)
    if diff and apply:
        with Scratch("bascule-ship.") as scratch:
            write_files(files, scratch, target=target)
            raise typer.Exit(_act(commands, target, "diff", scratch))
    if diff:
        lines = list(difference(files, _folder(out)))
        sys.stdout.write(printable("".join(lines)))
        raise typer.Exit(1 if lines else 0)
    if build:
        platforms = platform or context.settings().ship.platforms
        _build(
            shipment, files, tag=tag, wheels=wheels, platforms=platforms, push=push,
            as_json=as_json,
        )  # fmt: skip
        if out is None:
            return
    folder = _folder(out)
    changed = write_files(files, folder, target=target)
    if as_json and not build:
        print_json(
            {"target": target, "folder": str(folder), "files": sorted(files), "changed": changed}
        )
    elif not as_json:
        say(f"{folder}: {counted(len(files), 'file')}, {len(changed)} changed: {chosen.title}")
        if target == "container" and not build:
            note(f"--build builds it; elsewhere, copy {shipment.current.folder} to {folder}/bundle")
    for action, is_asked in (("apply", apply), ("prune", apply and prune), ("remove", remove)):
        if is_asked:
            _act(commands, target, action, folder)


def _target(name: str) -> Target:
    from bascule.core import Invalid
    from bascule.ship import TARGETS

    if name not in TARGETS:
        raise Invalid(f"no target {name!r}", hint=f"one of {', '.join(TARGETS)}")
    return TARGETS[name]


def _check_options(
    target: Target, overlay: str, *, apply: bool, prune: bool, build: bool, push: bool
) -> None:
    from bascule.core import Invalid

    if overlay and overlay not in target.overlays:
        known = ", ".join(filter(None, target.overlays)) or "none"
        raise Invalid(f"no overlay {overlay!r}", hint=f"this target has {known}")
    for name, needs in (("--prune", prune and not apply), ("--push", push and not build)):
        if needs:
            other = {"--prune": "--apply", "--push": "--build"}[name]
            raise Invalid(f"{name} does nothing without {other}", hint=f"add {other}")


def _folder(out: Path | None) -> Path:
    from bascule.core import Invalid

    if out is None:
        raise Invalid("--out is missing", hint="name the folder of the files: --out ship/")
    return out


def _shipment(
    what: str,
    given: dict[str, object],
    *,
    extras: list[str] | None,
    is_image: bool,
    candidate: str,
) -> tuple[Shipment, str]:
    """The facts, and the overlay, by the settings and what the command line says in front."""
    from dataclasses import replace

    from bascule.app import cluster_of
    from bascule.ship import ImageOptions, shipment_of

    settings = context.settings()
    options = {name: value for name, value in given.items() if value}
    chosen = replace(settings.ship, **options)  # type: ignore[arg-type]
    cluster = cluster_of(replace(settings, ship=chosen))
    images = ImageOptions(repository=chosen.image, base=chosen.base, is_built=is_image)
    if extras is not None:
        images = replace(images, extras=tuple(extras))
    shipment = shipment_of(
        context.registry(), what, plan=_plan_of(what), candidate=candidate, images=images,
        replicas=chosen.replicas, max_replicas=chosen.max_replicas, cluster=cluster,
    )  # fmt: skip
    return replace(shipment, target_cpu_percent=chosen.target_cpu_percent), chosen.overlay


def _plan_of(name: str) -> Plan | None:
    """The plan of an endpoint; None for a plain model."""
    if "/" in name or "@" in name:
        return None
    found = [one for one in context.endpoints().endpoints() if one.name == name]
    return found[0].current.plan if found else None


def _build(
    shipment: Shipment,
    files: Files,
    *,
    tag: str,
    wheels: Path | None,
    platforms: Sequence[str],
    push: bool,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from bascule.ship import IMAGE_TAG, build, push_image

    tell = note if sys.stderr.isatty() else lambda _: None
    built = build(shipment, files, tag=tag, wheels=wheels, platforms=platforms, say=tell)
    pushed = push_image(built, say=tell) if push else ""
    if pushed:
        current = shipment.current
        version = context.registry().resolve(f"{current.model}/{current.number}")
        context.registry().change_tags(version, {IMAGE_TAG: pushed}, by=context.user())
    if as_json:
        print_json({**asdict(built), "pushed": pushed})
        return
    for one in built.scans:
        note(f"{one.what}: {f'not scanned: {one.reason}' if one.reason else 'nothing found'}")
    say(f"{built.image}  {built.digest}  {built.size_bytes / 1e6:.0f} MB, built by {built.tool}")
    if pushed:
        say(f"pushed {pushed}")


def _act(commands: Commands, target: str, action: str, folder: Path) -> int:
    """Run the steps of an action until one fails. Its exit code, which is 1 for differences."""
    import shutil

    from bascule.core import Unavailable

    alternatives = commands.get(action)
    if alternatives is None:
        raise Unavailable(
            f"--{action} does nothing for {target}", hint=f"the files are in {folder}"
        )
    steps = next((one for one in alternatives if shutil.which(one[0][0])), None)
    if steps is None:
        shown = "; ".join(shlex.join(step) for step in alternatives[0])
        raise Unavailable(
            f"--{action} needs {' or '.join(one[0][0] for one in alternatives)}, which is not "
            "installed",
            hint=f"install it, or run in {folder}: {shown}",
        )
    for step in steps:
        code = subprocess.run(step, cwd=folder, check=False).returncode
        differs = action == "diff" and code == (2 if step[0] == "terraform" else 1)
        if code and not differs:
            raise Unavailable(
                f"{shlex.join(step[:3])} ended with {code}", hint="its lines above say why"
            )
        if code:
            return 1
    return 0
