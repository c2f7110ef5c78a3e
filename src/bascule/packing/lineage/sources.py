"""Where a model came from, as other systems know it: an MLflow run, data that DVC tracks.

A source is one text, `KIND:WHAT`. Its adapter, one file and one line in the table, looks it up and
gives facts: JSON values, which are recorded in the bundle's provenance and shown on its card.
Nothing secret is among them: what a URI says of users and passwords is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bascule.core import Invalid, load_named

TABLE: dict[str, str] = {
    "bundle": "bascule.packing.lineage.bundles:trace",
    "dvc": "bascule.packing.lineage.dvc:trace",
    "mlflow": "bascule.packing.lineage.mlflow:trace",
}
"""Adapters by the word before the colon: a function from the rest of the text to facts."""


def trace(source: str) -> dict[str, Any]:
    """What is known of a source: `kind`, and the facts that its adapter found.

    Raises:
        Invalid: It is not written as a source, or of no kind that is known.
        NotFound: It is not there.
        Refused: Its record speaks of something else than what is there.
        Unavailable: The system that has the record does not answer.
    """
    kind, _, what = source.partition(":")
    place = TABLE.get(kind)
    if place is None or not what:
        raise Invalid(
            f"lineage {source!r} is not written as KIND:WHAT, with a KIND of {', '.join(TABLE)}",
            hint="write for example mlflow:RUN_ID or dvc:data/train.csv",
            field="lineage",
        )
    find: Callable[[str], Mapping[str, Any]] = load_named(place)
    return {"kind": kind, **find(what)}
