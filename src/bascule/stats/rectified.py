"""Prediction-powered inference: a judge's scores, corrected by a labelled sample. Pure.

A judge that predicts a loss is wrong, and wrong in favour of an arm. With a random sample of the
answers labelled, each with the known probability p, the *rectified* loss of an answer

    z = g + [labelled] (y - g) / p

has the mean of the true loss y for any g that was fixed before, however wrong the judge is
(Angelopoulos et al. 2023, "Prediction-powered inference"; Zrnic and Candes 2024, "Active
statistical inference", for the probabilities). It is bounded: tests of bounded losses apply to it,
those by betting at any time. Its variance is smallest for g = E[y | score]; here g is linear in the
score, fitted on earlier labels, which is the power tuning of PPI++ (Angelopoulos, Duchi and Zrnic
2023): a judge that knows nothing gets the slope 0 and costs nothing beside labels alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST_LABELS = 30
_RIDGE = 1.25
"""Of the squares of the scores: that of five answers half of which the judge approves of."""


class JudgeCalibration(NamedTuple):
    """The loss that is expected of an answer: `at_0 + slope * score`, from 0 to 1.

    Attributes:
        unusable: The loss where the judge gave no score.
        at_0: The loss at the score 0.
        slope: Of the loss by the score.
    """

    unusable: float = 0.5
    at_0: float = 1.0
    slope: float = -1.0


def calibrate_judge(scores: ArrayLike, losses: ArrayLike) -> JudgeCalibration:
    """The calibration that labelled answers show; with few of them the judge is taken at its word.

    Args:
        scores: From 0 to 1, 1 for the best answer; NaN where the judge gave none. Shape (answers,).
        losses: By the labels, from 0 to 1. The same shape.
    """
    x, y = (np.asarray(values, np.float64) for values in (scores, losses))
    if len(y) < LEAST_LABELS:
        return JudgeCalibration()
    mean, without = float(y.mean()), y[np.isnan(x)]
    unusable = (float(without.sum()) + 2 * mean) / (len(without) + 2)
    x, y = x[~np.isnan(x)], y[~np.isnan(x)]
    if not len(x):
        return JudgeCalibration(unusable, mean, 0.0)
    away = x - x.mean()
    slope = float(away @ y) / (float(away @ away) + _RIDGE)
    return JudgeCalibration(unusable, float(y.mean()) - slope * float(x.mean()), slope)
