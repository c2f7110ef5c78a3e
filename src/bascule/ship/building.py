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
_SEE_LINES = "the lines above say why; --base and --wheels choose what it builds from"
_ON_NO_INDEX = (
    "no index has this release of Bascule: pip wheel --no-deps --wheel-dir wheels CLONE, then "
    "--wheels wheels"
)


@dataclass(frozen=True, slots=True)
class Built:
    """An image.

    Attributes:
        image: Its name.
        digest: The digest of its configuration: the same for the same content.
        size_bytes: What its layers take, not compressed; of an index those of the platform here.
        tool: What built it.
        platforms: Of an index of several images; empty for one image.
        scans: What the scans of its content said, before it was built.
    """

    image: str
    digest: str
    size_bytes: int
    tool: str
    scans: tuple[Scan, ...] = ()
    platforms: tuple[str, ...] = ()


def build(
    shipment: Shipment,
    files: Files,
    *,
    tag: str = "",
    wheels: Path | None = None,
    platforms: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Build the image of the current version with the first of `TOOLS` that is installed.

    For another platform than the machine's the tool runs the build under emulation (QEMU's user
    mode), which the machine must have.

    Args:
        shipment: What is built.
        files: What the target `container` rendered.
        tag: The name of the image; by default the one of the shipment.
        wheels: A folder of wheels that are preferred to the index. If it has every package, the
            build has no network.
        platforms: Of an index with an image for each, `linux/arm64`; empty for one image.
        say: Takes the lines of the tool.

    Raises:
        Invalid: docker is the tool, which keeps no index of images that it has not pushed.
        Refused: A scan found a secret, a fault or a known flaw.
        Unavailable: No tool is installed, or it failed; the error has its last lines.
    """
    tool = _installed()
    if platforms and tool == "docker":
        raise Invalid(
            "docker builds no index of several platforms without pushing it",
            hint="install podman or buildah, or build each platform and join them yourself",
        )
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
        command = [tool, *(["bud"] if tool == "buildah" else ["build"])]
        command += _names(tool, image, platforms)
        if tool != "docker":
            command += ["--timestamp", "0", "--layers=false"]  # no times: the same digest
        _run([*command, *offline, str(context)], say)
    return replace(_inspected(tool, image), scans=scans, platforms=tuple(platforms))


def _names(tool: str, image: str, platforms: Sequence[str]) -> list[str]:
    """The options of a build that name what it makes.

    An index that has the name would be added to, and an image is refused: each is taken away first.
    """
    if not platforms:
        return ["--tag", image]
    for words in (["manifest", "rm"], ["rmi"]):  # one of them fails: it is for the other kind
        subprocess.run([tool, *words, image], capture_output=True, check=False)
    return ["--platform", ",".join(platforms), "--manifest", image]


def push_image(built: Built, *, say: Callable[[str], None] = lambda _: None) -> str:
    """Push an image that was built here; its name by the digest that the registry knows.

    Raises:
        Unavailable: The tool failed.
    """
    tool, image = built.tool, built.image
    name = image.rsplit(":", 1)[0]
    with Scratch("bascule-push.") as folder:
        file = folder / "digest"
        wants = [] if tool == "docker" else ["--digestfile", str(file)]
        what = ["manifest", "push", "--all"] if built.platforms else ["push"]
        _run([tool, *what, *wants, image, *([f"docker://{image}"] if built.platforms else [])], say)
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
    needed = {f"{one.name}=={one.version}" for one in packages}
    missing = set(needed)
    to.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        try:
            name, version, *_ = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        if f"{name}=={version}" in needed:  # each platform may have one of its own
            missing.discard(f"{name}=={version}")
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
            hint=next((_ON_NO_INDEX for line in last if "found for bascule==" in line), _SEE_LINES),
        )


def _inspected(tool: str, image: str) -> Built:
    what = ["inspect", "--type", "image"] if tool == "buildah" else ["image", "inspect"]
    said = subprocess.run([tool, *what, image], capture_output=True, text=True, check=True).stdout
    found = json.loads(said)
    facts = found[0] if isinstance(found, list) else found
    digest = str(facts.get("Id") or facts["FromImageID"])
    return Built(image, f"sha256:{digest.removeprefix('sha256:')}", int(facts.get("Size", 0)), tool)
