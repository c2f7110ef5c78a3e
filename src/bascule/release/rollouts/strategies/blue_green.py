"""Blue/green: the candidate is loaded beside the current version, then takes all traffic."""

from __future__ import annotations

from bascule.release.rollouts.facts import Facts
from bascule.release.rollouts.plan import Rollout
from bascule.release.rollouts.states import Running, State
from bascule.release.rollouts.strategies.common import Strategy, last_step


class BlueGreen(Strategy):
    """See `common.Strategy`."""

    def lacking(self, rollout: Rollout, left_s: float, facts: Facts) -> str:  # noqa: ARG002
        if left_s > 0:
            return f"waits: {rollout.candidate} is ready, and waits another {left_s:.0f} s"
        return ""

    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        return last_step(rollout, state, facts.now), f"{rollout.candidate} takes all traffic"
