"""Contextual bandit: each request gets the version that suits its inputs (Thompson sampling).

The weights are learnt anew at each look from sums by cohort (`evidence.CohortArm.moments`), so
truths that come late, again or corrected count once, as they are now.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import numpy as np

from bascule.endpoints import ContextPolicy
from bascule.release.rollouts.evidence import Floats
from bascule.release.rollouts.facts import Facts
from bascule.release.rollouts.plan import UNAPPROVED_PERCENT, Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import (
    Strategy,
    better_said,
    is_shown_better,
    last_step,
)
from bascule.stats import linear_posterior

_NEARLY_ALL = 0.99
"""The candidate is promoted where it is preferred in this share of the contexts."""


class Contextual(Strategy):
    """See `common.Strategy`. The stage stays 0, so explored requests add up over all policies."""

    def first(self, rollout: Rollout, now: datetime) -> State:
        return Running(0, now, policy=_first_policy(rollout))

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG002
        """Of explored requests, and of those with a sticky key."""
        return Shares(rollout.steps_percent[0])

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        if facts.steered is None:
            return state, (
                "waits: of no span of time are all truths in about answers without a sticky key"
            )
        before = state.policy or _first_policy(rollout)
        policy, sums = learn(before, *facts.steered), facts.steered.sum(axis=0)
        answers = float(sums[0, 0])
        gram = sums[:-1, :-1] / answers  # the mean product of two numbers of a context
        share, verdict = _preferring_share(policy, gram), facts.outcomes
        if share >= _NEARLY_ALL and is_shown_better(verdict, rollout.beta):
            return last_step(rollout, state, facts.now), (
                f"{rollout.candidate} is preferred in nearly every context, and is "
                f"{better_said(rollout, verdict)}"
            )
        sentence = (
            f"prefers {rollout.candidate} in about {share:.0%} of the contexts, by {answers:,.0f} "
            f"answers with an outcome; {2 * rollout.floor:.0%} of the requests explore"
        )
        if state.policy is not None and not _is_news(policy, before, gram):
            return state, f"keeps its policy: {sentence}"
        return Running(state.stage, facts.now, policy=policy), sentence


def _first_policy(rollout: Rollout) -> ContextPolicy:
    """Before anything is learnt every request explores."""
    most = UNAPPROVED_PERCENT / 100 if rollout.needs_approval else 1.0
    return ContextPolicy(rollout.context, floor=rollout.floor, most=most)


def learn(policy: ContextPolicy, current: Floats, candidate: Floats) -> ContextPolicy:
    """The policy by the sums of both arms; see `evidence.steered_sums`."""
    mean, variance = linear_posterior(candidate)
    mean_before, variance_before = linear_posterior(current)
    return replace(
        policy, gain=tuple(map(_rounded, mean - mean_before)),
        covariance=tuple(tuple(map(_rounded, row)) for row in variance + variance_before),
    )  # fmt: skip


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")  # it is part of a plan


def _is_news(policy: ContextPolicy, before: ContextPolicy, gram: Floats) -> bool:
    """Whether probabilities differ by enough for another plan than that with the policy `before`.

    The gain has moved by a third of its standard deviation, or that has shrunk by a tenth.
    """
    if not before.gain:
        return True
    moved = np.subtract(policy.gain, before.gain)
    spread = float(np.sum(np.multiply(policy.covariance, gram)))
    spread_before = float(np.sum(np.multiply(before.covariance, gram)))
    return float(moved @ gram @ moved) > 0.1 * spread or spread_before > 1.2 * spread


def _preferring_share(policy: ContextPolicy, gram: Floats) -> float:
    """About the share of the contexts in which more is expected of the candidate."""
    gain = np.asarray(policy.gain)
    mean = float(gain @ gram[0])
    variance = max(float(gain @ gram @ gain) - mean**2, 1e-12)
    return 0.5 * math.erfc(-mean / math.sqrt(2 * variance))
