"""Contextual bandit: each request gets the version that suits its inputs (Thompson sampling)."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from bascule.release.rollouts.facts import Facts, difference_said, gap_said
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.steering import (
    first_policy,
    gram_of,
    is_news,
    learn,
    preferring_share,
)
from bascule.release.rollouts.strategies.common import (
    Strategy,
    is_shown_better,
    last_step,
    still_to_come,
)

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
        policy, total = learn(before, *facts.steered), np.sum(facts.steered, axis=0)
        gram = gram_of(total, policy.width) / max(total[0], 1)
        share, verdict = preferring_share(policy, gram), facts.outcomes
        if share >= _NEARLY_ALL and is_shown_better(verdict, rollout.beta):
            return last_step(rollout, state, facts.now), (
                f"{rollout.candidate} is preferred in nearly every context, and is better by "
                f"{gap_said(verdict.guard, -verdict.bounded().upper)} at least: "
                f"{difference_said(rollout, verdict)}"
            )
        said = (
            f"prefers {rollout.candidate} in about {share:.0%} of the contexts, by {total[0]:,.0f} "
            f"answers with an outcome; {2 * rollout.floor:.0%} of the requests explore"
        )
        if state.policy is not None and not is_news(policy, before, gram):
            return state, f"keeps its policy: {said}"
        return Running(state.stage, facts.now, policy=policy), said
