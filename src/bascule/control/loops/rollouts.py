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
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import psutil

from bascule.control.loops.turning import turning
from bascule.core import BasculeError, Conflict, NotFound, Unavailable, masked_text
from bascule.endpoints import CANDIDATE, CURRENT, Endpoint, EndpointStore, Plan, StoredPlan
from bascule.release.rollouts import (
    FINAL,
    NO_COHORTS,
    AliasFollower,
    ArmCounts,
    Cell,
    Cohorts,
    Decision,
    Interval,
    Rollout,
    Rollouts,
    RolloutStore,
    StoredDecision,
    StoredRollout,
    Told,
    cells_of,
    decide,
    packed,
    plan_of,
    stages_of,
    start,
    superseded,
    table_of,
)
from bascule.serving.telemetry import LEAST_SAMPLE, SHADOW_ARM, ArmTotals, Event, PairCounts

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue, Lease
    from bascule.control.link import ServerLink
    from bascule.control.parts import CountOutcomes

log = logging.getLogger(__name__)

LEASE = "rollouts"
_LEASE_S = 5.0
_TURN_S = 0.5
_IDLE_S = 2.0
_OUTCOMES_S = 2.0
_LOOK_S = 5.0


def running_rollouts(
    server: ServerLink,
    open_catalogue: Callable[[], Catalogue],
    count_outcomes: CountOutcomes,
    open_rollouts: Callable[[], Rollouts] | None = None,
    *,
    after: threading.Event,
) -> AbstractContextManager[None]:
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

    return turning("rollouts", run, after=after, pause_s=_IDLE_S)


