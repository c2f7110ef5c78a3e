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
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from bascule.control.turning import turning
from bascule.core import BasculeError, Conflict, NotFound, masked_text
from bascule.endpoints import CANDIDATE, CURRENT, Endpoint, EndpointStore, Plan, StoredPlan
from bascule.release.rollouts import (
    FINAL,
    AliasFollower,
    ArmCounts,
    Decision,
    Interval,
    Rollout,
    Rollouts,
    RolloutStore,
    StoredDecision,
    StoredRollout,
    decide,
    plan_of,
    start,
    superseded,
    table_of,
    thresholds_s,
)
from bascule.serving.telemetry import BUCKETS_S, SHADOW_ARM, ArmTotals, Totals

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
_LEAST_DURATIONS = 200
_ALIKE_SHARE = 0.6
_UNKNOWN_S = {0.5: 0.001, 0.75: 0.002, 0.9: 0.003, 0.95: 0.005, 0.99: 0.01, 0.999: 0.02}
"""Thresholds where too few durations of the current version are known. Any value keeps the promised
error rates; one far from the true quantile finds less."""

JudgedArms = Callable[[Rollout], Mapping[str, tuple[int, int]]]
"""By arm: answers with an outcome since the start of a rollout, and of them the wrong ones."""


@contextmanager
def running_rollouts(
    server: ServerLink,
    open_catalogue: Callable[[], Catalogue],
    judged: JudgedArms,
    open_rollouts: Callable[[], Rollouts] | None = None,
    *,
    after: threading.Event,
) -> Iterator[None]:
    """Run rollouts while the block runs, on a thread.

    Args:
        server: Whose arms are counted.
        open_catalogue: Opens the catalogue.
        judged: Asks the outcomes.
        open_rollouts: Opens what deploys when an alias is moved that an endpoint follows.
        after: Set once opening the catalogue delays nothing else.
    """

    def run(ended: threading.Event) -> None:
        rollouts = None if open_rollouts is None else open_rollouts()
        RolloutRunner(server, open_catalogue(), judged, rollouts).run(ended)

    with turning("rollouts", run, after=after, pause_s=_IDLE_S):
        yield


class RolloutRunner:
    """The part of one server in its rollouts."""

    def __init__(
        self,
        server: ServerLink,
        catalogue: Catalogue,
        judged: JudgedArms,
        rollouts: Rollouts | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        from bascule.catalogue import Leadership, Leases

        self._server = server
        self._store = RolloutStore(catalogue)
        self._endpoints = EndpointStore(catalogue)
        self._judged = judged
        self._follower = None if rollouts is None else AliasFollower(rollouts)
        self._clock = clock
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self.leadership = Leadership(Leases(catalogue), LEASE, holder, _LEASE_S)
        self._told: dict[tuple[str, str], Interval] = {}
        self._said: dict[str, str] = {}
        self._outcomes_at_s = 0.0
        self._looked_at_s: dict[str, float] = {}
        self._tables: dict[str, list[Interval]] = {}
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
        if not active:
            return False
        for stored in active:
            self._count(stored)
        if self.leadership.keep():
            for stored in active:
                with suppress(Conflict):  # decided on meanwhile: looked at again in the next turn
                    self._advance(stored)
        return True

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
        stages = {
            one.plan_number: getattr(one.decision.state, "stage", 0)
            for one in self._store.decisions(rollout.id)
            if one.plan_number is not None
        }
        totals = [one for one in self._server.arm_totals() if one.endpoint == rollout.endpoint]
        for number, stage in stages.items():
            arms = {one.arm: one for one in totals if one.plan_number == number}
            if arms:
                self._tell(rollout.id, f"{self._source}/{number}", counted(arms, stage))
        names = {guard.name for guard in rollout.guards}
        if "accuracy" in names and self.leadership.lease is not None and self._are_outcomes_due():
            stage = getattr(stored.latest.state, "stage", 0) if stored.latest else 0
            self._tell(rollout.id, "outcomes", self._outcomes(rollout, stage))

    def _outcomes(self, rollout: Rollout, stage: int) -> Interval:
        judged = self._judged(rollout)
        current, candidate = (judged.get(arm, (0, 0)) for arm in (CURRENT, CANDIDATE))
        return Interval(
            0, stage, ArmCounts(judged=current[0], wrong=current[1]),
            ArmCounts(judged=candidate[0], wrong=candidate[1]),
        )  # fmt: skip

    def _are_outcomes_due(self) -> bool:
        is_due = time.monotonic() >= self._outcomes_at_s
        if is_due:
            self._outcomes_at_s = time.monotonic() + _OUTCOMES_S
        return is_due

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
        failures = self._store.load_failures(rollout.id, now)
        decision = decide(rollout, state, table_of(table), now=now, failures=failures)
        if decision.state == state:
            is_new = (decision.intervals, decision.trouble) != (
                stored.latest.intervals, stored.latest.trouble,
            )  # fmt: skip
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
        plan = plan_of(rollout, decision, before, self._thresholds(rollout))
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

    def _thresholds(self, rollout: Rollout) -> tuple[float, ...]:
        """Of a stage, from the durations of the current version on this server."""
        named = zip(self._server.labels, self._server.totals(), strict=False)
        found = [one for label, one in named if f"{label.model}/{label.version}" == rollout.current]
        return thresholds_s(rollout.guards, lambda share: duration_s(found, share))


def counted(arms: Mapping[str, ArmTotals], stage: int) -> Interval:
    """What a server has counted for the arms of one plan."""
    shadow = arms.get(SHADOW_ARM)
    candidate = shadow or arms.get(CANDIDATE)
    return Interval(
        0, stage, _arm(arms.get(CURRENT)), _arm(candidate),
        compared=0 if shadow is None else shadow.requests,
        disagreements=0 if shadow is None else shadow.disagreements,
    )  # fmt: skip


def _arm(totals: ArmTotals | None) -> ArmCounts:
    if totals is None:
        return ArmCounts()
    slower = tuple(totals.slower) if any(totals.slower) else ()
    return ArmCounts(totals.requests, totals.errors, totals.fallbacks, slower)


def duration_s(found: list[Totals], share: float) -> float:
    """A quantile of the durations that were counted, between the bounds of its bucket.

    Of a bucket with most of the answers it is the upper bound of the next one: durations that are
    alike say nothing of where they are in it, a plan adds to them, and a threshold below all of
    them would find no slower version.
    """
    counts = [sum(column) for column in zip(*(one.buckets for one in found), strict=True)]
    total = sum(counts)
    if total < _LEAST_DURATIONS:
        return _UNKNOWN_S[share]
    bounds = (0.0, *BUCKETS_S, BUCKETS_S[-1] * 2)
    below = 0
    for place, (low, high, count) in enumerate(zip(bounds, bounds[1:], counts, strict=False), 2):
        if below + count >= share * total:
            if count > _ALIKE_SHARE * total:
                return float(bounds[min(place, len(bounds) - 1)])
            return float(low + (high - low) * (share * total - below) / count)
        below += count
    return bounds[-1]
