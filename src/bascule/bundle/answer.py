"""What a model answers (`bascule_client.answer`), and the same as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from bascule.bundle.disk import Manifest
from bascule.core import Columns
from bascule_client.answer import Answer, Places, flattened

__all__ = ["Answer", "Places", "flat", "places_of"]


def places_of(manifest: Manifest) -> Places:
    """What the values in a row of each output are called: the classes of a classifier."""
    named = {
        f"probabilities.{target.name}": target.classes
        for target in manifest.targets
        if target.classes is not None
    }
    return named if manifest.classes is None else {**named, "": manifest.classes}


def flat(outputs: Mapping[str, NDArray[Any]], manifest: Manifest) -> Columns:
    """Outputs as the columns of a table: one per output, and of a matrix one per class or place.

    Args:
        outputs: Arrays with the rows along the first axis.
        manifest: Of the bundle whose outputs they are; it knows the labels.
    """
    return flattened(outputs, places_of(manifest))