@dataclass(slots=True)
class _Known:
    """What a process remembers of a rollout under way; all of it can be read or counted again.

    Attributes:
        counts: As they were stored last, by source.
        decisions: Those that were stored, in order; none of them ever changes.
        intervals: The sealed ones, in order.
        cohorts: As of the latest count of outcomes.
        outcomes_due_s: When they are counted again, of the monotonic clock.
        uncounted: Why outcomes could not be counted; empty where they could.
        looked_at_s: When a look that changed nothing was stored, likewise.
        events: By which answers are compared.
    """

    counts: dict[str, Interval] = field(default_factory=dict)
    decisions: list[StoredDecision] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    cohorts: Cohorts | None = None
    outcomes_due_s: float = 0.0
    uncounted: str = ""
    looked_at_s: float = 0.0
    events: list[Event] | None = None


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
        self._logged: dict[str, str] = {}
        self._known: dict[str, _Known] = {}
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
        ids = [stored.rollout.id for stored in active]
        self._known = {name: self._known.get(name) or _Known() for name in ids}
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
            self._log_once(rollout.endpoint, f"rollout {rollout.id} cannot be decided: {problem}")
            log.debug("rollout %s", rollout.id, exc_info=error)
            if stored.latest is not None and self.leadership.lease is not None:
                troubled = msgspec.structs.replace(
                    stored.latest, trouble=problem,
                    sentence=f"cannot be decided, so its shares stay: {problem}",
                )  # fmt: skip
                with suppress(Conflict):  # another process has the lease, and says what it sees
                    self._store.look(stored, troubled, self.leadership.lease)

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
                self._log_once(name, f"a move of its alias waits: {masked_text(str(error))}")
            except BasculeError as error:
                self._log_once(name, masked_text(str(error)))

    def _log_once(self, endpoint: str, problem: str) -> None:
        if self._logged.get(endpoint) != problem:
            log.warning("endpoint %s: %s", endpoint, problem)
        self._logged[endpoint] = problem

    def _count(self, stored: StoredRollout) -> None:
        """Store what this server has counted for the plans of a rollout."""
        rollout, stored_counts = stored.rollout, self._known[stored.rollout.id].counts
        plans = [
            (decided.decision, decided.plan_number)
            for decided in self._decisions(stored)
            if decided.plan_number is not None
        ]
        cells = cells_of([decision.shares.candidate_percent / 100 for decision, _ in plans])
        totals = self._server.arm_totals([(rollout.endpoint, number) for _, number in plans])
        for (decision, number), cell in zip(plans, cells, strict=True):
            arms = {
                arm.arm: arm
                for arm in totals
                if (arm.endpoint, arm.plan_number) == (rollout.endpoint, number)
            }
            if not arms:
                continue
            counts = counted(arms, getattr(decision.state, "stage", 0), cell)
            source = f"{self._source}/{number}"
            if stored_counts.get(source) != counts:
                self._store.put_counts(rollout.id, source, counts)
                stored_counts[source] = counts
            self._compare_answers(rollout, number, arms)

    def _compare_answers(self, rollout: Rollout, plan: int, arms: Mapping[str, ArmTotals]) -> None:
        """Have the workers compare the answers, by events of the current version's first ones."""
        if all(guard.name != "answers" for guard in rollout.guards):
            return
        known, current = self._known[rollout.id], arms.get(CURRENT)
        if known.events is None:
            events = self._store.compared_events(rollout.id)
            if events is None and current and current.answers.looked >= LEAST_SAMPLE:
                chosen = self._server.answer_events(rollout.endpoint, plan, CURRENT)
                if chosen is not None:  # another server may be quicker
                    events = self._store.choose_events(rollout.id, chosen)
            if events is None:
                return
            known.events = [Event(*event) for event in events]
        self._server.compare_answers(rollout.endpoint, plan, known.events)

    def _decisions(self, stored: StoredRollout) -> list[StoredDecision]:
        """All until `stored` was read, of which the new ones are read."""
        known = self._known[stored.rollout.id].decisions
        if len(known) < stored.decisions:
            known += self._store.decisions(stored.rollout.id, after=len(known))
        return known

    def _outcomes(
        self, stored: StoredRollout, latest: Decision, lease: Lease, now: datetime
    ) -> Cohorts:
        """The cohorts, counted anew where that is due: the older a rollout, the less often.

        Due as well where another process, which had the lease meanwhile, has counted them since.
        Where the ledger cannot be read they stay as they were: other guards decide all the same.
        """
        rollout = stored.rollout
        if not any(guard.is_on_outcomes for guard in rollout.guards):
            return NO_COHORTS
        known = self._known[rollout.id]
        started = time.monotonic()
        is_newest = known.cohorts is not None and known.cohorts.revision >= latest.revision
        if known.cohorts is not None and is_newest and started < known.outcomes_due_s:
            return known.cohorts
        stages = stages_of(self._decisions(stored))
        known.uncounted = ""
        try:
            counted = self._count_outcomes(rollout, stages, now)
        except Exception as error:  # of one rollout's ledger or columns
            problem = masked_text(f"{type(error).__name__}: {error}")
            known.uncounted = f"outcomes cannot be counted: {problem}"
            self._log_once(rollout.endpoint, f"rollout {rollout.id}: {problem}")
            log.debug("rollout %s", rollout.id, exc_info=error)
            known.cohorts = self._store.cohorts(rollout.id)
        else:
            known.cohorts = self._store.append_cohorts(rollout.id, counted, lease)
        age_s = (now - rollout.started_at).total_seconds()
        pause_s = max(_OUTCOMES_S, age_s / 200, 20 * (time.monotonic() - started))
        known.outcomes_due_s = started + pause_s
        return known.cohorts

    def _advance(self, stored: StoredRollout) -> None:
        rollout, now, lease = stored.rollout, self._clock(), self.leadership.lease
        endpoint = self._endpoints.endpoint(rollout.endpoint)
        assert lease is not None
        if self._is_superseded(stored, endpoint.current.plan):
            ended = superseded(stored, endpoint.current.plan, now)
            self._record(stored, ended, endpoint, now, keeps_plan=True)
            return
        if stored.latest is None:
            self._record(stored, start(rollout, now), endpoint, now)
            return
        known, state = self._known[rollout.id], stored.latest.state
        table = table_of(self._intervals(stored, lease))
        decision = decide(
            rollout, state, table, now=now,
            cohorts=self._outcomes(stored, stored.latest, lease, now),
            failures=self._store.load_failures(rollout.id),
        )  # fmt: skip
        if decision.state == state:
            if problem := known.uncounted:
                decision = msgspec.structs.replace(
                    decision, trouble="; ".join(filter(None, (decision.trouble, problem))),
                    sentence=f"{decision.sentence}; {problem}",
                )  # fmt: skip
            seen = (stored.latest.intervals, stored.latest.revision, stored.latest.trouble)
            is_new = (decision.intervals, decision.revision, decision.trouble) != seen
            if is_new or time.monotonic() - known.looked_at_s > _LOOK_S:
                self._store.look(stored, decision, lease)
                known.looked_at_s = time.monotonic()
        else:
            self._record(stored, decision, endpoint, now)

    def _intervals(self, stored: StoredRollout, lease: Lease) -> list[Interval]:
        """All sealed intervals, with those that are sealed now.

        Another process may have sealed some since `stored` was read.
        """
        known = self._known[stored.rollout.id].intervals
        sealed = self._store.seal(stored.rollout.id, lease)
        before = sealed[0].number if sealed else stored.intervals
        if len(known) < before:
            sealed = [
                interval for interval, _ in self._store.intervals(stored.rollout.id, len(known))
            ]
        known += sealed
        return known

    def _is_superseded(self, stored: StoredRollout, plan: Plan) -> bool:
        if stored.latest is None:  # it was asked for against a version that is current no more
            return plan.current.version != stored.rollout.current
        numbers = [decided.plan_number or 0 for decided in self._decisions(stored)]
        return plan.number != (max(numbers, default=0) or plan.number)

    def _record(
        self, stored: StoredRollout, decision: Decision, endpoint: Endpoint, now: datetime,
        *, keeps_plan: bool = False,
    ) -> None:  # fmt: skip
        rollout, before = stored.rollout, endpoint.current.plan
        plan = plan_of(rollout, decision, before)
        changes = not keeps_plan and plan.numbered(before.number) != before
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
        compared=0 if shadow is None else shadow.requests - shadow.errors,
        disagreements=0 if shadow is None else shadow.disagreements,
        pairs=PairCounts() if candidate is None else candidate.pairs,
        share=cell.share if is_split else 0.0, low=cell.low, high=cell.high,
        firsts=packed(arm.firsts for arm in arms.values()),
    )  # fmt: skip


def _arm(totals: ArmTotals | None) -> ArmCounts:
    if totals is None:
        return ArmCounts()
    return ArmCounts(
        totals.requests, totals.errors, totals.fallbacks, totals.durations,
        answers=totals.answers, bound=totals.bound, bound_errors=totals.bound_errors,
        bound_fallbacks=totals.bound_fallbacks,
    )  # fmt: skip
