"""What a model answers (`bascule_client.answer`), and the same as the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from bascule.bundle.disk import EXPLAINING, Manifest
from bascule.bundle.explaining import column_places
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
    columns: Sequence[str] = ()
    if EXPLAINING in manifest.files:
        columns = [place.name for place in column_places(manifest.signature)]
    if manifest.classes is None:
        return {**named, "attributions": columns} if columns else named
    if len(manifest.classes) > 2:  # each has attributions of its own
        columns = [f"{column}_{label}" for column in columns for label in manifest.classes]
    return {**named, "attributions": columns or manifest.classes, "": manifest.classes}


def flat(outputs: Mapping[str, NDArray[Any]], manifest: Manifest) -> Columns:
    """Outputs as the columns of a table: one per output, and of a matrix one per class or place.

    Args:
        outputs: Arrays with the rows along the first axis.
        manifest: Of the bundle whose outputs they are; it knows the labels.
    """
    return flattened(outputs, places_of(manifest))
