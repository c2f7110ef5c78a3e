"""What people ask of rollouts: begin, look, pause, resume, abort, promote, replay."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.bundle.disk import generates_text
from bascule.core import Conflict, Invalid
from bascule.endpoints import (
    STRATEGIES,
    Approve,
    ContextFeature,
    Deployed,
    DeployRequest,
    Endpoints,
    Move,
    Plan,
    PlanEvent,
    StoredPlan,
    by_anybody,
    check_follow,
    follows_of,
)
from bascule.release.rollouts.counting import stages_of
from bascule.release.rollouts.deciding import Command, obey, replay, start
from bascule.release.rollouts.evidence import table_of
from bascule.release.rollouts.forecast import Begun, forecast
from bascule.release.rollouts.guards import (
    DEFAULT_GUARDS,
    OUTCOME_GUARDS,
    SHADOW_GUARDS,
    TEXT_GUARDS,
    check_limits,
    parse_guard,
)
from bascule.release.rollouts.losses import RATES
from bascule.release.rollouts.plan import (
    ON_OUTCOMES,
    Decision,
    Rollout,
    Shares,
    StoredDecision,
    StoredRollout,
    check_rollout,
)
from bascule.release.rollouts.states import FINAL, Aborted, Running, State
from bascule.release.rollouts.store import (
    RolloutStore,
    Superseded,
    plan_of,
)

if TYPE_CHECKING:
    from bascule.monitoring.ledger import Ledger
    from bascule.release.rollouts.valuing import SteeredValues

_FORECAST_REQUESTS = 100_000
_TRIES = 20


class RolloutRequest(
    DeployRequest, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What `deploy` says of a rollout. What is None or empty takes the default of the settings.

    Attributes:
        guards: As texts: `errors +1 pp`.
        steps_percent: The candidate's share in each stage.
        step_s: How long a stage lasts at least.
        max_s: When it ends without a promotion.
        min_requests: Of the candidate in each stage.
        alpha: The promised share of good versions that are rolled back.
        beta: The promised share of harmful versions that are promoted.
        bake_s: How long a promoted version is compared with the former one.
        needs_approval: Whether the last step waits for a person.
        outcomes_sample: The share of the predictions that get an outcome; see `Rollout`.
        load_tries: After so many tries a host that cannot load the version ends the rollout.
        allow_answers: Whether the answers may differ by more than the guard `answers` allows.
        context: Of strategy `contextual`, the names of the inputs by which requests are steered.
    """

    guards: tuple[str, ...] = ()
    steps_percent: tuple[float, ...] | None = None
    step_s: float | None = None
    max_s: float | None = None
    min_requests: int | None = None
    alpha: float | None = None
    beta: float | None = None
    bake_s: float | None = None
    needs_approval: bool | None = None
    outcomes_sample: float | None = None
    load_tries: int | None = None
    allow_answers: bool = False
    context: tuple[str, ...] = ()

    @property
    def deploys_with(self) -> dict[str, Any]:
        """What it says beside version, endpoint, reason and source: for later versions too."""
        said: dict[str, Any] = msgspec.to_builtins(self)
        return {
            name: value
            for name, value in said.items()
            if name not in ("version", "endpoint", "reason", "follow", "allow_answers")
        }


_GUARDS = {"shadow": SHADOW_GUARDS} | dict.fromkeys(ON_OUTCOMES, OUTCOME_GUARDS)
_STEPS = {
    "shadow": (10.0,),
    "all": (100.0,),
    "blue-green": (100.0,),
} | dict.fromkeys(ON_OUTCOMES, (50.0,))


