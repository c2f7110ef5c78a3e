"""A rollout as it was asked for, and a decision about it. `strategies` says how they differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, TypeAlias

import msgspec

from bascule.core import Invalid
from bascule.endpoints import ContextFeature
from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.losses import judge_of
from bascule.release.rollouts.states import State

Aware: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone."""
STRATEGIES = ("all", "canary", "blue-green", "shadow", "ab", "bandit", "contextual")
ON_OUTCOMES = ("ab", "bandit", "contextual")
"""Of them, those that compare outcomes, half of the requests each at first."""
_MAX_CONTEXT = 16
UNAPPROVED_PERCENT = 50.0
"""The most that a candidate answers before the approval that its rollout waits for."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to put a candidate in the place of the current version.

    Attributes:
        id: Of the rollout.
        started_at: When it began.
        endpoint: Whose traffic is shared.
        candidate: The version that is tried: `late/5`.
        current: The version that it is compared with.
        strategy: One of `STRATEGIES`.
        guards: What ends it.
        steps_percent: The candidate's share in each stage. Of a shadow: the share that is copied.
        step_s: How long a stage lasts at least.
        max_s: After so long without a decision it ends without a promotion.
        min_requests: Of the candidate in each stage, at least.
        alpha: The promised share of good versions that are rolled back.
        beta: The promised share of versions at a margin that are promoted.
        bake_s: How long a promoted version is compared with the former one.
        holdback_percent: The share of the former version meanwhile.
        needs_approval: Whether the last step waits for an approval.
        floor: Of a bandit, the least share of an arm; of a contextual one, the least propensity.
        outcomes_sample: The share of the predictions that get an outcome, chosen by
            `outcome_draw` of their ids; the others are not waited for.
        load_tries: After so many tries a host that cannot load the candidate ends the rollout.
        allow_answers: Whether a person has said that answers may differ by more than the guard
            `answers` allows.
        context: Of a contextual bandit, the inputs by which requests are steered.
    """

    id: str
    started_at: datetime
    endpoint: str
    candidate: str
    current: str
    strategy: str
    guards: tuple[Guard, ...]
    steps_percent: tuple[float, ...] = (5.0, 25.0, 50.0, 100.0)
    step_s: float = 300.0
    max_s: float = 7 * 86_400.0
    min_requests: int = 100
    alpha: float = 0.05
    beta: float = 0.05
    bake_s: float = 0.0
    holdback_percent: float = 5.0
    needs_approval: bool = False
    floor: float = 0.05
    outcomes_sample: float = 1.0
    load_tries: int = 5
    allow_answers: bool = False
    context: tuple[ContextFeature, ...] = ()

    @property
    def step(self) -> timedelta:
        return timedelta(seconds=self.step_s)


class Shares(msgspec.Struct, frozen=True):
    """What a state means for traffic: percentages of requests."""

    candidate_percent: float
    shadow_percent: float = 0.0


class LoadFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A host that could not load what a plan of a rollout needs, and serves its former plan.

    Attributes:
        host: Its name and port.
        versions: The version that failed; where that is not known, all that are new on the host.
        error: What was wrong at the last try.
        tries: How many tries failed in a way that waiting does not mend.
        away: How many failed because a store or a worker was away.
        until: When the next try should have been reported, by the clock of the catalogue; later it
            says nothing.
    """

    host: str
    versions: tuple[str, ...]
    error: str
    tries: int
    away: int
    until: datetime


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided, and the sentence that says why.

    Attributes:
        state: The next one; the same where nothing changes.
        shares: What the state means for traffic.
        sentence: With its numbers.
        log_e: The evidence of harm by guard, natural logarithms; `all` is their average.
        intervals: How many were looked at: the decision can be made again from them.
        revision: Of the cohorts that were looked at, likewise; 0 for none.
        failures: The hosts that could not load a version, likewise.
        trouble: What prevents the rollout from going on; empty for nothing.
        held_by: The guard that asks for a person; empty for none.
        warning: That the requests are not split as planned; empty where they are.
    """

    state: State
    shares: Shares
    sentence: str
    log_e: dict[str, float] = {}
    intervals: int = 0
    revision: int = 0
    failures: tuple[LoadFailure, ...] = ()
    trouble: str = ""
    held_by: str = ""
    warning: str = ""

    @property
    def is_by_evidence(self) -> bool:
        """Whether it was made of stored facts, and can be made again; not by a command."""
        return bool(self.intervals or self.revision or self.failures)


class StoredDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision as it was stored.

    Attributes:
        number: From 1.
        at: When it was made.
        made_by: The controller's name, or that of a person.
        before: The state before; None for the first one.
        decision: The decision.
        plan_number: Of the plan that it made; None where traffic did not change.
    """

    number: int
    at: Aware
    made_by: str
    before: State | None
    decision: Decision
    plan_number: int | None


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A rollout and where it stands.

    Attributes:
        rollout: As it was asked for.
        decisions: The number of the latest decision; 0 before the first.
        latest: The latest look; None before the first.
        intervals: How many are sealed.
        ended_at: None while it goes on.
        created_by: The user.
        reason: Why; may be empty.
        state: `asked`, `running`, `waiting`, `paused`, `baking`, `promoted`, `passed`, `aborted`.
    """

    rollout: Rollout
    decisions: int
    latest: Decision | None
    intervals: int
    ended_at: Aware | None
    created_by: str
    reason: str
    state: str = field(init=False, default="asked")

    def __post_init__(self) -> None:
        if self.latest is not None:
            object.__setattr__(self, "state", type(self.latest.state).__name__.lower())


