"""The baseline in a bundle: what the training data and the answers looked like. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bascule.bundle import disk
from bascule.bundle.disk import BASELINE, Manifest, Target, parse, reading
from bascule.core import Columns, Field
from bascule.stats import CHUNK_ROWS, Profile

MAX_COLUMNS = 2_000
"""A matrix with more columns is profiled as one, as an image is."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Profiles to compare production with.

    Attributes:
        inputs: Of the training rows; None where there were none.
        answers: Of the answers to the held-out rows; None where there were none.
    """

    inputs: Profile | None
    answers: Profile | None

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": None if self.inputs is None else self.inputs.to_json(),
            "answers": None if self.answers is None else self.answers.to_json(),
        }


def read_baseline(path: str | Path, manifest: Manifest) -> Baseline | None:
    """The baseline of the bundle at `path`; None where it holds none.

    Raises:
        Untrusted: The file is not the one that was sealed, or cannot be one.
    """
    if BASELINE not in manifest.files:
        return None
    data = disk.read_file(path, manifest, BASELINE)
    value = parse(data, f"{BASELINE} of bundle {path}", what="a baseline")
    with reading(f"{BASELINE} of bundle {path}", what="a baseline"):
        inputs, answers = value["inputs"], value["answers"]
        return Baseline(
            None if inputs is None else Profile.from_json(inputs),
            None if answers is None else Profile.from_json(answers),
        )


def profile_columns(
    columns: Columns, fields: tuple[Field, ...], names: tuple[str, ...] = ()
) -> Columns:
    """One array of one axis per column: a matrix split by columns, arrays with more axes flattened.

    Args:
        columns: By the name of their field.
        fields: Which they are.
        names: What the columns of a matrix are called, where that is known.
    """
    made: Columns = {}
    for field in fields:
        values = columns[field.name]
        if values.ndim == 1:
            made[field.name] = values
        elif values.ndim == 2 and values.shape[1] <= MAX_COLUMNS:
            known = names
            if len(names) != values.shape[1]:
                known = tuple(f"{field.name}.{place}" for place in range(values.shape[1]))
            for place, name in enumerate(known):
                made[name] = values[:, place]
        else:
            made[field.name] = values
    return made


def answer_columns(
    answered: Columns,
    outputs: Sequence[Field],
    classes: Sequence[object] | None,
    targets: Sequence[Target],
) -> Columns:
    """The answers as the columns of a profile; probabilities apart, each under its class."""
    labels = {"probabilities": classes or ()}
    labels |= {f"probabilities.{target.name}": target.classes or () for target in targets}
    made: Columns = {}
    for output in outputs:
        known = labels.get(output.name, ())
        of_classes = bool(known) and output.shape == (len(known),)
        names = tuple(f"{output.name}.{label}" for label in known) if of_classes else ()
        made.update(profile_columns(answered, (output,), names))
    return made


def profile_of(columns: Columns) -> Profile:
    """The profile of whole columns; a piece of the rows is copied at a time."""
    rows = len(next(iter(columns.values())))
    made = Profile()
    for start in range(0, rows, CHUNK_ROWS):
        made.add({name: values[start : start + CHUNK_ROWS] for name, values in columns.items()})
    return made
