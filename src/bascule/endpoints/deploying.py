"""Deploys versions to endpoints, and rolls back: reads the registry, decides, records.

Servers follow the catalogue by themselves (`control.loops.following`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.core import BasculeError, Conflict, Invalid, Refused, Signature, check_name
from bascule.endpoints.approving import (
    ROLLED_BACK,
    Approve,
    by_anybody,
    last_good,
    shares,
    takes_approval,
)
from bascule.endpoints.changes import PlanChanges, changed, differences
from bascule.endpoints.exchangeable import difference, is_exchangeable, refuses_missing
from bascule.endpoints.plans import PREVIOUS, Plan
from bascule.endpoints.records import Deployed, PlanEvent, StoredEndpoint, StoredPlan
from bascule.endpoints.requests import NO_ALIAS, DeployRequest, check_follow, request_of
from bascule.endpoints.store import EndpointStore, Follows, Move, no_endpoint
from bascule.endpoints.strategies import first_plan, next_plan

if TYPE_CHECKING:
    from bascule.catalogue import events
    from bascule.registry import Registry, Version


class Endpoints:
    """The endpoints of a catalogue, and the versions of its registry."""

    def __init__(
        self,
        store: EndpointStore,
        registry: Callable[[], Registry],
        *,
        serves_now: Callable[[str], str] = lambda _: "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open nothing yet.

        Args:
            store: Where endpoints are kept.
            registry: Opens the registry.
            serves_now: The version, `MODEL/NUMBER`, that answers a name that has no plan; empty if
                none is known.
            clock: The time.
        """
        self._store = store
        self._registry = registry
        self._serves_now = serves_now
        self._clock = clock
        self._approve: Approve = by_anybody

    def guarded(self, approve: Approve) -> Endpoints:
        """The same endpoints; `approve` is asked before what they answer changes."""
        made = copy(self)
        made._approve = approve
        return made

    def check_approved(self, before: Plan | None, after: Plan | None, name: str) -> None:
        """Raise `Refused` where the change of an endpoint takes an approval that is not given."""
        if takes_approval(before, after):
            self._approve(name)

    def check_may_end(self, version: str) -> None:
        """Raise `Refused` where a version answers, and its end takes an approval not given.

        A version that servers have loaded and no plan names answers the name of its model.
        """
        plans = [one.current.plan for one in self._store.endpoints()]
        ended = [plan for plan in plans if version in plan.versions]
        for plan in ended:
            self.check_approved(plan, None, plan.endpoint)
        registry, model = self._registry(), version.partition("/")[0]
        is_held = not ended and registry.servers_of(registry.resolve(version))
        if is_held or self._serves_now(model) == version:
            self.check_approved(None, None, model)

    def trial(self, version: str, endpoint: str) -> Deployed:
        """What `deploy` would make with an approval; changes nothing."""
        return self.guarded(by_anybody).deploy(version, to=endpoint, by="", dry_run=True)

    def endpoints(self) -> list[StoredEndpoint]:
        """The endpoints that have a plan, by name."""
        return self._store.endpoints()

    def endpoint(self, name: str) -> StoredEndpoint:
        """One endpoint; raises `NotFound`."""
        return self._store.endpoint(name)

    def moves(self) -> dict[str, events.Event]:
        """By endpoint, the last move of its alias, if it was not acted on yet."""
        return self._store.moves()

    def plan(self, name: str, number: int) -> StoredPlan:
        """One plan; raises `NotFound`."""
        return self._store.plan(name, number)

    def plans(self, endpoint: str, *, latest: int | None = None) -> list[StoredPlan]:
        """The plans of an endpoint, the newest first: all, or so many; raises `NotFound`."""
        return self._store.plans(endpoint, latest=latest)

    def history(self, endpoint: str, *, latest: int | None = None) -> list[PlanEvent]:
        """What happened to an endpoint, in the order of recording: all, or the latest so many."""
        return self._store.history(endpoint, latest=latest)

    def deploy(
        self,
        asked: DeployRequest | str,
        *,
        by: str,
        dry_run: bool = False,
        deploys_with: Mapping[str, Any] | None = None,
        move: Move | None = None,
        **options: Any,
    ) -> Deployed:
        """Make a version answer an endpoint.

        Args:
            asked: The request; or a version, with `options` for the rest of one.
            by: The user.
            dry_run: Check and decide, and change nothing.
            deploys_with: What later moves of the alias that it follows deploy with.
            move: The move of an alias that is the cause.
            **options: See `DeployRequest`; `to` is the endpoint.

        Raises:
            NotFound: There is no such version.
            Refused: The version is retired, its gates failed, or it has another signature than
                the endpoint's current version.
            Invalid: The strategy is not known.
            Conflict: The endpoint serves that already, or was changed meanwhile.
        """
        if isinstance(asked, str):
            asked = request_of(DeployRequest, asked, options)
        check_follow(asked.follow)
        version = self._registry().resolve(asked.version)
        endpoint = check_name(asked.endpoint or version.model, what="endpoint")
        stored, made = self._before(endpoint, version)
        before = made or (stored.current.plan if stored else None)
        strategy = asked.strategy or "all"
        plan = next_plan(before, endpoint, str(version), strategy)
        if before is None:
            plan = plan.numbered(self._store.last_number(endpoint) + 1)
        self._check_changes(before, plan, asked.follow, stored)
        sentence = _deployed_sentence(before, plan, strategy)
        now = self._clock()
        event = PlanEvent(
            "deployed", now, by, asked.reason, sentence,
            {"number": plan.number, "version": str(version), "strategy": strategy},
        )  # fmt: skip
        if dry_run:
            self._check(plan, before)
        else:
            implicit = [] if made is None else [StoredPlan(made, now, by, "what was served")]
            next_one = StoredPlan(plan, now, by, asked.reason)
            follows = follows_of(asked.follow, deploys_with or {})
            self._add([*implicit, next_one], before, event, follows, move)
        return Deployed(plan, before, sentence)

    def change(
        self, endpoint: str, changes: PlanChanges, *, by: str, reason: str, dry_run: bool = False
    ) -> Deployed:
        """Change assignment, fallback, breaker or limits of what answers an endpoint now.

        Args:
            endpoint: Its name.
            changes: What is to be different.
            by: The user.
            reason: Why, for the history.
            dry_run: Check and decide, and change nothing.

        Raises:
            NotFound: Nothing answers this name yet; or there is no such fallback.
            Conflict: A rollout is under way, nothing changes, or another change was made meanwhile.
            Refused: The fallback was retired, its gates failed, or it has another signature.
            Invalid: A field is not one of a plan, or the model has no such input.
        """
        found, made = self._served(endpoint)
        before = made or (found.current.plan if found else None)
        if before is None:
            raise no_endpoint(endpoint)
        if changes.fallback:
            version = self._registry().resolve(changes.fallback)
            changes = msgspec.structs.replace(changes, fallback=str(version))
        plan = changed(before, changes)
        self._check_sticky_field(plan)
        said = "; ".join(differences(before, plan))
        sentence = f"changed {endpoint}: {said}; by plan {plan.number}"
        now = self._clock()
        event = PlanEvent("changed", now, by, reason, sentence, {"number": plan.number})
        if dry_run:
            self._check(plan, before)
        else:
            implicit = [] if made is None else [StoredPlan(made, now, by, "what was served")]
            self._add([*implicit, StoredPlan(plan, now, by, reason)], before, event)
        return Deployed(plan, before, sentence)

    def _check_sticky_field(self, plan: Plan) -> None:
        from bascule.bundle.disk import read_manifest

        if plan.sticky_field:
            path = self._registry().path_to_look_at(plan.current.version)
            inputs = [one.name for one in read_manifest(path, verify=False).signature.inputs]
            if plan.sticky_field not in inputs:
                raise Invalid(
                    f"sticky field: {plan.current.version} has no input {plan.sticky_field!r}",
                    hint=f"its inputs are {', '.join(inputs[:20])}",
                )

    def check_in_use(self, version: str) -> None:
        """Raise `Refused` for a version that was retired."""
        self._registry().resolve(version)

    def apply(self, plan: Plan, event: PlanEvent) -> None:
        """Make a plan the next one of an endpoint that has plans, and record why.

        Raises:
            Conflict: It does not have the next number: another plan was made meanwhile.
            Refused: A version of it may not be served, or has another signature.
            NotFound: There is no such endpoint or version.
        """
        before = self._store.endpoint(plan.endpoint).current.plan
        self._add([StoredPlan(plan, event.at, event.by, event.reason)], before, event)

    def _add(
        self, stored: list[StoredPlan], before: Plan | None, event: PlanEvent,
        follows: Follows | None = None, move: Move | None = None,
    ) -> None:  # fmt: skip
        self._check(stored[-1].plan, before)
        self._store.add(stored, [event], follows=follows, move=move)

    def roll_back(self, endpoint: str, *, by: str, reason: str, to: int | None = None) -> Deployed:
        """Serve an earlier plan again, under the next number.

        Args:
            endpoint: Its name.
            by: The user.
            reason: Why; not empty.
            to: The number of the plan; None for the last one that served other versions or shares,
                was no step of a rollout, and was not itself rolled back from.

        Raises:
            NotFound: There is no such endpoint or plan.
            Invalid: There is no reason.
            Conflict: No earlier plan differs, or another change was made meanwhile.
            Refused: A version of the plan was retired; or this takes an approval, which the return
                to the last good plan does not, but for a second one in a row.
        """
        if not reason.strip():
            raise Invalid("a rollback needs a reason", hint='--reason "more errors since 14:00"')
        self._store.endpoint(endpoint)  # says if it was deleted
        plans = [one.plan for one in self._store.plans(endpoint)]
        now_served, history = plans[0], self.history(endpoint)
        good = last_good(plans, history)
        wanted = good if to is None else self._store.plan(endpoint, to).plan
        if wanted is None:
            raise Conflict(
                f"endpoint {endpoint} has served nothing else before",
                hint=f"bascule deploy MODEL/VERSION --to {endpoint} changes what it serves",
            )
        plan = wanted.numbered(now_served.number + 1)
        # A second return in a row is no emergency.
        returns = {one.body["number"] for one in history if one.kind == ROLLED_BACK}
        if takes_approval(now_served, plan, None if now_served.number in returns else good):
            self._approve(endpoint)
        sentence = (
            f"rolled back {endpoint} from plan {now_served.number} to plan {wanted.number}: "
            f"{_answers(plan)}"
        )
        now = self._clock()
        body = {"number": plan.number, "as": wanted.number, "from": now_served.number}
        event = PlanEvent(ROLLED_BACK, now, by, reason, sentence, body)
        self._check(plan, now_served, is_return=True)
        self._store.add([StoredPlan(plan, now, by, reason)], [event])
        return Deployed(plan, now_served, sentence)

    def _before(self, endpoint: str, version: Version) -> tuple[StoredEndpoint | None, Plan | None]:
        """The endpoint as it is stored; or the plan 1 of one that is not, from what is served."""
        found, made = self._served(endpoint)
        is_new = made is not None and made.current.version == str(version)
        return found, None if is_new else made

    def _served(self, endpoint: str) -> tuple[StoredEndpoint | None, Plan | None]:
        """An endpoint, or the plan 1 that a name without one has by what is served; one is None."""
        found = self._store.endpoints([endpoint])
        if found:
            return found[0], None
        served = self._serves_now(endpoint)
        if not served:
            return None, None
        return None, first_plan(endpoint, served).numbered(self._store.last_number(endpoint) + 1)

    def _check_changes(
        self, before: Plan | None, plan: Plan, follow: str, stored: StoredEndpoint | None
    ) -> None:
        is_same = before is not None and before.numbered(plan.number) == plan
        if is_same and stored is not None and not follow:
            raise Conflict(
                f"endpoint {plan.endpoint} serves {plan.current.version} already, by plan "
                f"{plan.number - 1}",
                hint="deploy another version, or use another strategy",
            )

    def _check(self, plan: Plan, before: Plan | None, *, is_return: bool = False) -> None:
        """Raise `Refused` unless every version may be served, and can answer what is answered now.

        What was served before was checked then. A rollback (`is_return`), a fallback, and a version
        that stays loaded without requests may take fewer missing values than the current one:
        callers must always have a way back.
        """
        if not is_return:
            self.check_approved(before, plan, plan.endpoint)
        registry = self._registry()
        for reference in plan.versions:
            version = registry.resolve(reference)  # says if it was retired
            if before is None or reference not in before.versions:
                registry.check_may_serve(version, plan.endpoint, is_return=is_return)
        base = plan.current.version if before is None else before.current.version
        taking = {arm.version for arm in plan.arms if arm.name != PREVIOUS}
        if plan.shadow is not None:
            taking.add(plan.shadow.version)
        for reference in plan.versions:
            takes_requests = reference in taking and not is_return
            self._check_signature(
                registry, reference, base, plan.endpoint, takes_requests=takes_requests
            )

    def signature(self, reference: str) -> Signature | None:
        """What a version takes and gives; None where it is gone or damaged."""
        from bascule.bundle.features import signature_for_callers

        try:
            return signature_for_callers(self._registry().path_to_look_at(reference))
        except BasculeError:
            return None

    def _check_signature(
        self, registry: Registry, reference: str, base: str, endpoint: str, *, takes_requests: bool
    ) -> None:
        from bascule.bundle.features import signature_for_callers

        if reference == base or (now := self.signature(base)) is None:
            return  # the current version is gone or damaged: another one must be able to follow
        then = signature_for_callers(registry.path_to_look_at(reference))
        if not is_exchangeable(then, now):
            raise Refused(
                f"{reference} has other inputs or outputs than {base}, the current version of "
                f"endpoint {endpoint}: {difference(then, now)}",
                hint=f"deploy it to an endpoint of its own: bascule deploy {reference} --to NAME",
            )
        if takes_requests and (name := refuses_missing(then, now)):
            raise Refused(
                f"{reference} needs a value of {name} in every request, and {base}, the current "
                f"version of endpoint {endpoint}, does not: requests without {name} would fail",
                hint=f"train one that takes missing values, or deploy this one to an endpoint of "
                f"its own: bascule deploy {reference} --to NAME",
            )


def follows_of(follow: str, deploys_with: Mapping[str, Any]) -> Follows | None:
    """The source that a request asks for; None for that of now."""
    if not follow:
        return None
    return Follows("", {}) if follow == NO_ALIAS else Follows(follow, deploys_with)


def _answers(plan: Plan) -> str:
    return ", ".join(
        f"{version} answers" if share == 100.0 else f"{version} answers {share:g} %"
        for version, share in sorted(shares(plan), key=lambda one: -one[1])
    )


def _deployed_sentence(before: Plan | None, plan: Plan, strategy: str) -> str:
    instead = "" if before is None else f" instead of {before.current.version}"
    kept = f", and {plan.arms[1].version} stays loaded" if len(plan.arms) > 1 else ""
    return (
        f"deployed {plan.current.version} to {plan.endpoint} ({strategy}): it answers every "
        f"request{instead}{kept}, by plan {plan.number}"
    )
