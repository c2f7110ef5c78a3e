"""Contextual bandit: each request gets the version that suits its inputs (Thompson sampling)."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from bascule.endpoints import ContextPolicy
from bascule.release.rollouts.facts import Facts, difference_said, gap_said
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.steering import first_policy, is_news, learn, preferring_share
from bascule.release.rollouts.strategies.common import (
    Strategy,
    is_shown_better,
    last_step,
    still_to_come,
)
from bascule.stats import ContextMoments

_NEARLY_ALL = 0.99
"""The candidate is promoted where it is preferred in this share of the contexts."""


class Contextual(Strategy):
    """See `common.Strategy`. The stage stays 0, so explored requests add up over all policies."""

    def first(self, rollout: Rollout, now: datetime) -> State:
        return Running(0, now, policy=first_policy(rollout))

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG002
        """Of explored requests, and of those with a sticky key."""
        return Shares(rollout.steps_percent[0])

    def advance(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        lacking = still_to_come(rollout, state, facts)
        if lacking:
            return state, lacking
        if facts.steered is None:
            return state, (
                "waits: of no span of time are all truths in about answers without a sticky key"
            )
        before = state.policy or first_policy(rollout)
        policy, gram = _learnt(before, facts)
        share, verdict = preferring_share(policy, gram), facts.outcomes
        if share >= _NEARLY_ALL and is_shown_better(verdict, rollout.beta):
            return last_step(rollout, state, facts.now), (
                f"{rollout.candidate} is preferred in nearly every context, and is better by "
                f"{gap_said(verdict.guard, -verdict.bounded().upper)} at least: "
                f"{difference_said(rollout, verdict)}"
            )
        answers = sum(int(vector[0]) for vector in facts.steered)
        said = f"{rollout.candidate} in about {share:.0%} of the contexts, {rollout.current} in the"
        if state.policy is not None and not is_news(policy, before, gram):
            return state, f"stays: prefers {said} others, by {answers:,} answers with an outcome"
        return Running(state.stage, facts.now, policy=policy), (
            f"prefers {said} others from now on, by {answers:,} answers with an outcome; "
            f"{2 * rollout.floor:.0%} of the requests explore"
        )


def _learnt(before: ContextPolicy, facts: Facts) -> tuple[ContextPolicy, np.ndarray]:
    assert facts.steered is not None
    current, candidate = facts.steered
    policy = learn(before, current, candidate)
    total = ContextMoments.of_vector(current + candidate, len(policy.gain))
    return policy, total.gram / max(total.rows, 1)
