"""Shadow: the candidate answers copies of requests, and no client; ends when the guards hold."""

from __future__ import annotations

from datetime import datetime

from bascule.release.rollouts.facts import Facts, not_shown_yet
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Passed, Paused, Running, State, Waiting
from bascule.release.rollouts.strategies.common import still_to_come


def first(rollout: Rollout, now: datetime) -> State:  # noqa: ARG001
    return Running(0, now)


def shares(rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG001
    return Shares(0.0, shadow_percent=rollout.steps_percent[-1])


def advance(rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
    lacking = still_to_come(rollout, state, facts)
    if lacking:
        return state, lacking
    if unproven := facts.unproven(rollout.beta):
        return state, not_shown_yet(rollout, unproven[0], facts)
    return Passed(facts.now), (
        f"{rollout.candidate} is within every guard in {facts.candidate_requests:,} copied requests"
    )
