"""Canary: the candidate's share grows in steps; the last step needs proof that no margin is met."""

from __future__ import annotations

from bascule.release.rollouts.facts import Facts, cut_said, not_shown_yet, odds
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import Strategy, last_step


class Canary(Strategy):
    """See `common.Strategy`."""

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:
        return Shares(rollout.steps_percent[state.stage])

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        stage = state.stage + 1
        if stage < len(rollout.steps_percent) - 1:
            return Running(stage, facts.now), (
                f"{rollout.candidate} goes on to {rollout.steps_percent[stage]:g} %: no harm in "
                f"{facts.stage_requests:,} of its answers"
            )
        if unproven := facts.unproven(rollout.beta):
            return state, not_shown_yet(rollout, unproven[0], facts)
        if facts.is_harm_likely(rollout.alpha):
            return state, (
                f"waits: {odds(facts.log_e_harm)} of harm so far; the last step waits until it is "
                f"below {rollout.alpha**-0.5:.1f} to 1, or ends at {1 / rollout.alpha:.0f} to 1"
            )
        return last_step(rollout, state, facts.now), (
            f"{rollout.candidate} is within every guard, after {facts.candidate_requests:,} of its "
            f"answers and {facts.requests - facts.candidate_requests:,} of {rollout.current}"
            + "".join(cut_said(rollout, verdict) for verdict in facts.verdicts)
        )