def check_rollout(rollout: Rollout) -> Rollout:
    """The rollout, if its numbers make sense together; raises `Invalid`."""
    if rollout.strategy not in STRATEGIES:
        raise Invalid(
            f"there is no strategy {rollout.strategy!r}", hint=f"use {', '.join(STRATEGIES)}"
        )
    if rollout.candidate == rollout.current:
        raise Invalid(f"{rollout.candidate} is the current version of {rollout.endpoint}")
    if rollout.load_tries < 1:
        raise Invalid(f"load_tries must be 1 or more, not {rollout.load_tries}")
    steps = rollout.steps_percent
    if not steps or any(not 0 < one <= 100 for one in steps) or list(steps) != sorted(set(steps)):
        raise Invalid(
            f"steps must rise from over 0 to 100 at most, not {list(steps)}",
            hint="for example 5,25,50,100",
        )
    if rollout.strategy == "canary" and steps[-1] != 100:
        raise Invalid("the last step of a canary must be 100", hint="for example 5,25,50,100")
    of_traffic = {"canary": steps[-2:-1] or steps, "ab": steps, "bandit": steps}
    if rollout.needs_approval and max(of_traffic.get(rollout.strategy, (0,))) > UNAPPROVED_PERCENT:
        raise Invalid(
            f"before its approval a candidate answers {UNAPPROVED_PERCENT:g} % at most: steps are "
            f"{list(steps)}",
            hint="for example 5,25,50,100",
        )
    for name in ("alpha", "beta"):
        if not 0 < getattr(rollout, name) <= 0.5:
            raise Invalid(f"{name} must be over 0 and 0.5 at most, not {getattr(rollout, name):g}")
    if not 0 < rollout.outcomes_sample <= 1:
        raise Invalid(
            f"outcomes_sample must be over 0 and 1 at most, not {rollout.outcomes_sample:g}",
            hint="0.1 where every tenth prediction gets an outcome",
        )
    names = [guard.name for guard in rollout.guards]
    if not names:
        raise Invalid("a rollout needs a guard", hint="for example 'errors +1 pp'")
    if len({(guard.name, guard.part) for guard in rollout.guards}) < len(names):
        raise Invalid(f"a guard is there twice: {', '.join(map(str, rollout.guards))}")
    timed = next((guard for guard in rollout.guards if guard.part and guard.harmed), None)
    largest = {"canary": steps[-2:-1], "all": (), "blue-green": ()}.get(rollout.strategy, (50,))
    if timed is not None and largest < (50,):
        raise Invalid(
            f"{timed} is compared where each version has 50 % of the requests, and no step has",
            hint="--strategy canary --steps 5,25,50,100",
        )
    on_outcomes = [guard for guard in rollout.guards if guard.is_on_outcomes]
    if rollout.strategy in ON_OUTCOMES and not on_outcomes:
        raise Invalid(
            f"strategy {rollout.strategy} compares outcomes",
            hint="add --guard 'accuracy -2 pp', or 'mae +5 %' for numbers",
        )
    judged = next((guard for guard in on_outcomes if judge_of(guard.name)), None)
    if judged is not None and len(on_outcomes) > 1:
        raise Invalid(
            f"{judged.name} counts answers without a label too, and another guard on outcomes not",
            hint=f"guard {judged.name} alone, beside errors and latency",
        )
    if judged is not None and rollout.strategy in ("bandit", "contextual"):
        raise Invalid(
            f"a bandit needs the reward of each answer, and {judged.name} knows that of a sample",
            hint="use --strategy ab or canary, or guard approval",
        )
    _check_context(rollout, on_outcomes)
    if rollout.strategy == "shadow" and on_outcomes:
        raise Invalid(
            f"{on_outcomes[0].name} cannot be counted: the ledger has no answers of a shadow",
            hint="guard errors and disagreement, or use --strategy canary",
        )
    if "disagreement" in names and rollout.strategy != "shadow":
        raise Invalid("disagreement is seen in a shadow only", hint="use --strategy shadow")
    if rollout.strategy == "shadow" and any(
        guard.harmed or guard.is_of_texts for guard in rollout.guards
    ):
        raise Invalid(
            "the latency of a shadow, and its texts, are not those of an answer to a client",
            hint="use --strategy canary, or guard errors and disagreement",
        )
    if rollout.strategy == "shadow" and {"errors", "disagreement"}.isdisjoint(names):
        raise Invalid("a shadow needs the guard 'disagreement +5 pp' or 'errors +1 pp'")
    return rollout


def _check_context(rollout: Rollout, on_outcomes: list[Guard]) -> None:
    names = [feature.name for feature in rollout.context]
    if (rollout.strategy == "contextual") != bool(names):
        raise Invalid(
            "strategy contextual needs inputs to steer by, and no other strategy has them",
            hint="--strategy contextual --context COLUMN",
        )
    if not names:
        return
    width = sum(len(feature.categories) or 1 for feature in rollout.context)
    if width > _MAX_CONTEXT:
        raise Invalid(
            f"a context has at most {_MAX_CONTEXT} numbers, not {width}",
            hint="name fewer inputs: a text is a number for each of its most frequent values",
        )
    if len(set(names)) < len(names):
        raise Invalid(
            f"an input of the context is there twice: {', '.join(names)}", hint="name each once"
        )
    if rollout.steps_percent != (50.0,):
        raise Invalid(
            "explored requests are shared evenly: steps of contextual are 50",
            hint="leave out --steps",
        )
    if on_outcomes[0].is_of_pairs:
        raise Invalid(
            f"{on_outcomes[0].name} is of pairs of answers, and a single one has no reward",
            hint="name another guard on outcomes first: 'accuracy -2 pp', 'log_loss +5 %'",
        )
