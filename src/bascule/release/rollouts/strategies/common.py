"""A strategy, and what several ask before they go on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from datetime import datetime

from bascule.release.rollouts.facts import Facts, difference_said, gap_said
from bascule.release.rollouts.guards import Verdict
from bascule.release.rollouts.plan import Rollout, Shares
from bascule.release.rollouts.states import Baking, Paused, Promoted, Running, State, Waiting


class Strategy(ABC):
    """One file of this folder: how a candidate gets its traffic."""

    def first(self, rollout: Rollout, now: datetime) -> State:  # noqa: ARG002
        """The state in which a rollout begins."""
        return Running(0, now)

    def shares(self, rollout: Rollout, state: Running | Waiting | Paused) -> Shares:  # noqa: ARG002
        """What a state means for traffic."""
        return Shares(0.0)

    def advance(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        """The next state of a rollout without harm, and why; the same state holds."""
        left_s = (state.since + rollout.step - facts.now).total_seconds()
        lacking = self.lacking(rollout, left_s, facts)
        return (state, lacking) if lacking else self.decide(rollout, state, facts)

    def lacking(self, rollout: Rollout, left_s: float, facts: Facts) -> str:
        """Why a stage is not over; empty where time and requests suffice."""
        if facts.stage_requests < rollout.min_requests:
            return (
                f"waits: {facts.stage_requests:,} of at least {rollout.min_requests:,} requests of "
                f"this step"
            )
        return f"waits: this step lasts another {left_s:.0f} s" if left_s > 0 else ""

    @abstractmethod
    def decide(self, rollout: Rollout, state: Running, facts: Facts) -> tuple[State, str]:
        """What comes once a stage is over."""


def last_step(rollout: Rollout, state: Running, now: datetime) -> State:
    """To all traffic, but for an approval, and what is kept back to compare with."""
    if rollout.needs_approval:
        return Waiting(state.stage, now)
    return Baking(state.stage + 1, now) if rollout.bake_s else Promoted(now)


def is_shown_better(verdict: Verdict, beta: float) -> bool:
    """Whether the candidate's rate is shown to be below that of the current version."""
    return verdict.bounded(margin=0.0, bounds=False).log_e_safe >= -math.log(beta)


def better_said(rollout: Rollout, verdict: Verdict) -> str:
    least = gap_said(verdict.guard, -verdict.bounded().upper)
    return f"better by {least} at least: {difference_said(rollout, verdict)}"


def is_no_matter(verdict: Verdict, beta: float) -> bool:
    """Whether a gain of the guard's margin or more is excluded."""
    test = verdict.bounded(margin=-verdict.guard.rate_margin, bounds=False)
    return test.log_e_worse >= -math.log(beta)
