"""Bandits: shares of traffic that follow the rewards, and what another policy would have earned.

Thompson sampling (Thompson 1933; Chapelle and Li 2011) plays each arm with the probability that it
is the best one. Here that probability is computed once per interval and becomes the arms' shares,
so every answer's propensity is known exactly and equals its arm's share in the plan. Rewards that
arrive late change later shares only (batched Thompson sampling: Kalkanli and Özgür 2021).

The off-policy estimates are inverse propensity scoring (Horvitz and Thompson 1952), its
self-normalised form (Swaminathan and Joachims 2015) and the doubly robust one (Dudík, Langford and
Li 2011). Pure, numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bascule.core import Invalid

Floats = NDArray[np.float64]

_POINTS = 4_000
_LEAST = 1e-300
_NORMAL = NormalDist()


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


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """An off-policy estimate of the mean reward, with a 95 % interval by the central limit."""

    value: float
    lower: float
    upper: float


def ips(rewards: ArrayLike, propensities: ArrayLike, target: ArrayLike) -> PolicyValue:
    """Inverse propensity scoring: unbiased, of a variance that grows with the weights.

    Args:
        rewards: Of the arm that was played. Shape (answers,).
        propensities: The probability with which that arm was played. Shape (answers,).
        target: The probability with which the policy in question plays it. Shape (answers,).

    Raises:
        Invalid: Shapes differ, or a propensity is not over 0.
    """
    won, weights = _weighted(rewards, propensities, target)
    return _clt(won * weights)


def snips(rewards: ArrayLike, propensities: ArrayLike, target: ArrayLike) -> PolicyValue:
    """Self-normalised `ips`: slightly biased, never outside of the rewards' range.

    Args:
        rewards: As in `ips`.
        propensities: As in `ips`.
        target: As in `ips`.
    """
    won, weights = _weighted(rewards, propensities, target)
    total = float(weights.sum())
    if not total:
        raise Invalid("the policy plays none of the arms that were played")
    value = float((won * weights).sum()) / total
    spread = _clt(weights * (won - value) / (total / len(won)))
    return PolicyValue(
        value, value + spread.lower - spread.value, value + spread.upper - spread.value
    )


def doubly_robust(
    rewards: ArrayLike, propensities: ArrayLike, target: ArrayLike, predicted: ArrayLike,
    expected: ArrayLike,
) -> PolicyValue:  # fmt: skip
    """Unbiased where either the propensities or the model of the rewards is right.

    Args:
        rewards: As in `ips`.
        propensities: As in `ips`.
        target: As in `ips`.
        predicted: What a model of the rewards says of the arm that was played. Shape (answers,).
        expected: What it says of the policy in question: the mean over its arms. Shape (answers,).
    """
    won, weights = _weighted(rewards, propensities, target)
    made = np.asarray(expected, np.float64) + weights * (won - np.asarray(predicted, np.float64))
    return _clt(made)


def _weighted(
    rewards: ArrayLike, propensities: ArrayLike, target: ArrayLike
) -> tuple[Floats, Floats]:
    won, played, wanted = (np.asarray(one, np.float64) for one in (rewards, propensities, target))
    if not won.shape == played.shape == wanted.shape or won.ndim != 1 or not len(won):
        raise Invalid("rewards, propensities and target must be of one length, and not empty")
    if (played <= 0).any():
        raise Invalid("a propensity must be over 0", hint="an arm needs a floor to be judged later")
    return won, wanted / played


def _clt(values: Floats) -> PolicyValue:
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    half = _NORMAL.inv_cdf(0.975) * error
    return PolicyValue(mean, mean - half, mean + half)
