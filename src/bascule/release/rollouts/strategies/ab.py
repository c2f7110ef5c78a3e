"""A/B: a constant share, until outcomes show which version is better, or that neither is."""

from __future__ import annotations

from bascule.release.rollouts.facts import Facts, difference_said, gap_said
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Aborted, Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import (
    Strategy,
    better_said,
    is_no_matter,
    is_shown_better,
    last_step,
)


class AB(Strategy):
    """See `common.Strategy`."""

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG002
        return Shares(rollout.steps_percent[0])

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        verdict = facts.outcomes
        if is_shown_better(verdict, rollout.beta):
            return last_step(rollout, state, facts.now), (
                f"{rollout.candidate} is {better_said(rollout, verdict)}"
            )
        difference = difference_said(rollout, verdict)
        if is_no_matter(verdict, rollout.beta):
            return Aborted(facts.now), (
                f"ended as futile: {rollout.candidate} gains less than "
                f"{gap_said(verdict.guard, verdict.guard.rate_margin)}; {difference}"
            )
        return state, (
            f"waits: neither a gain nor its absence is shown in {verdict.requests:,} answers with "
            f"an outcome; {difference}"
        )
