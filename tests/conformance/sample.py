"""What the conformance suite needs to know of a model: one value, whatever the framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """A fitted model with the rows that it is asked about.

    Attributes:
        model: As a user hands it to `pack`.
        train: As a user hands it to `pack`.
        rows: At least 64 rows that the model was not asked about while it was packed.
        ask: The framework's own answers for such rows, by output; no code of Bascule is in it.
        options: What else to hand to `pack`.
        within: How far the program may be from the framework: relative for numbers, absolute for
            probabilities.
        saved_within: The same for the original, saved and loaded again; its last step is a cast to
            the type that the signature names.
        company_within: How far a row's answer in a batch may be from that of the row alone.
        serves: What is to answer: a compiled program, or the original.
        thresholds: Column and value of what the model compares with, for trees on a matrix.
        rounds: Whether the model rounds its input to floats, so that the neighbours of a
            threshold are floats.
        allows_huge: Whether the framework answers for numbers as large as 1e30.
        is_pickled: Whether the original is a pickle, which only a process of its own opens.
        is_rebuilt: Whether the bundle has all that it is packed from, but for the rows.
    """

    model: Any
    train: Any
    rows: Any
    ask: Callable[[Any], dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    within: float = 1e-5
    saved_within: float = 1e-7
    company_within: float = 1e-6
    serves: str = "onnx"
    thresholds: tuple[tuple[int, float], ...] = ()
    rounds: bool = True
    allows_huge: bool = True
    is_pickled: bool = False
    is_rebuilt: bool = True


def at_thresholds(sample: Sample) -> NDArray[np.float64]:
    """Rows of a matrix exactly at, just below and just above each threshold of the model."""
    rows = np.asarray(sample.rows, np.float64)
    number = np.float32 if sample.rounds else np.float64
    made = []
    for place, (column, value) in enumerate(sample.thresholds):
        near = number(value)
        with np.errstate(over="ignore"):
            moves = (
                near,
                np.nextafter(near, number(-np.inf)),
                np.nextafter(near, number(np.inf)),
                value,
                np.nextafter(value, -np.inf),
                np.nextafter(value, np.inf),
            )
        for moved in moves:
            if not np.isfinite(moved):
                continue
            row = rows[place % len(rows)].copy()
            row[column] = moved
            made.append(row)
    return np.asarray(made)


def of_classifier(model: Any, rows: Any) -> dict[str, Any]:
    """How most frameworks are asked for a classifier's answers."""
    return {
        "label": np.asarray(model.predict(rows)).ravel(),
        "probabilities": model.predict_proba(rows),
    }


def of_regressor(model: Any, rows: Any) -> dict[str, Any]:
    return {"prediction": model.predict(rows)}
