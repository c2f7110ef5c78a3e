"""Runs rollouts beside a server: counts, seals, decides, applies.

Every server's control process counts what the arms of its rollouts did. One of them, by a lease,
seals the counts of all to intervals, decides, and stores each decision with its plan in one
transaction. Killed anywhere, the next one goes on from what is stored: counts are cumulative, an
interval is sealed once, and a decision has the next number or is refused.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from bascule.control.turning import turning
from bascule.core import BasculeError, Conflict, NotFound, Unavailable, masked_text
from bascule.endpoints import CANDIDATE, CURRENT, Endpoint, EndpointStore, Plan, StoredPlan
from bascule.release.rollouts import (
    FINAL,
    NO_COHORTS,
    AliasFollower,
    AnswerCounts,
    ArmCounts,
    Baking,
    Cell,
    Cohort,
    Cohorts,
    Decision,
    Interval,
    PairCounts,
    Paused,
    Rollout,
    Rollouts,
    RolloutStore,
    Running,
    Stage,
    StoredDecision,
    StoredRollout,
    Told,
    Waiting,
    cells_of,
    decide,
    packed,
    plan_of,
    start,
    superseded,
    table_of,
)
from bascule.serving.telemetry import LEAST_SAMPLE, SHADOW_ARM, ArmTotals, Event

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue
    from bascule.control.link import ServerLink

log = logging.getLogger(__name__)

LEASE = "rollouts"
_LEASE_S = 5.0
_TURN_S = 0.5
_IDLE_S = 2.0
_OUTCOMES_S = 5.0
_LOOK_S = 5.0

CountOutcomes = Callable[[Rollout, Sequence[Stage], datetime], Sequence[Cohort]]
"""The cohorts of a rollout, with the newest truths: given its stages, and now."""


@contextmanager
def running_rollouts(
    server: ServerLink,
    open_catalogue: Callable[[], Catalogue],
    count_outcomes: CountOutcomes,
    open_rollouts: Callable[[], Rollouts] | None = None,
    *,
    after: threading.Event,
) -> Iterator[None]:
    """Run rollouts while the block runs, on a thread.

    Args:
        server: Whose arms are counted.
        open_catalogue: Opens the catalogue.
        count_outcomes: Counts the outcomes of a rollout.
        open_rollouts: Opens what deploys when an alias is moved that an endpoint follows.
        after: Set once opening the catalogue delays nothing else.
    """

    def run(ended: threading.Event) -> None:
        rollouts = None if open_rollouts is None else open_rollouts()
        RolloutRunner(server, open_catalogue(), count_outcomes, rollouts).run(ended)

    with turning("rollouts", run, after=after, pause_s=_IDLE_S):
        yield


class RolloutRunner:
    """The part of one server in its rollouts."""

    def __init__(
        self,
        server: ServerLink,
        catalogue: Catalogue,
        count_outcomes: CountOutcomes,
        rollouts: Rollouts | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        from bascule.catalogue import Leadership, Leases

        self._server = server
        self._store = RolloutStore(catalogue)
        self._endpoints = EndpointStore(catalogue)
        self._count_outcomes = count_outcomes
        self._follower = None if rollouts is None else AliasFollower(rollouts)
        self._clock = clock
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self.leadership = Leadership(Leases(catalogue), LEASE, holder, _LEASE_S)
        self._told: dict[tuple[str, str], Interval] = {}
        self._said: dict[str, str] = {}
        self._cohorts: dict[str, Cohorts] = {}
        self._outcomes_due_s: dict[str, float] = {}
        self._uncounted: dict[str, str] = {}
        self._looked_at_s: dict[str, float] = {}
        self._tables: dict[str, list[Interval]] = {}
        self._events: dict[str, list[Event]] = {}
        supervisor = psutil.Process(os.getppid())
        self._source = f"{socket.gethostname()}/{supervisor.pid}/{supervisor.create_time():.0f}"

    def run(self, ended: threading.Event) -> None:
        """Turn until `ended`."""
        try:
            while not ended.is_set():
                ended.wait(_TURN_S if self.turn() else _IDLE_S)
        finally:
            self.leadership.release()

    def turn(self) -> bool:
        """Count, and decide where this process has the lease; whether there is a rollout."""
        self._follow()
        active = self._store.active()
        self._events = {
            one.rollout.id: self._events[one.rollout.id]
            for one in active
            if one.rollout.id in self._events
        }
        if not active:
            return False
        for stored in active:
            with self._apart(stored):
                self._count(stored)
        if self.leadership.keep():
            for stored in active:
                # Decided on meanwhile: looked at again in the next turn.
                with self._apart(stored), suppress(Conflict):
                    self._advance(stored)
        return True

    @contextmanager
    def _apart(self, stored: StoredRollout) -> Iterator[None]:
        """Keep what fails for one rollout from all others; its own story says so.

        A catalogue that is away fails for all.
        """
        try:
            yield
        except Unavailable:
            raise
        except Exception as error:
            rollout = stored.rollout
            problem = masked_text(f"{type(error).__name__}: {error}")
            self._tell_once(rollout.endpoint, f"rollout {rollout.id} cannot be decided: {problem}")
            log.debug("rollout %s", rollout.id, exc_info=error)
            if stored.latest is not None and self.leadership.lease is not None:
                troubled = msgspec.structs.replace(
                    stored.latest, trouble=problem,
                    sentence=f"cannot be decided, so its shares stay: {problem}",
                )  # fmt: skip
                with suppress(Conflict):  # another process has the lease, and says what it sees
                    self._store.look(rollout.id, troubled, self.leadership.lease)

    def _follow(self) -> None:
        """Act on moves of the aliases that endpoints follow."""
        moves = {} if self._follower is None else self._follower.moves()
        if not moves or not self.leadership.keep():
            return
        assert self.leadership.lease is not None
        assert self._follower is not None
        for name, event in moves.items():
            try:
                self._follower.act(name, event, self.leadership.lease)
            except (Conflict, NotFound) as error:  # looked at again in the next turn
                self._tell_once(name, f"a move of its alias waits: {masked_text(str(error))}")
            except BasculeError as error:
                self._tell_once(name, masked_text(str(error)))

    def _tell_once(self, endpoint: str, said: str) -> None:
        if self._said.get(endpoint) != said:
            log.warning("endpoint %s: %s", endpoint, said)
        self._said[endpoint] = said

    def _count(self, stored: StoredRollout) -> None:
        """Tell what this server has counted for the plans of a rollout."""
        rollout = stored.rollout
        plans = [one for one in self._store.decisions(rollout.id) if one.plan_number is not None]
        cells = cells_of([one.decision.shares.candidate_percent / 100 for one in plans])
        numbers = [one.plan_number for one in plans if one.plan_number is not None]
        totals = self._server.arm_totals([(rollout.endpoint, number) for number in numbers])
        totals = [arm for arm in totals if arm.endpoint == rollout.endpoint]
        for decided, number, cell in zip(plans, numbers, cells, strict=True):
            stage = getattr(decided.decision.state, "stage", 0)
            arms = {one.arm: one for one in totals if one.plan_number == number}
            if arms:
                self._tell(rollout.id, f"{self._source}/{number}", counted(arms, stage, cell))
                self._compare_answers(rollout, number, arms)

    def _compare_answers(self, rollout: Rollout, plan: int, arms: Mapping[str, ArmTotals]) -> None:
        """Have the workers compare the answers, by events of the current version's first ones."""
        if all(guard.name != "answers" for guard in rollout.guards):
            return
        if rollout.id not in self._events:
            events = self._store.compared_events(rollout.id)
            if events is None:
                events = self._chosen_events(rollout, plan, arms)
            if events is None:
                return
            self._events[rollout.id] = [Event(*one) for one in events]
        self._server.compare_answers(rollout.endpoint, plan, self._events[rollout.id])

    def _chosen_events(
        self, rollout: Rollout, plan: int, arms: Mapping[str, ArmTotals]
    ) -> list[Any] | None:
        """What is stored: another server may be quicker. None where this one knows too little."""
        if CURRENT not in arms or arms[CURRENT].answers.looked < LEAST_SAMPLE:
            return None
        events = self._server.answer_events(rollout.endpoint, plan, CURRENT)
        if events is None:
            return None
        self._store.choose_events(rollout.id, events)
        return self._store.compared_events(rollout.id)

    def _outcomes(self, stored: StoredRollout, now: datetime) -> Cohorts:
        """The cohorts, counted anew where that is due: the older a rollout, the less often.

        Where the ledger cannot be read they stay as they were: other guards decide all the same.
        """
        rollout = stored.rollout
        if not any(guard.is_on_outcomes for guard in rollout.guards):
            return NO_COHORTS
        known = self._cohorts.get(rollout.id)
        started = time.monotonic()
        if known is not None and started < self._outcomes_due_s[rollout.id]:
            return known
        assert self.leadership.lease is not None
        stages = [
            Stage(
                decided.at, decided.decision.state.stage,
                decided.decision.shares.candidate_percent / 100,
            )
            for decided in self._store.decisions(rollout.id)
            if isinstance(decided.decision.state, Running | Waiting | Paused | Baking)
        ]  # fmt: skip
        self._uncounted.pop(rollout.id, None)
        try:
            counted = self._count_outcomes(rollout, stages, now)
        except Exception as error:  # of one rollout's ledger or columns
            problem = masked_text(f"{type(error).__name__}: {error}")
            self._uncounted[rollout.id] = f"outcomes cannot be counted: {problem}"
            self._tell_once(rollout.endpoint, f"rollout {rollout.id}: {problem}")
            log.debug("rollout %s", rollout.id, exc_info=error)
            cohorts = known or self._store.cohorts(rollout.id)
        else:
            cohorts = self._store.append_cohorts(rollout.id, counted, self.leadership.lease)
        age_s = (now - rollout.started_at).total_seconds()
        pause_s = max(_OUTCOMES_S, age_s / 200, 20 * (time.monotonic() - started))
        self._outcomes_due_s[rollout.id] = started + pause_s
        self._cohorts[rollout.id] = cohorts
        return cohorts

    def _tell(self, rollout: str, source: str, made: Interval) -> None:
        if self._told.get((rollout, source)) != made:
            self._store.put_counts(rollout, source, made)
            self._told[rollout, source] = made

    def _advance(self, stored: StoredRollout) -> None:
        rollout, now = stored.rollout, self._clock()
        endpoint = self._endpoints.endpoint(rollout.endpoint)
        assert self.leadership.lease is not None
        if self._is_superseded(stored, endpoint.current.plan):
            ended = superseded(stored, endpoint.current.plan, now)
            self._record(stored, ended, endpoint, now, keeps_plan=True)
            return
        if stored.latest is None:
            self._record(stored, start(rollout, now), endpoint, now)
            return
        table = self._intervals(stored)
        state = stored.latest.state
        cohorts = self._outcomes(stored, now)
        decision = decide(
            rollout, state, table_of(table), now=now, cohorts=cohorts,
            failures=self._store.load_failures(rollout.id, now),
        )  # fmt: skip
        if decision.state == state:
            if problem := self._uncounted.get(rollout.id, ""):
                decision = msgspec.structs.replace(
                    decision, trouble="; ".join(filter(None, (decision.trouble, problem))),
                    sentence=f"{decision.sentence}; {problem}",
                )  # fmt: skip
            seen = (stored.latest.intervals, stored.latest.revision, stored.latest.trouble)
            is_new = (decision.intervals, decision.revision, decision.trouble) != seen
            if is_new or time.monotonic() - self._looked_at_s.get(rollout.id, 0.0) > _LOOK_S:
                self._store.look(rollout.id, decision, self.leadership.lease)
                self._looked_at_s[rollout.id] = time.monotonic()
        else:
            self._record(stored, decision, endpoint, now)

    def _intervals(self, stored: StoredRollout) -> list[Interval]:
        """All sealed intervals, with those that are sealed now."""
        assert self.leadership.lease is not None
        known = self._tables.setdefault(stored.rollout.id, [])
        if len(known) < stored.intervals:
            known += [one for one, _ in self._store.intervals(stored.rollout.id, len(known))]
        known += self._store.seal(stored.rollout.id, self.leadership.lease)
        return known

    def _is_superseded(self, stored: StoredRollout, plan: Plan) -> bool:
        if stored.latest is None:  # it was asked for against a version that is current no more
            return plan.current.version != stored.rollout.current
        made = [one.plan_number for one in self._store.decisions(stored.rollout.id)]
        return plan.number != max((number for number in made if number), default=plan.number)

    def _record(
        self, stored: StoredRollout, decision: Decision, endpoint: Endpoint, now: datetime,
        *, keeps_plan: bool = False,
    ) -> None:  # fmt: skip
        rollout, before = stored.rollout, endpoint.current.plan
        plan = plan_of(rollout, decision, before)
        is_same = plan.arms == before.arms and plan.shadow == before.shadow
        changes = not keeps_plan and not (is_same and plan.rollout == before.rollout)
        self._store.record(
            stored,
            StoredDecision(
                number=stored.decisions + 1, at=now, made_by=self.leadership.holder,
                before=None if stored.latest is None else stored.latest.state,
                decision=decision, plan_number=plan.number if changes else None,
            ),
            StoredPlan(plan, now, self.leadership.holder, decision.sentence) if changes else None,
            has_ended=isinstance(decision.state, FINAL), lease=self.leadership.lease,
        )  # fmt: skip
        log.info("rollout %s: %s", rollout.id, decision.sentence)
        if isinstance(decision.state, FINAL):
            self._tables.pop(rollout.id, None)
            self._cohorts.pop(rollout.id, None)
            self._uncounted.pop(rollout.id, None)


