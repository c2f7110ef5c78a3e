"""The baseline in a bundle: what the training data and the answers looked like. numpy alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bascule.bundle import disk
from bascule.bundle.disk import BASELINE, Manifest, Target, parse, reading
from bascule.core import Columns, DType, Field, Signature
from bascule.stats import (
    CHUNK_ROWS,
    MIN_VALUES,
    Profile,
    field_of_projection,
    projected_names,
    projections,
)

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

    @property
    def projected(self) -> frozenset[str]:
        """The fields that have projections among the columns."""
        profiles = [profile for profile in (self.inputs, self.answers) if profile is not None]
        names = {name for profile in profiles for name in profile.columns}
        return frozenset(field for name in names if (field := field_of_projection(name)) != name)

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


def non_finite_answers(path: str | Path, manifest: Manifest) -> str:
    """Which column of the answers to its held-out rows has NaN or infinite numbers, undeclared.

    Empty where none has, or none is known. Raises as `read_baseline`.
    """
    baseline = None if manifest.allows_non_finite else read_baseline(path, manifest)
    if baseline is None or baseline.answers is None:
        return ""
    columns = baseline.answers.columns.items()
    numbers = ((name, one) for name, one in columns if one.kind == "number")
    return next((name for name, one in numbers if one.missing or one.infinite), "")


def profile_columns(
    columns: Columns,
    fields: tuple[Field, ...],
    names: tuple[str, ...] = (),
    projected: Collection[str] = (),
) -> Columns:
    """One array of one axis per column: a matrix split by columns, arrays with more axes flattened.

    Dates are left out: each day's are new, and would be an alarm every day.

    Args:
        columns: By the name of their field.
        fields: Which they are.
        names: What the columns of a matrix are called, where that is known.
        projected: The fields that have projections too; see `projecting`.
    """
    made: Columns = {}
    for field in fields:
        if field.dates is None:
            values = columns[field.name]
            made |= split_columns(field.name, values, names)
            if field.name in projected:
                made |= projections(field.name, values)
    return made


def split_columns(field: str, values: NDArray[Any], names: tuple[str, ...] = ()) -> Columns:
    """One field as columns of a profile, by the names of the columns of a matrix if known.

    With the names of its projections among them, these too.
    """
    projected = projected_names(field, is_text=values.dtype == object)
    if names[-len(projected) :] == projected:
        return split_columns(field, values, names[: -len(projected)]) | projections(field, values)
    if values.ndim != 2 or values.shape[1] > MAX_COLUMNS:
        return {field: values}
    known = names
    if len(names) != values.shape[1]:
        known = tuple(f"{field}.{place}" for place in range(values.shape[1]))
    return {name: values[:, place] for place, name in enumerate(known)}


def column_names(
    signature: Signature, classes: Sequence[object] | None, targets: Sequence[Target]
) -> dict[str, tuple[str, ...]]:
    """By field: what `profile_columns` and `answer_columns` call its columns, where known."""
    made = {one.name: signature.columns for one in signature.inputs if signature.columns}
    return made | _answer_names(signature.outputs, classes, targets)


def names_of_projections(path: str | Path, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """By field: what the columns of its projections are called, of those that the baseline has.

    Raises as `read_baseline`.
    """
    signature = manifest.signature
    fields = (
        *signature.inputs,
        *(output for output in signature.outputs if output.dtype is not DType.BYTES),
    )
    baseline = read_baseline(path, manifest) if any(map(_may_be_projected, fields)) else None
    projected = frozenset[str]() if baseline is None else baseline.projected
    return {
        field.name: projected_names(field.name, is_text=field.dtype is DType.BYTES)
        for field in fields
        if field.name in projected
    }


def _may_be_projected(field: Field) -> bool:
    """Whether rows of a field may be `worth_projecting`, told without any."""
    if field.dtype is DType.BYTES:
        return field.categories is None and field.dates is None
    return -1 in field.shape or math.prod(field.shape) >= MIN_VALUES


def _answer_names(
    outputs: Sequence[Field], classes: Sequence[object] | None, targets: Sequence[Target]
) -> dict[str, tuple[str, ...]]:
    """Probabilities apart, each under its class."""
    labels = {"probabilities": classes or ()}
    labels |= {f"probabilities.{target.name}": target.classes or () for target in targets}
    return {
        output.name: tuple(f"{output.name}.{label}" for label in known)
        for output in outputs
        if (known := labels.get(output.name, ())) and output.shape == (len(known),)
    }


def answer_columns(
    answered: Columns,
    outputs: Sequence[Field],
    classes: Sequence[object] | None,
    targets: Sequence[Target],
    projected: Collection[str] = (),
) -> Columns:
    """The answers as the columns of a profile; probabilities apart, each under its class."""
    names = _answer_names(outputs, classes, targets)
    made: Columns = {}
    for output in outputs:
        own = names.get(output.name, ())
        made |= profile_columns(answered, (output,), own, projected)
    return made


def profile_of(columns: Columns) -> Profile:
    """The profile of whole columns; a piece of the rows is copied at a time."""
    rows = len(next(iter(columns.values()), ()))  # no column is left of dates alone
    made = Profile()
    for start in range(0, rows, CHUNK_ROWS):
        made.add({name: values[start : start + CHUNK_ROWS] for name, values in columns.items()})
    return made
