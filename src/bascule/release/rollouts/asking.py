"""What people ask of rollouts: begin, look, pause, resume, abort, promote, replay."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from bascule.core import Conflict, Invalid
from bascule.endpoints import Endpoints, Plan, StoredPlan
from bascule.release.rollouts.deciding import Command, obey, replay, start
from bascule.release.rollouts.evidence import table_of
from bascule.release.rollouts.forecast import Forecast, forecast
from bascule.release.rollouts.guards import (
    DEFAULT_GUARDS,
    OUTCOME_GUARDS,
    SHADOW_GUARDS,
    parse_guard,
    thresholds_s,
)
from bascule.release.rollouts.plan import Decision, Rollout, Shares, check_rollout
from bascule.release.rollouts.states import FINAL, Aborted, Running, State
from bascule.release.rollouts.store import (
    RolloutStore,
    StoredDecision,
    StoredRollout,
    Superseded,
    plan_of,
)

_FORECAST_REQUESTS = 100_000
_TRIES = 20


class RolloutRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `deploy` says of a rollout. None takes the default.

    Attributes:
        version: The candidate: `late/5`, `late@candidate`.
        endpoint: The model's name if empty.
        strategy: See `STRATEGIES`.
        guards: As texts: `errors +1 pp`.
        steps_percent: The candidate's share in each stage.
        step_s: How long a stage lasts at least.
        max_s: When it ends without a promotion.
        min_requests: Of the candidate in each stage.
        alpha: The promised share of good versions that are rolled back.
        beta: The promised share of harmful versions that are promoted.
        bake_s: How long a promoted version is compared with the former one.
        needs_approval: Whether the last step waits for a person.
        reason: Why.
    """

    version: str
    endpoint: str = ""
    strategy: str = "canary"
    guards: tuple[str, ...] = ()
    steps_percent: tuple[float, ...] | None = None
    step_s: float | None = None
    max_s: float | None = None
    min_requests: int | None = None
    alpha: float | None = None
    beta: float | None = None
    bake_s: float | None = None
    needs_approval: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollout that was asked for, or would be, and what it will find."""

    rollout: Rollout
    sentence: str
    forecasts: Sequence[Forecast]


class RolloutBook(Protocol):
    """The port that `Rollouts` and `RemoteRollouts` implement; see `Rollouts`."""

    def begin(self, asked: RolloutRequest, *, by: str, dry_run: bool = False) -> Begun: ...

    def rollouts(self, endpoint: str | None = None) -> list[StoredRollout]: ...

    def get(self, name: str) -> StoredRollout: ...

    def decisions(self, name: str) -> list[StoredDecision]: ...

    def evidence(self, name: str) -> list[float | None]: ...

    def command(self, name: str, command: Command, *, by: str, reason: str) -> Decision: ...

    def replay(self, name: str) -> list[str]: ...


_GUARDS = {"shadow": SHADOW_GUARDS, "ab": OUTCOME_GUARDS, "bandit": OUTCOME_GUARDS}
_STEPS = {
    "shadow": (10.0,),
    "ab": (50.0,),
    "bandit": (50.0,),
    "all": (100.0,),
    "blue-green": (100.0,),
}


class Rollouts:
    """The rollouts of a catalogue."""

    def __init__(
        self,
        store: RolloutStore,
        endpoints: Endpoints,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._clock = clock

    def begin(self, asked: RolloutRequest, *, by: str, dry_run: bool = False) -> Begun:
        """Ask for a rollout. The controller of a server that serves the endpoint begins it.

        Raises:
            Invalid: A field has no meaning, or nothing is served yet to compare with.
            Refused: The version may not be served, or has another signature.
            Conflict: The endpoint has a rollout under way.
        """
        deployed = self._endpoints.deploy(
            asked.version, by=by, to=asked.endpoint, strategy="all", dry_run=True
        )
        before = deployed.before
        if before is None:
            raise Invalid(
                f"nothing is served as {deployed.plan.endpoint} yet, so there is nothing to "
                "compare with",
                hint=f"bascule deploy {asked.version} --strategy all",
            )
        rollout = self._rollout(asked, before, deployed.plan)
        thresholds_s(rollout.guards, lambda share: share)  # says if there are too many
        made = start(rollout, rollout.started_at)
        if not dry_run:
            is_new = before.number == 1 and not self._is_stored(before.endpoint)
            first = (
                StoredPlan(before, rollout.started_at, by, "what was served") if is_new else None
            )
            self._store.add(rollout, by=by, reason=asked.reason, first=first)
        found = forecast(rollout, rates={}, requests=_FORECAST_REQUESTS) if dry_run else ()
        return Begun(rollout, made.sentence, found)

    def rollouts(self, endpoint: str | None = None) -> list[StoredRollout]:
        """All, or those of an endpoint; the oldest first."""
        return self._store.rollouts(endpoint)

    def get(self, name: str) -> StoredRollout:
        """One by its id, or the latest of an endpoint; raises `NotFound`."""
        return self._store.get(name)

    def decisions(self, name: str) -> list[StoredDecision]:
        """The decisions of a rollout, in order."""
        return self._store.decisions(self.get(name).rollout.id)

    def evidence(self, name: str) -> list[float | None]:
        """The logarithm of the evidence of harm after each interval; None where no one looked."""
        return [log_e for _, log_e in self._store.intervals(self.get(name).rollout.id)]

    def command(self, name: str, command: Command, *, by: str, reason: str) -> Decision:
        """Do what a person wants.

        Raises:
            NotFound: There is no such rollout.
            Conflict: It has no meaning now, or the controller decided meanwhile.
        """
        for left in reversed(range(_TRIES)):
            try:
                return self._command(self.get(name), command, by, reason)
            except Superseded:  # the controller, which decides twice a second, was quicker
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _command(self, stored: StoredRollout, command: Command, by: str, reason: str) -> Decision:
        rollout, now = stored.rollout, self._clock()
        state: State = Running(0, now) if stored.latest is None else stored.latest.state
        decision = obey(rollout, state, command, by, reason, now)
        plan = self._endpoints.endpoint(rollout.endpoint).current.plan
        made = plan_of(rollout, decision, plan, plan.slower_than_s)
        changes = stored.latest is not None and made.numbered(plan.number) != plan
        self._store.record(
            stored,
            StoredDecision(
                number=stored.decisions + 1, at=now, made_by=by,
                before=None if stored.latest is None else state, decision=decision,
                plan_number=made.number if changes else None,
            ),
            StoredPlan(made, now, by, decision.sentence) if changes else None,
            has_ended=isinstance(decision.state, FINAL),
        )  # fmt: skip
        return decision

    def replay(self, name: str) -> list[str]:
        """Make every decision of the controller again; a sentence for each that differs."""
        stored = self.get(name)
        decided = self.decisions(name)
        by_evidence = [one for one in decided if one.decision.intervals]
        table = table_of(one for one, _ in self._store.intervals(stored.rollout.id))
        return [
            f"decision {one.number} was {one.decision.sentence!r} and is now {again.sentence!r}"
            for one, again in replay(stored.rollout, by_evidence, table)
        ]

    def _rollout(self, asked: RolloutRequest, before: Plan, after: Plan) -> Rollout:
        texts = asked.guards
        guards = tuple(map(parse_guard, texts)) or _GUARDS.get(asked.strategy, DEFAULT_GUARDS)
        given = {
            name: getattr(asked, name)
            for name in ("step_s", "max_s", "min_requests", "alpha", "beta", "bake_s")
            if getattr(asked, name) is not None
        }
        steps = asked.steps_percent or _STEPS.get(asked.strategy)
        if steps is not None:
            given["steps_percent"] = tuple(steps)
        for name in ("step_s", "max_s", "bake_s", "min_requests"):
            if given.get(name, 0) < 0:
                raise Invalid(f"{name} must be 0 or more, not {given[name]:g}")
        return check_rollout(
            Rollout(
                id=f"{after.endpoint}-{secrets.token_hex(3)}", started_at=self._clock(),
                endpoint=after.endpoint, candidate=after.current.version,
                current=before.current.version, strategy=asked.strategy, guards=guards,
                needs_approval=asked.needs_approval, **given,
            )
        )  # fmt: skip

    def _is_stored(self, endpoint: str) -> bool:
        return any(one.name == endpoint for one in self._endpoints.endpoints())


def superseded(stored: StoredRollout, plan: Plan, now: datetime) -> Decision:
    """What becomes of a rollout whose endpoint got another plan meanwhile."""
    if stored.ended_at is not None:
        raise Conflict(f"rollout {stored.rollout.id} has ended")
    return Decision(
        state=Aborted(now), shares=Shares(0.0),
        sentence=f"ended: plan {plan.number} of {plan.endpoint} was made meanwhile",
    )  # fmt: skip
