"""Parity: how far a program is from the original on the same rows, and how far answers differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import take
from bascule.core import Columns, Program

USUAL = 1e-5
"""The tolerance that models are packed with unless another is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a program is from the original.

    Attributes:
        program: Which one was compared.
        precision: How it computes.
        rows: How many rows were compared, with the probes.
        probes: How many of them were made up.
        max_difference: The largest one. Of probabilities: absolute. Of a regressor's numbers:
            divided by the original's number, or by the median one where that is larger. Of
            other tensors: by the number, or by the root mean square of the tensor. Infinite where
            one of the two has no number.
        label_differences: Rows with another label.
        ties: Those of them where what decides the original's label is closer than the tolerance,
            so that any rounding decides; see `compare`. 0 where they are more than one row in a
            thousand, which rounding does not explain.
        tolerance: The largest difference allowed.
        passed: Whether it is within the tolerance, and no label differs but in ties.
        reason: One sentence.
        probed: How many rows of each kind were made up; see `statements.adversarial`.
    """

    program: str
    precision: str = ""
    rows: int
    probes: int = 0
    max_difference: float = 0.0
    label_differences: int = 0
    ties: int = 0
    tolerance: float
    passed: bool
    reason: str
    probed: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        known = self.max_difference if math.isfinite(self.max_difference) else None
        return values | {"max_difference": known, "probed": dict(self.probed)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Parity:
        known = {"probed": {}, **value}
        if known["max_difference"] is None:
            known["max_difference"] = math.inf
        return cls(**{name: known[name] for name in cls.__slots__})


def apart(expected: Columns, found: Columns, *, tolerance: float, probes: int) -> NDArray[np.bool_]:
    """The rows that are answered otherwise, ties included."""
    distance, labels, _ = row_differences(expected, found, tolerance, probes, None)
    return np.asarray((distance > tolerance) | labels)


def are_equal(expected: Columns, found: Columns) -> bool:
    """Whether answers of two versions are the same but for what programs of one may differ by."""
    return (
        all(
            name in found
            and found[name].shape == values.shape
            and found[name].dtype == values.dtype
            for name, values in expected.items()
        )
        and not apart(expected, found, tolerance=USUAL, probes=0).any()
    )


def row_differences(
    expected: Columns,
    found: Columns,
    tolerance: float,
    probes: int,
    decision: Callable[[], NDArray[Any] | None] | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """For each row the difference of its numbers, if a label differs, and if all such are ties."""
    labels = np.zeros(len(next(iter(expected.values()))), bool)
    distance, close = np.zeros(len(labels)), ~labels
    real = slice(max(0, len(labels) - probes) or None)
    for name, values in expected.items():
        if name.partition(".")[0] == "label" or values.dtype.kind not in "f":
            different = np.asarray(values != found[name], bool)
            differ = different.reshape(len(values), -1).any(axis=1)
            labels |= differ
            if differ.any():
                close &= ~differ | _close_calls(expected, name, tolerance, real, decision)
        else:
            is_share = name.partition(".")[0] == "probabilities"
            scale = 1.0 if is_share else _scale(values, values[real])
            distance = np.maximum(distance, _largest(values, found[name], scale))
    return distance, labels, close


def in_batches(program: Program, columns: Columns, size: int) -> Columns:
    """A program's outputs for columns in the dtypes that it reads, `size` rows at a time."""
    count = len(next(iter(columns.values())))
    pieces = [program.run(take(columns, slice(at, at + size))) for at in range(0, count, size)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _scale(values: NDArray[Any], real: NDArray[Any]) -> NDArray[Any]:
    """The size of each number, or the median one of all real ones where that is larger.

    Of tensors the root mean square and not the median: half of what a network answers may be zeros.
    """
    finite = np.abs(real[np.isfinite(real)])
    middle = 1.0
    if len(finite) and values.ndim > 1:
        middle = math.sqrt(float(np.square(finite.astype(np.float64)).mean()))
    elif len(finite):
        middle = float(np.median(finite))
    return np.asarray(np.maximum(np.abs(values), max(middle, float(np.finfo(np.float64).tiny))))


def _largest(expected: NDArray[Any], found: NDArray[Any], scale: Any) -> NDArray[np.float64]:
    """The largest difference in each row."""
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(expected - found.astype(np.float64)) / scale
    difference = np.where(same, 0.0, np.where(np.isfinite(difference), difference, np.inf))
    return np.asarray(difference.reshape(len(expected), -1).max(axis=1, initial=0.0))


def _close_calls(
    expected: Columns,
    name: str,
    tolerance: float,
    real: slice,
    decision: Callable[[], NDArray[Any] | None] | None,
) -> NDArray[np.bool_]:
    """Where any rounding may change the label that is called so; see `compare`."""
    labels = expected[name]
    shares = expected.get(name.replace("label", "probabilities", 1))
    if shares is not None and (margins := _margins(labels, shares)) is not None:
        return np.asarray(margins <= 2 * tolerance)
    score = expected.get("score") if name == "label" else None
    if score is None and name == "label" and decision is not None:
        score = decision()
    if score is not None and (margins := _margins(labels, score)) is not None:
        return np.asarray(margins <= tolerance * _scale(np.zeros(1), score[real]))
    return np.zeros(len(labels), bool)


def _margins(labels: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64] | None:
    """By how much each row's label won by the scores; None where those do not decide it.

    They do where the place of the first largest score, or the sign of the only one, tells the
    label in every row. A score of 0 may stand for either.

    Args:
        labels: Shape (rows,).
        scores: Shape (rows,) or (rows, classes).
    """
    if labels.ndim != 1 or scores.dtype.kind != "f" or scores.ndim > 2:
        return None
    if scores.ndim == 1:
        scores = scores[:, None]
    finite = np.isfinite(scores).all(axis=1)
    if scores.shape[1] == 1:
        margins, places = np.abs(scores[:, 0]), (scores[:, 0] > 0).astype(np.int64)
        is_decided = finite & (margins > 0)
    else:
        best = np.sort(scores, axis=1)
        margins, places, is_decided = best[:, -1] - best[:, -2], scores.argmax(axis=1), finite
    pairs = set(zip(places[is_decided].tolist(), labels[is_decided].tolist(), strict=True))
    if not len(pairs) == len({place for place, _ in pairs}) == len({label for _, label in pairs}):
        return None
    return np.where(finite, margins, np.inf)