def counted(arms: Mapping[str, ArmTotals], stage: int, cell: Cell) -> Told:
    """What a server has counted for the arms of one plan.

    A server that has one arm of a plan is behind a router, which chooses the arm: nothing is known
    of its shares at the moment of a change.
    """
    shadow = arms.get(SHADOW_ARM)
    candidate = shadow or arms.get(CANDIDATE)
    is_split = CURRENT in arms and CANDIDATE in arms
    return Told(
        0, stage, _arm(arms.get(CURRENT)), _arm(candidate),
        compared=0 if shadow is None else shadow.requests,
        disagreements=0 if shadow is None else shadow.disagreements,
        pairs=PairCounts() if candidate is None else PairCounts(*candidate.answers.pairs),
        share=cell.share if is_split else 0.0, low=cell.low, high=cell.high,
        firsts=packed(one.firsts for one in arms.values()),
    )  # fmt: skip


def _arm(totals: ArmTotals | None) -> ArmCounts:
    if totals is None:
        return ArmCounts()
    found = totals.answers
    answers = AnswerCounts(
        found.looked, found.unusable, found.compared, found.changes, found.events
    )
    return ArmCounts(
        totals.requests, totals.errors, totals.fallbacks, totals.durations, answers=answers,
        bound=totals.bound, bound_errors=totals.bound_errors,
        bound_fallbacks=totals.bound_fallbacks,
    )  # fmt: skip
