"""What a model answers (`bascule_client.answer`), and the same as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import Manifest
from bascule.core import Columns
from bascule_client.answer import Answer

__all__ = ["Answer", "flat"]


def flat(outputs: Mapping[str, NDArray[Any]], manifest: Manifest) -> Columns:
    """Outputs as the columns of a table: one per output, and of a matrix one per class or place.

    Args:
        outputs: Arrays with the rows along the first axis.
        manifest: Of the bundle whose outputs they are; it knows the labels.
    """
    labels = {f"probabilities.{target.name}": target.classes for target in manifest.targets}
    made: Columns = {}
    for name, values in outputs.items():
        if values.ndim == 1:
            made[name] = values
            continue
        rows = values.reshape(len(values), -1)
        width = rows.shape[1]
        classes = labels.get(name, manifest.classes)
        places = classes if classes is not None and len(classes) == width else range(width)
        for index, place in enumerate(places):
            made[f"{name}_{place}"] = np.ascontiguousarray(rows[:, index])
    return made
