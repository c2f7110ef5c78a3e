"""What a device allows: budgets, and how much slower it is than this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from bascule.core import Invalid, first_line


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device to make a model smaller for.

    Attributes:
        name: For people.
        budgets: Criteria, as they are written: `size <= 1 MB`.
        latency_factor: Its latency over that of this machine. A latency times anything but 1 is an
            estimate.
    """

    name: str = "this machine"
    budgets: tuple[str, ...] = ()
    latency_factor: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0

    @classmethod
    def from_json(cls, content: Any) -> Device:
        """Raises `Invalid` where a value is unknown, or of no use."""
        try:
            return msgspec.convert(content, cls)
        except msgspec.ValidationError as problem:
            raise Invalid(
                f"this is no device: {first_line(problem)}",
                hint='write budgets = ["size <= 20 MB"] and latency_factor = 4.0',
            ) from None


def read_device(device: str) -> Device:
    """A device by its TOML file, or by the name of one in the folder `devices`."""
    path = Path(device) if device.endswith(".toml") else Path("devices", f"{device}.toml")
    try:
        content = msgspec.toml.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as problem:
        raise Invalid(
            f"the device {device!r} cannot be read: {first_line(problem)}",
            hint="give a TOML file, or the name of one in devices/",
        ) from None
    return Device.from_json({"name": path.stem, **content})
