"""Bandits: shares of traffic that follow the rewards.

Thompson sampling (Thompson 1933; Chapelle and Li 2011) plays each arm with the probability that it
is the best one. Here that probability is computed once per interval and becomes the arms' shares,
so every answer's propensity is known exactly and equals its arm's share in the plan. Rewards that
arrive late change later shares only (batched Thompson sampling: Kalkanli and Özgür 2021).
Pure, numpy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bascule.core import Invalid

Floats = NDArray[np.float64]

_POINTS = 4_000
_LEAST = 1e-300


def best_arm_probabilities(rewards: ArrayLike, trials: ArrayLike) -> Floats:
    """The posterior probability of each arm that its rate of rewards is the highest.

    Each rate has the prior Beta(1, 1). Computed on a grid of the quantiles of all posteriors, not
    drawn, so the same counts give the same shares; the error is below 0.001.

    Args:
        rewards: Sum of the rewards of each arm, each reward from 0 to 1.
        trials: Answers of each arm whose reward is known.

    Raises:
        Invalid: There are more rewards than trials.
    """
    won, tried = np.asarray(rewards, np.float64), np.asarray(trials, np.float64)
    if won.shape != tried.shape or (won < 0).any() or (won > tried).any():
        raise Invalid("rewards of an arm must be from 0 to its trials")
    a, b = 1 + won, 1 + tried - won
    means, deviations = a / (a + b), np.sqrt(a * b / (a + b) ** 2 / (a + b + 1))
    low = max(float((means - 8 * deviations).min()), 0.0)
    high = min(float((means + 8 * deviations).max()), 1.0)
    grid = low + (high - low) * (np.arange(_POINTS) + 0.5) / _POINTS
    logs = (a[:, None] - 1) * np.log(grid) + (b[:, None] - 1) * np.log1p(-grid)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    density /= density.sum(axis=1, keepdims=True)
    below = np.cumsum(density, axis=1) - density / 2
    logs = np.log(np.maximum(below, _LEAST))
    best = (density * np.exp(logs.sum(axis=0) - logs)).sum(axis=1)
    made: Floats = best / best.sum()
    return made


def thompson_shares(rewards: ArrayLike, trials: ArrayLike, *, floor: float = 0.05) -> Floats:
    """The shares of traffic of the next interval.

    Args:
        rewards: As in `best_arm_probabilities`.
        trials: As there.
        floor: The least share of an arm. It bounds the weights of off-policy estimates by 1/floor.

    Raises:
        Invalid: The floors of all arms exceed 1.
    """
    best = best_arm_probabilities(rewards, trials)
    if not 0 <= floor * len(best) <= 1:
        raise Invalid(f"a floor of {floor:g} for each of {len(best)} arms exceeds 1")
    made: Floats = floor + (1 - floor * len(best)) * best
    return made
