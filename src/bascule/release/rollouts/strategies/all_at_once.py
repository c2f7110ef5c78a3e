"""All at once: the candidate has all traffic, but for what is kept back to compare with."""

from __future__ import annotations

from datetime import datetime

from bascule.release.rollouts.facts import Facts
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import last_step


def first(rollout: Rollout, now: datetime) -> State:
    return last_step(rollout, Running(-1, now), now)


def shares(rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG001
    return Shares(0.0)


def advance(rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
    return last_step(rollout, state, facts.now), f"{rollout.candidate} takes all traffic"
