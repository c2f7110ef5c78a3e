"""Whether a model bears a watermark: exact p-values that need no assumption about the model.

What a watermark asks for is drawn in secret, so for a model that was made without it, it is chance,
however that model answers: its answers are held fixed, and the law of the test statistic is that of
the draw alone. numpy alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_GRID = 1_000
"""Distances are counted in thousandths, so that the law of their sum is a convolution."""


def shares_p_value(answers: NDArray[np.float64], votes: NDArray[np.int64], voters: int) -> float:
    """How probable it is that votes drawn by chance are as near to the answers as these are.

    The statistic is the sum of `|answer - votes / voters|`.

    Args:
        answers: One share for each query, from 0 to 1; shape (queries,).
        votes: What was drawn for each, uniform on 0, 1, ... `voters`; shape (queries,).
        voters: How many trees vote.
    """
    levels = np.arange(voters + 1) / voters
    distances = np.rint(np.abs(answers[:, None] - levels) * _GRID).astype(np.int64)
    law = np.ones(1)
    for distances_of_query in distances:
        law = np.convolve(law, np.bincount(distances_of_query) / (voters + 1))
    observed = int(distances[np.arange(len(votes)), votes].sum())
    return min(float(law[: observed + 1].sum()), 1.0)


def binomial_tails(trials: int, share: float) -> NDArray[np.float64]:
    """The probabilities of 0, 1, ... `trials` successes or more; shape (trials + 1,)."""
    successes = np.arange(trials + 1)
    log_factorials = np.concatenate([[0.0], np.log(np.arange(1, trials + 1)).cumsum()])
    logs = (
        log_factorials[-1] - log_factorials - log_factorials[::-1]
        + successes * math.log(share) + (trials - successes) * math.log1p(-share)
    )  # fmt: skip
    tails: NDArray[np.float64] = np.minimum(np.exp(logs)[::-1].cumsum()[::-1], 1.0)
    return tails
