"""Builds an image with the tool that is there: podman, buildah or docker."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.core import Invalid, Scratch, Unavailable
from bascule.ship.rendering import Files, write_files
from bascule.ship.shipment import Shipment

TOOLS = ("podman", "buildah", "docker")


@dataclass(frozen=True, slots=True)
class Built:
    """An image.

    Attributes:
        image: Its name.
        digest: The digest of its configuration: the same for the same content.
        size_bytes: What its layers take, not compressed.
        tool: What built it.
    """

    image: str
    digest: str
    size_bytes: int
    tool: str


def build(
    shipment: Shipment,
    files: Files,
    *,
    tag: str = "",
    wheels: Path | None = None,
    build_base: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Build the image of the current version with the first of `TOOLS` that is installed.

    Args:
        shipment: What is built.
        files: What the target `container` rendered.
        tag: The name of the image; by default the one of the shipment.
        wheels: A folder of wheels that are preferred to the index.
        build_base: The image of the first stage, with pip; by default the base.
        say: Takes the lines of the tool.

    Raises:
        Unavailable: No tool is installed, or it failed; the error has its last lines.
    """
    tool = _installed()
    image = tag or shipment.current.image
    with Scratch("bascule-image.") as context:
        write_files(files, context, target="container")
        shutil.copytree(shipment.current.folder, context / "bundle")
        if wheels is not None:
            _copy_wheels(wheels, context / "wheels")
        command = [tool, *(["bud"] if tool == "buildah" else ["build"]), "--tag", image]
        if tool != "docker":
            command += ["--timestamp", "0", "--layers=false"]  # no times: the same digest
        if build_base:
            command += ["--build-arg", f"BUILD_BASE={build_base}"]
        _run([*command, str(context)], say)
    return _inspected(tool, image)


def _installed() -> str:
    found = next((tool for tool in TOOLS if shutil.which(tool)), None)
    if found is None:
        raise Unavailable(
            "no tool that builds images is installed",
            hint=f"install one of {', '.join(TOOLS)}, or give --out DIR and build it elsewhere",
        )
    return found


def _copy_wheels(wheels: Path, to: Path) -> None:
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise Invalid(
            f"--wheels {wheels} holds no wheel",
            hint="pip wheel --wheel-dir DIR -r requirements.txt",
        )
    to.mkdir()
    for wheel in found:
        shutil.copy(wheel, to)


def _run(command: Sequence[str], say: Callable[[str], None]) -> None:
    last: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-9:], line.rstrip()]
            say(line.rstrip())
    if process.returncode:
        raise Unavailable(
            f"{command[0]} ended with {process.returncode}: " + " / ".join(last[-3:]),
            hint="the lines above say why; --base and --wheels choose what it builds from",
        )


def _inspected(tool: str, image: str) -> Built:
    what = ["inspect", "--type", "image"] if tool == "buildah" else ["image", "inspect"]
    said = subprocess.run([tool, *what, image], capture_output=True, text=True, check=True).stdout
    found = json.loads(said)
    facts = found[0] if isinstance(found, list) else found
    digest = str(facts.get("Id") or facts["FromImageID"])
    return Built(image, f"sha256:{digest.removeprefix('sha256:')}", int(facts.get("Size", 0)), tool)
