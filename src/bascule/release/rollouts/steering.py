"""What a contextual bandit learns from sums of its answers. Pure.

The weights are learnt anew at each look from sums by cohort (`evidence.CohortArm.moments`), so
truths that come late, again or corrected count once, as they are now.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bascule.endpoints import ContextPolicy
from bascule.release.rollouts.plan import UNAPPROVED_PERCENT, Rollout
from bascule.stats import linear_posterior

Floats = NDArray[np.float64]
_DIGITS = 6
"""Significant ones of weights, which are part of a plan."""


def first_policy(rollout: Rollout) -> ContextPolicy:
    """The policy before anything is learnt: every request explores."""
    most = UNAPPROVED_PERCENT / 100 if rollout.needs_approval else 1.0
    return ContextPolicy(rollout.context, floor=rollout.floor, most=most)


def learn(policy: ContextPolicy, current: Floats, candidate: Floats) -> ContextPolicy:
    """The policy by the sums of both arms; see `CohortArm.moments`."""
    (mean, variance), (before, variance_before) = (
        linear_posterior(sums[0], sums[1], sums[2 : 2 + policy.width], gram_of(sums, policy.width))
        for sums in (candidate, current)
    )
    return replace(
        policy, gain=tuple(map(_rounded, mean - before)),
        covariance=tuple(tuple(map(_rounded, row)) for row in variance + variance_before),
    )  # fmt: skip


def gram_of(sums: Floats, width: int) -> Floats:
    """The matrix of the products of two numbers, of which sums have the upper triangle."""
    gram = np.zeros((width, width))
    gram[np.triu_indices(width)] = sums[2 + width :]
    return gram + np.triu(gram, 1).T


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def is_news(policy: ContextPolicy, before: ContextPolicy, gram: Floats) -> bool:
    """Whether the probabilities of the arms differ by enough for another plan.

    The gain has moved by a third of its standard deviation, or that has shrunk by a tenth.

    Args:
        policy: The new one.
        before: The one in the plan.
        gram: The mean product of two numbers of the context, of all answers.
    """
    if not before.gain:
        return True
    moved = np.subtract(policy.gain, before.gain)
    spread, spread_before = (float(np.sum(np.multiply(one.covariance, gram))) for one in
                             (policy, before))  # fmt: skip
    return float(moved @ gram @ moved) > 0.1 * spread or spread_before > 1.2 * spread


def preferring_share(policy: ContextPolicy, gram: Floats) -> float:
    """About the share of the contexts in which more is expected of the candidate."""
    gain = np.asarray(policy.gain)
    mean = float(gain @ gram[0])
    variance = max(float(gain @ gram @ gain) - mean**2, 1e-12)
    return 0.5 * math.erfc(-mean / math.sqrt(2 * variance))
