"""The calibration in a bundle, read. A serving worker imports this: numpy alone."""

from __future__ import annotations

from pathlib import Path

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