class Rollouts:
    """The rollouts of a catalogue."""

    def __init__(
        self,
        store: RolloutStore,
        endpoints: Endpoints,
        *,
        defaults: Mapping[str, Any] | None = None,
        prepare: Callable[[Rollout], Rollout] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        approve: Approve = by_anybody,
        open_ledger: Callable[[], Ledger] | None = None,
    ) -> None:
        """Open the rollouts.

        Args:
            store: Where they are.
            endpoints: Of the same catalogue.
            defaults: Fields of requests, from the settings; `needs_approval` is a rule.
            prepare: See `preparing.prepare`; without it, guards that need a scale are refused.
            clock: Now.
            approve: Takes the approval of the caller, where one is asked for.
            open_ledger: Of the answers, for `values`.
        """
        self.store = store
        self.endpoints = endpoints.guarded(self.check_approved)
        self._approve = approve
        self._defaults = defaults or {}
        self._prepare = prepare or _refuse_scales
        self._clock = clock
        self._open_ledger = open_ledger

    def check_approved(self, endpoint: str) -> None:
        """Raise `Refused` where approvals are asked for, and the caller may not approve."""
        if self.asks_approver(endpoint):
            self._approve(endpoint)

    def asks_approver(self, endpoint: str) -> bool:
        """Whether to change at once what an endpoint answers takes the right to approve.

        By the settings, or because a rollout is under way that waits for an approval: another act
        must not be the way around it.
        """
        if self._defaults.get("needs_approval"):
            return True
        return any(
            one.rollout.needs_approval and one.rollout.endpoint == endpoint
            for one in self.store.active()
        )

    def deploy(
        self, asked: RolloutRequest, *, by: str, dry_run: bool = False, move: Move | None = None
    ) -> Deployed | Begun:
        """Make a version answer an endpoint: at once, or by a rollout, as the request says.

        The first version of an endpoint has nothing to be compared with: it is deployed at once,
        unless the request itself names a strategy with evidence and no alias to follow.

        Args:
            asked: The request.
            by: The user.
            dry_run: Check and decide, and change nothing.
            move: The move of an alias that is the cause.

        Raises:
            BasculeError: See `Endpoints.deploy` and `begin`.
        """
        chosen, _ = self._filled(asked, "all")
        strategy = chosen.strategy
        wants_evidence = any(
            (asked.guards, asked.steps_percent, asked.bake_s, chosen.needs_approval)
        )
        if strategy in STRATEGIES and not wants_evidence:
            return self._deploy(asked, strategy, by, dry_run, move)
        may_be_first = asked.follow or not asked.strategy or strategy in STRATEGIES
        if may_be_first and self.endpoints.trial(asked.version, asked.endpoint).before is None:
            return self._deploy(asked, "all", by, dry_run, move)
        return self.begin(asked, by=by, dry_run=dry_run, move=move, otherwise="all")

    def _deploy(
        self, asked: RolloutRequest, strategy: str, by: str, dry_run: bool, move: Move | None
    ) -> Deployed:
        plain = DeployRequest(
            version=asked.version, endpoint=asked.endpoint, strategy=strategy,
            reason=asked.reason, follow=asked.follow,
        )  # fmt: skip
        return self.endpoints.deploy(
            plain, by=by, dry_run=dry_run, deploys_with=asked.deploys_with, move=move
        )

    def begin(
        self, asked: RolloutRequest, *, by: str, dry_run: bool = False, move: Move | None = None,
        otherwise: str = "canary",
    ) -> Begun:  # fmt: skip
        """Ask for a rollout. The controller of a server that serves the endpoint begins it.

        Args:
            asked: The request.
            by: The user.
            dry_run: Check and forecast, and change nothing.
            move: The move of an alias that is the cause.
            otherwise: The strategy if neither the request nor the settings name one.

        Raises:
            Invalid: A field has no meaning, or nothing is served yet to compare with.
            Refused: The version may not be served, or has another signature.
            Conflict: The endpoint has a rollout under way.
        """
        chosen, from_settings = self._filled(asked, otherwise)
        check_follow(asked.follow)
        deployed = self.endpoints.trial(asked.version, asked.endpoint)
        before = deployed.before
        if before is None:
            raise Invalid(
                f"nothing is served as {deployed.plan.endpoint} yet, so there is nothing to "
                "compare with",
                hint=f"bascule deploy {asked.version} --strategy all; or try again in a few "
                "seconds, if a server was started just now",
            )
        self.endpoints.check_in_use(before.current.version)
        if chosen.strategy == "contextual" and before.sticky_field:
            raise Invalid(
                f"requests with a key are not steered; all have one here: {before.sticky_field}",
                hint="use --strategy bandit, or a plan without sticky_field",
            )
        rollout = self._prepare(self._rollout(chosen, before, deployed.plan))
        check_limits(rollout.guards)
        made = start(rollout, rollout.started_at)
        if not dry_run:
            first = None
            if not self._is_stored(before.endpoint):
                first = StoredPlan(before, rollout.started_at, by, "what was served")
            follows = follows_of(asked.follow, asked.deploys_with)
            self.store.add(
                rollout, by=by, reason=asked.reason, first=first, follows=follows, move=move,
                from_settings=from_settings,
            )  # fmt: skip
        found = forecast(rollout, rates={}, requests=_FORECAST_REQUESTS) if dry_run else ()
        return Begun(rollout, made.sentence, found, from_settings)

    def delete_endpoint(self, name: str, *, by: str, reason: str) -> str:
        """Delete an endpoint; a sentence says what answers its name then. Its history stays.

        Raises:
            NotFound: There is no such endpoint.
            Invalid: There is no reason.
            Conflict: It has a rollout under way.
            Refused: This takes an approval.
        """
        if not reason.strip():
            raise Invalid("an endpoint is deleted for a reason", hint='--reason "not used"')
        plan = self.endpoints.endpoint(name).current.plan
        self.endpoints.check_approved(plan, None, name)
        current = plan.current.version
        is_model = current.partition("/")[0] == name
        then = f"servers go on with {current}" if is_model else "servers answer 404 for it"
        sentence = f"deleted endpoint {name}: {then}"
        self.store.delete_endpoint(
            name, PlanEvent("deleted", self._clock(), by, reason.strip(), sentence)
        )
        return sentence

    def rollouts(self, endpoint: str | None = None) -> list[StoredRollout]:
        """All, or those of an endpoint; the oldest first."""
        return self.store.rollouts(endpoint)

    def get(self, name: str) -> StoredRollout:
        """One by its id, or the latest of an endpoint; raises `NotFound`."""
        return self.store.get(name)

    def decisions(self, name: str) -> list[StoredDecision]:
        """The decisions of a rollout, in order."""
        return self.store.decisions(self.get(name).rollout.id)

    def evidence(self, name: str) -> list[float | None]:
        """The logarithm of the evidence of harm after each interval; None where no one looked."""
        return [log_e for _, log_e in self.store.intervals(self.get(name).rollout.id)]

    def command(
        self, name: str, command: Command, *, by: str, reason: str, allow_answers: bool = False
    ) -> Decision:
        """Do what a person wants.

        Args:
            name: The id of a rollout, or its endpoint.
            command: What to do.
            by: The user.
            reason: Why, for the history.
            allow_answers: Promote also where the answers differ from those of the current version.

        Raises:
            NotFound: There is no such rollout.
            Conflict: It has no meaning now, or the controller decided meanwhile; or it is to be
                promoted, its answers differ, and that is not allowed.
            Refused: It is to be promoted, and the caller may not approve that.
        """
        for left in reversed(range(_TRIES)):
            try:
                return self._command(self.get(name), command, by, reason, allow_answers)
            except Superseded:  # the controller, which decides twice a second, was quicker
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _command(
        self, stored: StoredRollout, command: Command, by: str, reason: str, allow_answers: bool
    ) -> Decision:
        rollout, latest, now = stored.rollout, stored.latest, self._clock()
        if command == "promote":
            self._approve(rollout.endpoint)
        state: State = Running(0, now) if latest is None else latest.state
        held_by = "" if latest is None or allow_answers else latest.held_by
        decision = obey(rollout, state, command, by, reason, now, held_by=held_by)
        plan = self.endpoints.endpoint(rollout.endpoint).current.plan
        made = plan_of(rollout, decision, plan)
        changes = stored.latest is not None and made.numbered(plan.number) != plan
        self.store.record(
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
        by_evidence = [one for one in decided if one.decision.is_by_evidence]
        table = table_of(one for one, _ in self.store.intervals(stored.rollout.id))
        cohorts_at = self.store.cohorts_by_revision(stored.rollout.id)
        return [
            f"decision {one.number} was {one.decision.sentence!r} and is now {again.sentence!r}"
            for one, again in replay(stored.rollout, by_evidence, table, cohorts_at)
        ]

    def values(self, name: str) -> SteeredValues:
        """What each version and the policy of a contextual bandit would have earned.

        Raises:
            NotFound: There is no such rollout.
            Invalid: It is not contextual, or the ledger is not here.
        """
        from bascule.release.rollouts.valuing import read_values

        rollout = self.get(name).rollout
        if not rollout.context or self._open_ledger is None:
            raise Invalid(
                f"there are no estimates of rollout {rollout.id}",
                hint="they need strategy contextual, and the ledger of its server: --server URL",
            )
        stages = stages_of(self.decisions(name))
        cohorts = self.store.cohorts(rollout.id).cohorts
        return read_values(self._open_ledger(), rollout, stages, cohorts, self._clock())

    def _filled(
        self, asked: RolloutRequest, otherwise: str
    ) -> tuple[RolloutRequest, tuple[str, ...]]:
        """The request with the defaults of the settings, and the fields that have them."""
        strategy = asked.strategy or self._defaults.get("strategy") or otherwise
        taken: dict[str, Any] = {}
        for name, value in self._defaults.items():
            # Guards and steps of the settings are those of a version that takes over traffic.
            if name == "guards" and strategy in _GUARDS:
                continue
            if name == "steps_percent" and strategy in _STEPS:
                continue
            is_a_rule = name == "needs_approval" and value
            if is_a_rule or getattr(asked, name) in ("", (), None):
                taken[name] = value
        filled = msgspec.structs.replace(asked, **{**taken, "strategy": strategy})
        return filled, tuple(sorted(taken))

    def _rollout(self, asked: RolloutRequest, before: Plan, after: Plan) -> Rollout:
        strategy, texts = asked.strategy, asked.guards
        signature = self.endpoints.signature(before.current.version)
        is_of_texts = signature is not None and generates_text(signature)
        default = TEXT_GUARDS if is_of_texts else DEFAULT_GUARDS
        guards = tuple(map(parse_guard, texts)) or _GUARDS.get(strategy, default)
        of_texts = next((guard for guard in guards if guard.is_of_texts), None)
        if of_texts is not None and not is_of_texts:
            raise Invalid(
                f"{of_texts.name} cannot be counted: {before.current.version} generates no text",
                hint=f"the guards by default are {', '.join(map(str, DEFAULT_GUARDS))}",
            )
        given = {
            name: getattr(asked, name)
            for name in (
                "step_s", "max_s", "min_requests", "alpha", "beta", "bake_s", "outcomes_sample",
                "load_tries",
            )
            if getattr(asked, name) is not None
        }  # fmt: skip
        steps = asked.steps_percent or _STEPS.get(strategy)
        if steps is not None:
            given["steps_percent"] = tuple(steps)
        for name in ("step_s", "max_s", "bake_s", "min_requests"):
            if given.get(name, 0) < 0:
                raise Invalid(f"{name} must be 0 or more, not {given[name]:g}")
        return check_rollout(
            Rollout(
                id=f"{after.endpoint}-{secrets.token_hex(3)}", started_at=self._clock(),
                endpoint=after.endpoint, candidate=after.current.version,
                current=before.current.version, strategy=strategy, guards=guards,
                needs_approval=bool(asked.needs_approval), allow_answers=asked.allow_answers,
                context=tuple(map(ContextFeature, asked.context)),
                **given,
            )
        )  # fmt: skip

    def _is_stored(self, endpoint: str) -> bool:
        return any(one.name == endpoint for one in self.endpoints.endpoints())


def _refuse_scales(rollout: Rollout) -> Rollout:
    for guard in rollout.guards:
        if guard.part or (guard.is_on_outcomes and guard.name not in RATES):
            raise Invalid(f"{guard.title} cannot be counted: the bundle of its version is not here")
    return rollout


def superseded(stored: StoredRollout, plan: Plan, now: datetime) -> Decision:
    """What becomes of a rollout whose endpoint got another plan meanwhile."""
    if stored.ended_at is not None:
        raise Conflict(f"rollout {stored.rollout.id} has ended")
    return Decision(
        state=Aborted(now), shares=Shares(0.0),
        sentence=f"ended: plan {plan.number} of {plan.endpoint} was made meanwhile",
    )  # fmt: skip
