"""What platforms say to the containers that they start: where the model is, which ports are free.

SageMaker, Vertex AI and Azure ML are known. What is decided here is decided from an environment and
from what is found in folders, both of which are handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bascule.core import Invalid, masked

VARIABLES: Mapping[str, str] = {
    "SAGEMAKER_BIND_TO_PORT": "SERVING__PORT",
    "SAGEMAKER_MULTI_MODEL": "SERVING__MULTI_MODEL",
    "AIP_HTTP_PORT": "SERVING__PORT",
    "AIP_HEALTH_ROUTE": "SERVING__VERTEX_HEALTH_ROUTE",
    "AIP_PREDICT_ROUTE": "SERVING__VERTEX_PREDICT_ROUTE",
}
"""What the platforms tell the containers that they run, by the variable of ours that it stands for.
Ours wins over theirs, and theirs over the file."""

SAFE_PORTS = "SAGEMAKER_SAFE_PORT_RANGE"
"""The variable in which SageMaker says which ports may be taken beside the one for predictions."""

_NO_PORT = -2

_PLACES = ("AZUREML_MODEL_DIR", "AIP_STORAGE_URI")
"""Where Azure ML and Vertex AI say that the model is."""

BundlesIn = Callable[[Path], tuple[Path, ...] | None]
"""The bundles that a folder is, or has directly in it; None where there is no such folder."""


def other_ports(
    port: int, grpc_port: int, control_port: int, *, default: int, safe_ports: str = ""
) -> tuple[int, int]:
    """Ports for gRPC and the control API that are neither taken nor forbidden.

    A port that was chosen stays. The default of the control API gives way, and so does a free one
    (0) where not every port may be taken. It is pure, so a command finds the control port of a
    server that was started with the same settings.

    Args:
        port: For predictions; it stays.
        grpc_port: As it was given; below 0 for none.
        control_port: As it was given.
        default: The control port unless one is set.
        safe_ports: The ports that may be taken, `LOW-HIGH`, as SageMaker says it; empty for all.

    Raises:
        Invalid: `safe_ports` is no range, has too few, or has not a port that was chosen.
    """
    allowed = _range_of(safe_ports) if safe_ports else range(default, 65_536)
    grpc, control = grpc_port, control_port
    free = (one for one in allowed if one not in (port, grpc, control))
    if safe_ports and grpc == 0:
        grpc = next(free, _NO_PORT)
    gives_way = control == default and (control not in allowed or control in (port, grpc))
    if gives_way or (safe_ports and control == 0):
        control = next(free, _NO_PORT)
    for name, found in (("grpc_port", grpc), ("control_port", control)):
        if found == _NO_PORT:
            raise Invalid(
                f"{SAFE_PORTS}={safe_ports} has no port left for serving.{name}",
                hint="it must have one for each of serving.control_port and serving.grpc_port",
            )
        if safe_ports and found >= 0 and found not in allowed:
            raise Invalid(
                f"serving.{name}: {found} is not in {SAFE_PORTS}={safe_ports}",
                hint="choose one of these, or leave the setting out",
            )
    return grpc, control


def _range_of(safe_ports: str) -> range:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", safe_ports)
    if found and 1 <= int(found[1]) <= int(found[2]) <= 65_535:
        return range(int(found[1]), int(found[2]) + 1)
    raise Invalid(
        f"{SAFE_PORTS}: {safe_ports[:64]!r} is not a range of ports",
        hint="write LOW-HIGH, from 1 to 65535: 8000-8999",
    )


def platform_folder(environ: Mapping[str, str]) -> Path:
    """The folder that SageMaker fills; its own toolkits read it from the same variable."""
    return Path(environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml")


def model_of_platform(
    environ: Mapping[str, str], bundles_in: BundlesIn, *, default: str = ""
) -> str:
    """The bundle that a platform means for the container that it starts without arguments.

    It is a folder, or the address of a place that bundles are fetched from.

    Args:
        environ: The environment.
        bundles_in: Says what is there; nothing else is looked at.
        default: What is meant where the platform has put no bundle anywhere, such as the bundle
            of the image; empty for nothing.

    Raises:
        Invalid: There is none, or not one. The message names the variable and the place.
    """
    for variable in _PLACES:
        place = environ.get(variable)
        if place and not (default and _is_bare(place, bundles_in)):
            return _told(place, variable, bundles_in)
    folder = platform_folder(environ) / "model"
    if default and not bundles_in(folder):
        return default
    by_sagemaker = next((name for name in environ if name.startswith("SAGEMAKER_")), "")
    if by_sagemaker or bundles_in(folder) is not None:
        return str(bundle_in(folder, bundles_in, by_sagemaker or "no MODEL was named"))
    by_vertex = next((name for name in environ if name.startswith("AIP_")), "")
    if by_vertex:
        raise Invalid(
            f"no MODEL was named, {by_vertex} is set, and AIP_STORAGE_URI says no place",
            hint="put the bundle into the image, and name it: bascule serve /models/late",
        )
    raise Invalid(
        "missing argument MODEL...: no model was named, and no platform has put one here",
        hint="name one: bascule serve late, or bascule serve ./late.bundle",
    )


def bundle_in(folder: Path, bundles_in: BundlesIn, told_by: str) -> Path:
    """The one bundle that a folder is, or has directly in it.

    Args:
        folder: The place.
        bundles_in: Says what is there.
        told_by: What led to the place, for the message.

    Raises:
        Invalid: There is none, or there are several.
    """
    found = bundles_in(folder)
    if found is None:
        raise Invalid(
            f"{told_by}: there is no folder {folder}",
            hint="put the bundle there, or name another place",
        )
    if not found:
        raise Invalid(
            f"{told_by}: there is no bundle in {folder}",
            hint="put there what bascule pack made: a folder with bundle.json",
        )
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise Invalid(
            f"{told_by}: there are several bundles in {folder}: {names}",
            hint=f"leave one there, or name those that are meant: bascule serve {found[0]}",
        )
    return found[0]


def look_for_bundles(folder: Path) -> tuple[Path, ...] | None:
    """See `BundlesIn`."""
    if not folder.is_dir():
        return None
    if (folder / "bundle.json").is_file():
        return (folder,)
    return tuple(sorted(one.parent for one in folder.glob("*/bundle.json")))


def _is_bare(place: str, bundles_in: BundlesIn) -> bool:
    """Whether a place is a folder of this machine without a bundle: platforms make it anyway."""
    scheme, colon, rest = place.partition("://")
    return (not colon or scheme == "file") and not bundles_in(Path(rest if colon else place))


def _told(place: str, variable: str, bundles_in: BundlesIn) -> str:
    from bascule.remotes import is_address

    scheme, colon, rest = place.partition("://")
    if is_address(place):
        return place
    if not colon:
        return str(bundle_in(Path(place), bundles_in, variable))
    if scheme == "file" and rest.startswith("/"):
        return str(bundle_in(Path(rest), bundles_in, variable))
    raise Invalid(
        f"{variable}: a bundle is not read from {masked(place)!r}",
        hint="give gs://BUCKET/FOLDER or s3://BUCKET/FOLDER, or put the bundle into the image and "
        "name it: bascule serve /models/late",
    )
