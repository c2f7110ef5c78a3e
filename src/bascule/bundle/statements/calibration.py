"""The calibration in a bundle, and of which rows. A serving worker imports this: numpy alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import disk
from bascule.bundle.disk import CALIBRATION, Manifest, parse, reading
from bascule.core import Untrusted
from bascule.stats import Calibration, methods_for


def read_calibration(path: str | Path, manifest: Manifest) -> Calibration | None:
    """The calibration of the bundle at `path`; None where it holds none.

    Raises:
        Untrusted: The file is not the one that was sealed, or cannot be one.
    """
    if CALIBRATION not in manifest.files:
        return None
    data = disk.read_file(path, manifest, CALIBRATION)
    value = parse(data, f"{CALIBRATION} of bundle {path}", what="a calibration")
    with reading(CALIBRATION, what="a calibration"):
        calibration = Calibration.from_json(value)
    fitting = methods_for(manifest.task, manifest.signature.outputs, manifest.classes)
    if not set(calibration.methods) <= set(fitting):
        raise Untrusted(
            f"{CALIBRATION} of bundle {path} holds {', '.join(calibration.methods)}, which the "
            "model's outputs do not allow",
            file=CALIBRATION,
        )
    return calibration


CALIBRATION_KIND = "calibration"
"""Of the statement that tells which rows calibrated."""


@dataclass(frozen=True, slots=True)
class Hashes:
    """Of the rows that calibrated, the smallest.

    Attributes:
        hashes: In order, different.
        is_whole: Whether they are all.
    """

    hashes: NDArray[np.uint64]
    is_whole: bool


def hashes_of(body: Mapping[str, Any]) -> Hashes | None:
    """Those in a statement; None where it has none. Raises `Untrusted` where they are damaged."""
    if "row_hashes" not in body or "distinct_rows" not in body:
        return None
    with reading("the calibration statement", what="one with hashes of rows"):
        kept = np.frombuffer(base64.b64decode(body["row_hashes"], validate=True), "<u8")
    return Hashes(kept, len(kept) >= body["distinct_rows"])
