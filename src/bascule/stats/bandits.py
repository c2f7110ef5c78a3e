"""Bandits: shares of traffic that follow the rewards, and what another policy would have earned.

Thompson sampling (Thompson 1933; Chapelle and Li 2011) plays each arm with the probability that it
is the best one. Here that probability is computed once per interval and becomes the arms' shares,
so every answer's propensity is known exactly and equals its arm's share in the plan. Rewards that
arrive late change later shares only (batched Thompson sampling: Kalkanli and Özgür 2021).
Pure, numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def linear_posterior(products: Floats) -> tuple[Floats, Floats]:
    """The mean and the covariance of the weights of a linear model of the rewards of an arm.

    Ridge regression (Agrawal and Goyal 2013), with the variance of the rewards around it in place
    of a bound; 1/4, the most of rewards from 0 to 1, counts as ten answers.

    Args:
        products: The sums of the products of any two of the numbers of a context, of which the
            first is 1 and its weight hardly shrunk, and the reward, which is the last one. Shape
            (numbers + 1, numbers + 1).
    """
    gram, with_reward, squares = products[:-1, :-1], products[:-1, -1], float(products[-1, -1])
    penalty = np.eye(len(gram))
    penalty[0, 0] = 0.01
    inverse = np.asarray(np.linalg.inv(gram + penalty), np.float64)
    mean: Floats = inverse @ with_reward
    rest = max(squares - float(mean @ with_reward), 0.0)
    return mean, (2.5 + rest) / (10 + gram[0, 0]) * inverse


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float


def policy_value(
    rewards: ArrayLike, arms: ArrayLike, propensities: ArrayLike, policy: ArrayLike,
    predicted: ArrayLike | None = None,
) -> Estimate:  # fmt: skip
    """The mean reward that a policy would have had, from answers whose arms another one drew.

    Doubly robust (Dudik, Langford and Li 2011); without `predicted` by inverse propensities
    (Horvitz and Thompson 1952). The interval is normal: it needs some hundred rows, and
    propensities with a floor.

    Args:
        rewards: Of each answer. Shape (rows,).
        arms: The number of the arm that was drawn.
        propensities: The probability with which it was drawn, as it was logged.
        policy: The probability with which the policy plays each arm. Shape (rows, arms).
        predicted: The expected reward of each arm by a model that has not seen the row, likewise.

    Raises:
        Invalid: There are fewer than two rows, their numbers differ, or a propensity is not over 0
            and 1 at most.
    """
    reward, arm = np.asarray(rewards, np.float64), np.asarray(arms, np.int64)
    drawn, played = np.asarray(propensities, np.float64), np.asarray(policy, np.float64)
    model = np.zeros(played.shape) if predicted is None else np.asarray(predicted, np.float64)
    rows = np.arange(len(reward))
    if len(rows) < 2 or {len(arm), len(drawn), len(played), len(model)} != {len(rows)}:
        raise Invalid(
            "an off-policy estimate needs two rows or more, each with all its facts",
            hint="give a reward, an arm, a propensity and a policy for each row",
        )
    if not ((drawn > 0) & (drawn <= 1)).all():
        raise Invalid(
            "propensities must be over 0 and 1 at most", hint="leave out rows that were not drawn"
        )
    weights = played[rows, arm] / drawn
    terms = (played * model).sum(axis=1) + weights * (reward - model[rows, arm])
    value, half = float(terms.mean()), 1.96 * float(np.std(terms, ddof=1)) / len(rows) ** 0.5
    return Estimate(value, value - half, value + half)
