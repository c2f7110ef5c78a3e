"""All at once: the candidate has all traffic, but for what is kept back to compare with."""

from __future__ import annotations

from datetime import datetime

from bascule.release.rollouts.facts import Facts
from bascule.release.rollouts.plan import Rollout
from bascule.release.rollouts.states import Running, State
from bascule.release.rollouts.strategies.common import Strategy, last_step


class AllAtOnce(Strategy):
    """See `common.Strategy`."""

    def first(self, rollout: Rollout, now: datetime) -> State:
        return last_step(rollout, Running(-1, now), now)

    def lacking(self, rollout: Rollout, left_s: float, facts: Facts) -> str:  # noqa: ARG002
        return ""

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        return last_step(rollout, state, facts.now), f"{rollout.candidate} takes all traffic"
