"""`decide`: the next state of a rollout, from its plan, its state and its evidence. Pure.

Harm ends a rollout in every state, also while it is paused or waits for an approval. Too little
traffic is neither good nor bad: the rollout holds. A decision can be made again from what is stored
with it: `replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal, cast

from bascule.core import Conflict, load_named
from bascule.release.rollouts.evidence import NO_COHORTS, Cohorts, Floats
from bascule.release.rollouts.facts import Facts, harm, observed, shown_losses
from bascule.release.rollouts.guards import Guard
from bascule.release.rollouts.loading import given_up, load_trouble
from bascule.release.rollouts.plan import Decision, LoadFailure, Rollout, Shares, StoredDecision
from bascule.release.rollouts.states import (
    FINAL,
    Aborted,
    Baking,
    Passed,
    Paused,
    Promoted,
    Running,
    State,
    Waiting,
)
from bascule.release.rollouts.strategies.common import Strategy

Command = Literal["pause", "resume", "abort", "promote"]


_STRATEGIES = {
    "all": "bascule.release.rollouts.strategies.all_at_once:AllAtOnce",
    "blue-green": "bascule.release.rollouts.strategies.blue_green:BlueGreen",
    "canary": "bascule.release.rollouts.strategies.canary:Canary",
    "shadow": "bascule.release.rollouts.strategies.shadow:ShadowOnly",
    "ab": "bascule.release.rollouts.strategies.ab:AB",
    "bandit": "bascule.release.rollouts.strategies.bandit:Bandit",
    "contextual": "bascule.release.rollouts.strategies.contextual:Contextual",
}


def start(rollout: Rollout, now: datetime) -> Decision:
    """The first decision about a rollout."""
    state = _strategy(rollout).first(rollout, now)
    shares = shares_of(rollout, state)
    what = (
        f"a copy of {shares.shadow_percent:g} %"
        if shares.shadow_percent
        else (f"{shares.candidate_percent:g} %")
    )
    guards = ", ".join(map(str, rollout.guards))
    return Decision(
        state=state, shares=shares,
        sentence=f"{rollout.candidate} begins with {what} of the requests of {rollout.endpoint} "
        f"({rollout.strategy}, against {rollout.current}; guards: {guards})"
        + "".join(_scale_said(rollout, guard) for guard in rollout.guards),
    )  # fmt: skip


def decide(
    rollout: Rollout, state: State, table: Floats, *, now: datetime, cohorts: Cohorts = NO_COHORTS,
    failures: tuple[LoadFailure, ...] = (),
) -> Decision:  # fmt: skip
    """The next state of a rollout. The same facts give the same decision.

    Args:
        rollout: What was asked for.
        state: Where it stands.
        table: All intervals that have ended since its start, in order (`evidence.table_of`).
        now: The moment of the decision.
        cohorts: Of predictions, with the newest truths about them.
        failures: The hosts that cannot load a version, in the order of their names. The rollout
            waits for them until their tries are spent.
    """
    if isinstance(state, FINAL):
        return Decision(state=state, shares=shares_of(rollout, state), sentence="already finished")
    facts = observed(rollout, state.stage, table, cohorts.cohorts, now)
    reason = harm(rollout, facts) or given_up(failures, rollout)
    trouble = load_trouble(failures, rollout)
    following: State
    if reason:
        following, sentence = Aborted(now), f"rolled back to {rollout.current}: {reason}"
    elif facts.held and not (isinstance(state, Baking) and state.by_hand):
        ended = _ended_late(rollout, facts, facts.held) if isinstance(state, Running) else None
        following, sentence = ended or (state, facts.held)
    elif isinstance(state, Baking):
        following, sentence = _baked(rollout, state, now, trouble)
    elif isinstance(state, Running):
        following, sentence = _advanced(rollout, state, facts, trouble)
    else:
        where = "waits for an approval" if isinstance(state, Waiting) else "paused"
        following, sentence = state, "; ".join(filter(None, (where, trouble)))
    if facts.mismatch and facts.mismatch not in sentence:
        sentence = f"{sentence}; {facts.mismatch}"
    return Decision(
        state=following, shares=shares_of(rollout, following), sentence=sentence,
        log_e=facts.log_e, intervals=len(table), revision=cohorts.revision, failures=failures,
        trouble="" if isinstance(following, FINAL) else trouble,
        held_by="answers" if facts.held and following is state else "",
        warning=facts.mismatch,
    )  # fmt: skip


def obey(
    rollout: Rollout, state: State, command: Command, by: str, reason: str, now: datetime,
    *, held_by: str = "",
) -> Decision:  # fmt: skip
    """What a person's command makes of a rollout.

    Args:
        rollout: What was asked for.
        state: Where it stands.
        command: What the person wants.
        by: Who.
        reason: Why; may be empty.
        now: The moment.
        held_by: The guard that holds it, unless the person allows what it found.

    Raises:
        Conflict: It has ended, or the command has no meaning in its state; or it is to be
            promoted, and a guard asks first.
    """
    if isinstance(state, FINAL):
        raise Conflict(f"rollout {rollout.id} has ended", hint="bascule deploy begins another one")
    if command == "promote" and held_by:
        raise Conflict(
            f"rollout {rollout.id} waits: the {held_by} of {rollout.candidate} differ from those "
            f"of {rollout.current}",
            hint=f"if that is as it should be: bascule rollout promote {rollout.id} "
            f"--allow-{held_by}",
        )
    following: State
    match command, state:
        case "abort", _:
            following = Aborted(now)
        case "promote", Baking():
            following = Promoted(now)
        case "promote", _:
            following = promoted(rollout, state.stage, now, by_hand=True)
        case "pause", Running():
            following = Paused(state.stage, now, state.policy)
        case "resume", Paused():
            following = Running(state.stage, now, policy=state.policy)
        case _:
            word = type(state).__name__.lower()
            raise Conflict(f"rollout {rollout.id} is {word}, so it cannot {command}")
    said = {"abort": "aborted", "promote": "promoted", "pause": "paused", "resume": "resumed"}
    because = f": {reason}" if reason else ""
    return Decision(
        state=following, shares=shares_of(rollout, following),
        sentence=f"{said[command]} by {by}{because}",
    )  # fmt: skip


def shares_of(rollout: Rollout, state: State) -> Shares:
    """What a state means for traffic."""
    match state:
        case Promoted():
            return Shares(100.0)
        case Baking():
            return Shares(100.0 - rollout.holdback_percent)
        case Aborted() | Passed():
            return Shares(0.0)
        case _:
            return _strategy(rollout).shares(rollout, state)


def promoted(rollout: Rollout, stage: int, now: datetime, *, by_hand: bool = False) -> State:
    """Promoted, at once or after a comparison with what stays of the former version."""
    return Baking(stage + 1, now, by_hand) if rollout.bake_s else Promoted(now)


def replay(
    rollout: Rollout,
    stored: Sequence[StoredDecision],
    table: Floats,
    cohorts_at: Callable[[int], Cohorts] = lambda _: NO_COHORTS,
) -> list[tuple[StoredDecision, Decision]]:
    """The stored decisions that the same evidence does not lead to again, with what it leads to.

    `cohorts_at`: the cohorts as of a revision.
    """
    again = [
        (
            decided,
            decide(
                rollout, decided.before, table[: decided.decision.intervals], now=decided.at,
                cohorts=cohorts_at(decided.decision.revision),
                failures=decided.decision.failures,
            ),
        )
        for decided in stored
        if decided.before is not None
    ]  # fmt: skip
    return [(decided, decision) for decided, decision in again if decision != decided.decision]


def _strategy(rollout: Rollout) -> Strategy:
    strategy: Strategy = load_named(_STRATEGIES[rollout.strategy])()
    return strategy


def _scale_said(rollout: Rollout, guard: Guard) -> str:
    loss = guard.measure
    if not guard.is_on_outcomes or not loss.rows:
        return ""
    name, level = shown_losses(guard, loss.level / loss.bound)
    return (
        f"; the {name} of {rollout.current} is {level:.4g} on its {loss.rows:,} held-out rows, and "
        f"a loss over {loss.bound:.4g} counts as that"
    )


def _advanced(rollout: Rollout, state: Running, facts: Facts, trouble: str) -> tuple[State, str]:
    if trouble:
        following, sentence = cast(State, state), f"waits: {trouble}"
    elif facts.mismatch:
        following, sentence = state, f"waits: {facts.mismatch}"
    else:
        following, sentence = _strategy(rollout).advance(rollout, state, facts)
    if following is state and (ended := _ended_late(rollout, facts, sentence)):
        return ended
    return following, sentence


def _ended_late(rollout: Rollout, facts: Facts, sentence: str) -> tuple[State, str] | None:
    """The end of a rollout that has run for its longest time; None before."""
    longest_s = rollout.max_s + _truths_still_come_s(rollout, facts)
    if facts.now - rollout.started_at < timedelta(seconds=longest_s):
        return None
    return Aborted(facts.now), (
        f"ended without a promotion after {_duration(longest_s)}: {sentence}"
    )


def _truths_still_come_s(rollout: Rollout, facts: Facts) -> float:
    """By how much a rollout outlasts its longest time: for the truths of what it has answered."""
    if not any(verdict.guard.is_on_outcomes for verdict in facts.unproven(rollout.beta)):
        return 0.0
    late_s = facts.truths_after_s
    return rollout.max_s if late_s is None else min(late_s, rollout.max_s)


def _baked(rollout: Rollout, state: Baking, now: datetime, trouble: str) -> tuple[State, str]:
    left = state.since + timedelta(seconds=rollout.bake_s) - now
    if left > timedelta(0):
        return state, (
            f"waits: {rollout.current} keeps {rollout.holdback_percent:g} % to compare with for "
            f"another {_duration(left.total_seconds())}"
        )
    if trouble:
        return state, f"waits: {trouble}"
    return Promoted(now), f"{rollout.candidate} is the current version: no harm was found"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
