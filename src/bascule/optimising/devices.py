"""What a device allows: a TOML file of budgets, and how much slower it is than this machine."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bascule.core import Invalid

FOLDER = "devices"
"""Where a device that is named, and not given as a file, is looked for."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device to make a model smaller for.

    Attributes:
        name: For people.
        budgets: Criteria, as they are written: `size <= 1 MB`.
        latency_factor: Its latency over that of this machine. A latency that was multiplied by
            anything but 1 is an estimate.
    """

    name: str = "this machine"
    budgets: tuple[str, ...] = ()
    latency_factor: float = 1.0

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Device:
        """Raises `Invalid` where a value is unknown, or of no use."""
        unknown = sorted(content.keys() - {"name", "budgets", "latency_factor"})
        budgets, factor = content.get("budgets", []), content.get("latency_factor", 1.0)
        is_factor = isinstance(factor, int | float) and 0 < factor < math.inf
        if unknown or not is_factor or not all(isinstance(text, str) for text in budgets):
            raise Invalid(
                f"{unknown[0]!r} is no property of a device" if unknown else
                "latency_factor is not a number over 0" if not is_factor else
                "budgets is not a list of criteria",
                hint='write budgets = ["size <= 20 MB"] and latency_factor = 4.0',
            )  # fmt: skip
        return cls(str(content.get("name", "this machine")), tuple(budgets), float(factor))


def read_device(device: str) -> Device:
    """A device by its file, or by the name of a file in the folder `devices`.

    Raises:
        Invalid: There is no such file, or it does not describe a device.
    """
    path = Path(device) if device.endswith(".toml") else Path(FOLDER, f"{device}.toml")
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise Invalid(
            f"the device {device!r} cannot be read: {problem}",
            hint=f"give a TOML file, or the name of one in {FOLDER}/",
        ) from None
    return Device.from_json({"name": path.stem, **content})
