"""Shadow: the candidate answers copies of requests, and no client; ends when the guards hold."""

from __future__ import annotations

from bascule.release.rollouts.facts import Facts, not_shown_yet
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Passed, Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import Strategy


class ShadowOnly(Strategy):
    """See `common.Strategy`."""

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG002
        return Shares(0.0, shadow_percent=rollout.steps_percent[-1])

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        if unproven := facts.unproven(rollout.beta):
            return state, not_shown_yet(rollout, unproven[0], facts)
        return Passed(facts.now), (
            f"{rollout.candidate} is within every guard in {facts.candidate_requests:,} copied "
            "requests"
        )
