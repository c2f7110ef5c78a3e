"""Whether probabilities are what they say: reliability curve, calibration error, isotonic fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose probabilities are alike.

    Attributes:
        rows: How many.
        predicted: Their mean probability.
        observed: The share of them for which the event came true.
    """

    rows: int
    predicted: float
    observed: float


def reliability_curve(happened: NDArray[Any], chances: NDArray[Any], bins: int = BINS) -> list[Bin]:
    """Predicted against observed shares, in bins of equal numbers of rows, by rising probability.

    Args:
        happened: Whether the event came true. Shape (rows,).
        chances: Its probability, as predicted. The same shape.
        bins: At most so many; rows of one probability are never split over two.
    """
    order = np.argsort(chances, kind="stable")
    ordered, events = np.asarray(chances, np.float64)[order], np.asarray(happened, float)[order]
    wanted = np.linspace(0, len(ordered), bins + 1).astype(int)[1:-1]
    starts = np.unique(np.searchsorted(ordered, ordered[wanted])) if len(ordered) else wanted
    parts = np.split(np.arange(len(ordered)), starts[starts > 0])
    return [
        Bin(len(part), float(ordered[part].mean()), float(events[part].mean()))
        for part in parts
        if len(part)
    ]


def calibration_error(happened: NDArray[Any], chances: NDArray[Any], bins: int = BINS) -> float:
    """The expected calibration error: the mean distance of predicted from observed shares.

    Bins of equal numbers of rows, weighed by their rows (Naeini, Cooper and Hauskrecht 2015, with
    the bins of Nguyen and O'Connor 2015). It is biased upwards on few rows: a perfect model has
    about 0.3 / sqrt(rows in a bin) (Roelofs et al. 2022).
    """
    curve = reliability_curve(happened, chances, bins)
    rows = sum(one.rows for one in curve)
    return sum(one.rows * abs(one.predicted - one.observed) for one in curve) / max(1, rows)


def isotonic(scores: NDArray[Any], events: NDArray[Any]) -> Callable[[NDArray[Any]], Floats]:
    """The monotone function of the score with the least squared error, as a function.

    Pool adjacent violators (Ayer et al. 1955); linear between the fitted points and constant
    beyond them, as scikit-learn's IsotonicRegression(out_of_bounds="clip").

    Args:
        scores: Of each row. Shape (rows,), at least one.
        events: 0 or 1. The same shape.
    """
    points, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=np.asarray(events, np.float64)) / counts
    values: list[float] = []
    weights: list[int] = []
    sizes: list[int] = []
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        size = 1
        while values and values[-1] >= mean:
            total = weights[-1] + count
            mean = (values.pop() * weights[-1] + mean * count) / total
            count = total
            weights.pop()
            size += sizes.pop()
        values.append(mean)
        weights.append(count)
        sizes.append(size)
    fitted = np.repeat(values, sizes)
    return lambda asked: np.interp(np.asarray(asked, np.float64), points, fitted)
