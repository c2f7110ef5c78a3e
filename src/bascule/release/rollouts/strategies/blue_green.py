"""Blue/green: the candidate is loaded beside the current version, then takes all traffic."""

from __future__ import annotations

from datetime import datetime

from bascule.release.rollouts.facts import Facts
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import last_step


def first(rollout: Rollout, now: datetime) -> State:  # noqa: ARG001
    return Running(0, now)


def shares(rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG001
    return Shares(0.0)


def advance(rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
    left_s = (state.since + rollout.step - facts.now).total_seconds()
    if left_s > 0:
        return state, f"held: {rollout.candidate} is ready, and waits another {left_s:.0f} s"
    return last_step(rollout, state, facts.now), f"{rollout.candidate} takes all traffic"
