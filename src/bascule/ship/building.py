"""Builds an image with the tool that is there: podman, buildah or docker."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from bascule.core import Invalid, Refused, Scratch, Unavailable
from bascule.ship.rendering import Files, write_files
from bascule.ship.scanning import Scan, scan
from bascule.ship.shipment import Package, Shipment

TOOLS = ("podman", "buildah", "docker")


@dataclass(frozen=True, slots=True)
class Built:
    """An image.

    Attributes:
        image: Its name.
        digest: The digest of its configuration: the same for the same content.
        size_bytes: What its layers take, not compressed.
        tool: What built it.
        scans: What the scans of its content said, before it was built.
    """

    image: str
    digest: str
    size_bytes: int
    tool: str
    scans: tuple[Scan, ...] = ()


def build(
    shipment: Shipment,
    files: Files,
    *,
    tag: str = "",
    wheels: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Build the image of the current version with the first of `TOOLS` that is installed.

    Args:
        shipment: What is built.
        files: What the target `container` rendered.
        tag: The name of the image; by default the one of the shipment.
        wheels: A folder of wheels that are preferred to the index. If it has every package, the
            build has no network.
        say: Takes the lines of the tool.

    Raises:
        Refused: A scan found a secret, a fault or a known flaw.
        Unavailable: No tool is installed, or it failed; the error has its last lines.
    """
    tool = _installed()
    image = tag or shipment.current.image
    offline: list[str] = []
    with Scratch("bascule-image.") as context:
        write_files(files, context, target="container")
        shutil.copytree(shipment.current.folder, context / "bundle")
        scans = scan(context)
        _refuse_findings(scans)
        if wheels is not None:
            missing = _copy_wheels(wheels, context / "wheels", shipment.current.packages)
            if not missing:
                offline = ["--network", "none", "--build-arg", "PIP_OPTIONS=--no-index"]
        command = [tool, *(["bud"] if tool == "buildah" else ["build"]), "--tag", image]
        if tool != "docker":
            command += ["--timestamp", "0", "--layers=false"]  # no times: the same digest
        _run([*command, *offline, str(context)], say)
    return replace(_inspected(tool, image), scans=scans)


def push_image(image: str, *, say: Callable[[str], None] = lambda _: None) -> str:
    """Push an image that was built here; its name by the digest that the registry knows.

    Raises:
        Unavailable: No tool is installed, or it failed.
    """
    tool = _installed()
    name = image.rsplit(":", 1)[0]
    with Scratch("bascule-push.") as folder:
        file = folder / "digest"
        wants = [] if tool == "docker" else ["--digestfile", str(file)]
        _run([tool, "push", *wants, image], say)
        if tool != "docker":
            return f"{name}@{file.read_text().strip()}"
    words = [tool, "image", "inspect", "--format", "{{json .RepoDigests}}", image]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return next(str(one) for one in json.loads(known) if one.startswith(f"{name}@"))


def _refuse_findings(scans: Iterable[Scan]) -> None:
    found = [line for one in scans for line in one.findings]
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise Refused(
            f"the image is not built: {'; '.join(found[:5])}{more}",
            hint="mend what trivy found; TRIVY_IGNOREFILE names a file of exceptions",
        )


def _installed() -> str:
    found = next((tool for tool in TOOLS if shutil.which(tool)), None)
    if found is None:
        raise Unavailable(
            "no tool that builds images is installed",
            hint=f"install one of {', '.join(TOOLS)}, or give --out DIR and build it elsewhere",
        )
    return found


def _copy_wheels(wheels: Path, to: Path, packages: Iterable[Package]) -> set[str]:
    """Copy the wheels of the packages; the packages that have none, as `name==version`."""
    missing = {f"{one.name}=={one.version}" for one in packages}
    to.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        try:
            name, version, *_ = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        if f"{name}=={version}" in missing:
            missing.remove(f"{name}=={version}")
            shutil.copy(wheel, to)
    if not any(to.iterdir()):
        raise Invalid(
            f"--wheels {wheels} has no wheel of the packages in requirements.txt",
            hint="pip wheel --no-deps --wheel-dir DIR -r requirements.txt",
        )
    return missing


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
