"""Bandit: shares follow the outcomes (Thompson sampling), until one version is better."""

from __future__ import annotations

from datetime import datetime

from bascule.release.rollouts.facts import Facts
from bascule.release.rollouts.plan import UNAPPROVED_PERCENT, Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import (
    Strategy,
    better_said,
    is_shown_better,
    last_step,
)
from bascule.stats import thompson_shares

_LEAST_CHANGE = 0.01


class Bandit(Strategy):
    """See `common.Strategy`."""

    def first(self, rollout: Rollout, now: datetime) -> State:
        return Running(0, now, (rollout.steps_percent[0] / 100,))

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:
        if isinstance(state, Running) and state.shares:
            return Shares(100 * state.shares[0])
        return Shares(rollout.steps_percent[0])

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        verdict = facts.outcomes
        if is_shown_better(verdict, rollout.beta):
            return last_step(rollout, state, facts.now), (
                f"{rollout.candidate} is {better_said(rollout, verdict)}"
            )
        share = float(thompson_shares(*facts.rewards, floor=rollout.floor)[1])
        if rollout.needs_approval:
            share = min(share, UNAPPROVED_PERCENT / 100)
        if abs(share - state.shares[0]) < _LEAST_CHANGE:
            return state, f"stays at {share:.0%}"
        return Running(state.stage + 1, facts.now, (round(share, 4),)), (
            f"{rollout.candidate} has {share:.0%} of the traffic now: the probability that it is "
            f"the better one, but for a floor of {rollout.floor:.0%}"
        )
