"""What a device allows, and what a bundle takes on it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from bascule.core import Invalid, Scratch, Unavailable, first_line
from bascule.edge import Timing, pack

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_MEASURE_S = 300.0
MEASURED = {"latency_p50[1]": "p50_ms", "latency_p99[1]": "p99_ms", "peak_memory": "memory_mb"}
"""What has to be measured for a criterion, and the attribute of `Timing`."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device to make a model smaller for.

    Attributes:
        name: For people.
        budgets: Criteria, as they are written: `size <= 1 MB`.
        latency_factor: Its latency over that of this machine. A latency times anything but 1 is an
            estimate.
        measure: The command that measures on it: it reads an archive of `edge.pack`, and prints a
            `Timing`. `latency_factor` follows from the parent then.
    """

    name: str = "this machine"
    budgets: tuple[str, ...] = ()
    latency_factor: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    measure: tuple[str, ...] = ()


def read_device(device: str) -> Device:
    """A device by its TOML file, or by the name of one in the folder `devices`."""
    path = Path(device) if device.endswith(".toml") else Path("devices", f"{device}.toml")
    try:
        content = msgspec.toml.decode(path.read_bytes())
        return msgspec.convert({"name": path.stem, **content}, Device)
    except (OSError, msgspec.MsgspecError) as problem:
        raise Invalid(
            f"the device {device!r} cannot be read: {first_line(problem)}",
            hint="give a TOML file or the name of one in devices/: "
            'budgets = ["size <= 20 MB"], latency_factor = 4.0',
        ) from None


def measure_on(device: Device, bundle: Bundle) -> Timing:
    """What the device's command says of a bundle.

    Raises:
        Unavailable: It cannot be started, takes over five minutes, fails, or says something else.
    """
    with Scratch("bascule-optimise-") as folder:
        archive = pack(bundle.path, folder / "bundle.tar").path
        try:
            with archive.open("rb") as file:
                ended = subprocess.run(
                    device.measure, stdin=file, capture_output=True, timeout=_MEASURE_S, check=False
                )
            if ended.returncode == 0:
                return msgspec.json.decode(ended.stdout, type=Timing)
            problem = first_line(ended.stderr.decode(errors="replace"))
            problem = f"it ended with {ended.returncode}: {problem}"
        except (OSError, subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
            problem = first_line(error)
        raise Unavailable(
            f"{device.name} cannot measure: {problem}",
            hint=f"run its command by hand: {shlex.join(device.measure)}; or leave out `measure`, "
            "and the latency is an estimate",
        )
