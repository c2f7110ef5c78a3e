"""A lower bound on the epsilon of a training, from guesses at which rows it saw.

Each of `rows` rows was put into the training, or left out, by a coin of its own. An attacker sees
the trained model, guesses for some of them, and abstains from the others. A training with (epsilon,
delta)-differential privacy bounds how often such guesses are right (Steinke, Nasr and Jagielski,
"Privacy auditing with one (1) training run", NeurIPS 2023, theorem 5.2); guesses that are right
more often refute every smaller epsilon. The bound is on one training, and shows no more than the
attack could see: a bound of 0 proves nothing. numpy alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bascule.stats.watermarks import binomial_tails

_SHARES_GUESSED = (0.02, 0.1, 0.3, 1.0)
"""Which shares of the rows, the surest first, are guessed; the best bound counts, at a level that
is divided by their number (Bonferroni)."""
_LARGEST_EPSILON = 50.0


def guesses_p_value(rows: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How probable so many right guesses are at most, if the training is (epsilon, delta)-private.

    Args:
        rows: How many coins were thrown.
        guesses: How many of the rows were guessed.
        right: How many of the guesses are right.
        epsilon: What is claimed, at least 0.
        delta: What is claimed.
    """
    tails = binomial_tails(guesses, 1 / (1 + math.exp(-epsilon)))
    beta = tails[right]
    by_fewer = (tails[:right][::-1] - beta) / np.arange(1, right + 1)
    return min(1.0, float(beta + 2 * rows * delta * by_fewer.max(initial=0.0)))


def epsilon_bound(
    members: NDArray[np.bool_],
    scores: NDArray[np.float64],
    *,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """The epsilon that the training has at least, with this confidence.

    The rows with the greatest scores are guessed to be members, as many with the least to be none.

    Args:
        members: Whether each row was in the training; shape (rows,).
        scores: Greater for what looks as if it was, such as minus the loss; shape (rows,).
        delta: What is claimed.
        confidence: Over 0 and under 1.
    """
    # A stable sort keeps the order of ties, which says nothing of members where rows were mixed.
    by_score = members[np.argsort(scores, kind="stable")]
    level = (1 - confidence) / len(_SHARES_GUESSED)
    best = 0.0
    for share in _SHARES_GUESSED:
        half = int(len(members) * share / 2)
        if not half:
            continue
        right = int(by_score[-half:].sum() + (~by_score[:half]).sum())
        best = max(best, _refuted_below(len(members), 2 * half, right, delta, level))
    return best


def _refuted_below(rows: int, guesses: int, right: int, delta: float, level: float) -> float:
    """The greatest epsilon that so many right guesses refute, to within a thousandth."""
    low, high = 0.0, _LARGEST_EPSILON
    while high - low > 1e-3:
        middle = (low + high) / 2
        if guesses_p_value(rows, guesses, right, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low
