"""Deploys versions to endpoints, and rolls back: reads the registry, decides, records.

Servers follow the catalogue by themselves (`control.following`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from bascule.core import BasculeError, Conflict, Invalid, Reference, Refused, check_name
from bascule.endpoints.plans import Plan
from bascule.endpoints.records import Endpoint, PlanEvent, StoredPlan
from bascule.endpoints.strategies import first_plan, next_plan

if TYPE_CHECKING:
    from bascule.endpoints.store import EndpointStore
    from bascule.registry import Registry, Version


ROLLED_BACK = "rolled_back"
"""The kind of the events of rollbacks; `body["from"]` is the plan that was left."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployment or a rollback makes, or would make.

    Attributes:
        plan: The plan to serve.
        before: The plan of before; None where there was none.
        sentence: What happens, in a sentence.
    """

    plan: Plan
    before: Plan | None
    sentence: str

    def __repr__(self) -> str:
        return f"Deployed({self.sentence!r})"


class EndpointBook(Protocol):
    """The port that `Endpoints` and `RemoteEndpoints` implement; see `Endpoints`."""

    def endpoints(self) -> list[Endpoint]: ...

    def plans(self, endpoint: str) -> list[StoredPlan]: ...

    def history(self, endpoint: str) -> list[PlanEvent]: ...

    def deploy(
        self, reference: str, *, by: str, to: str = "", strategy: str = "all", reason: str = "",
        follow: str = "", dry_run: bool = False,
    ) -> Deployed: ...  # fmt: skip

    def roll_back(
        self, endpoint: str, *, by: str, reason: str, to: int | None = None
    ) -> Deployed: ...


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

    def endpoints(self) -> list[Endpoint]:
        """The endpoints that have a plan, by name."""
        return self._store.endpoints()

    def endpoint(self, name: str) -> Endpoint:
        """One endpoint; raises `NotFound`."""
        return self._store.endpoint(name)

    def plan(self, name: str, number: int) -> StoredPlan:
        """One plan; raises `NotFound`."""
        return self._store.plan(name, number)

    def plans(self, endpoint: str) -> list[StoredPlan]:
        """Every plan of an endpoint, the newest first; raises `NotFound`."""
        return self._store.plans(endpoint)

    def history(self, endpoint: str) -> list[PlanEvent]:
        """What happened to an endpoint, in the order of recording."""
        return self._store.history(endpoint)

    def deploy(
        self,
        reference: str,
        *,
        by: str,
        to: str = "",
        strategy: str = "all",
        reason: str = "",
        follow: str = "",
        dry_run: bool = False,
    ) -> Deployed:
        """Make a version answer an endpoint.

        Args:
            reference: The version: `late/4`, `late@champion`, or `late` for the newest good one.
            by: The user.
            to: The endpoint; the name of the model if empty.
            strategy: `all` or `blue-green`.
            reason: Why, for the history.
            follow: The alias that is the endpoint's source from now on, `MODEL@ALIAS`.
            dry_run: Check and decide, and change nothing.

        Raises:
            NotFound: There is no such version.
            Refused: The version is retired, its gates failed, or it has another signature than
                the endpoint's current version.
            Invalid: The strategy is not known.
            Conflict: The endpoint serves that already, or was changed meanwhile.
        """
        version = self._registry().resolve(reference)
        endpoint = check_name(to or version.model, what="endpoint")
        if follow and Reference.parse(follow).alias is None:
            raise Invalid(f"follow: {follow!r} names no alias", hint="write MODEL@ALIAS")
        stored, made = self._before(endpoint, version)
        before = made or (stored.current.plan if stored else None)
        plan = next_plan(before, endpoint, str(version), strategy)
        self._check_changes(before, plan, follow, stored)
        sentence = _deployed_sentence(before, plan, strategy)
        now = self._clock()
        event = PlanEvent(
            "deployed", now, by, reason, sentence,
            {"number": plan.number, "version": str(version), "strategy": strategy},
        )  # fmt: skip
        if dry_run:
            self._check(plan, before)
        else:
            implicit = [] if made is None else [StoredPlan(made, now, by, "what was served")]
            self._add([*implicit, StoredPlan(plan, now, by, reason)], before, event, follow)
        return Deployed(plan, before, sentence)

    def apply(self, plan: Plan, event: PlanEvent) -> None:
        """Make a plan the next one of an endpoint that has plans, and record why.

        Raises:
            Conflict: It does not have the next number: another plan was made meanwhile.
            Refused: A version of it may not be served, or has another signature.
            NotFound: There is no such endpoint or version.
        """
        before = self._store.endpoint(plan.endpoint).current.plan
        self._add([StoredPlan(plan, event.at, event.by, event.reason)], before, event, "")

    def _add(
        self, stored: list[StoredPlan], before: Plan | None, event: PlanEvent, follow: str
    ) -> None:
        self._check(stored[-1].plan, before)
        self._store.add(stored, [event], follows=follow or None)

    def roll_back(self, endpoint: str, *, by: str, reason: str, to: int | None = None) -> Deployed:
        """Serve an earlier plan again, under the next number.

        Args:
            endpoint: Its name.
            by: The user.
            reason: Why; not empty.
            to: The number of the plan; None for the last one that served other versions or shares,
                and was not itself rolled back from.

        Raises:
            NotFound: There is no such endpoint or plan.
            Invalid: There is no reason.
            Conflict: No earlier plan differs, or another change was made meanwhile.
            Refused: A version of the plan was retired.
        """
        if not reason.strip():
            raise Invalid("a rollback needs a reason", hint='--reason "more errors since 14:00"')
        plans = [one.plan for one in self._store.plans(endpoint)]
        now_served = plans[0]
        if to is None:
            left = {one.body["from"] for one in self.history(endpoint) if one.kind == ROLLED_BACK}
            earlier = [
                one
                for one in plans[1:]
                if one.number not in left and _shares(one) != _shares(now_served)
            ]
            if not earlier:
                raise Conflict(
                    f"endpoint {endpoint} has served nothing else before",
                    hint=f"bascule deploy MODEL/VERSION --to {endpoint} changes what it serves",
                )
            wanted = earlier[0]
        else:
            wanted = self._store.plan(endpoint, to).plan
        plan = wanted.numbered(now_served.number + 1)
        sentence = (
            f"rolled back {endpoint} from plan {now_served.number} to plan {wanted.number}: "
            f"{_answers(plan)}"
        )
        now = self._clock()
        body = {"number": plan.number, "as": wanted.number, "from": now_served.number}
        event = PlanEvent(ROLLED_BACK, now, by, reason, sentence, body)
        self._add([StoredPlan(plan, now, by, reason)], now_served, event, "")
        return Deployed(plan, now_served, sentence)

    def _before(self, endpoint: str, version: Version) -> tuple[Endpoint | None, Plan | None]:
        """The endpoint as it is stored; or the plan 1 of one that is not, from what is served."""
        found = self._store.endpoints([endpoint])
        if found:
            return found[0], None
        served = self._serves_now(endpoint)
        is_new = served in ("", str(version))
        return None, None if is_new else first_plan(endpoint, served)

    def _check_changes(
        self, before: Plan | None, plan: Plan, follow: str, stored: Endpoint | None
    ) -> None:
        is_same = before is not None and before.numbered(plan.number) == plan
        follows = "" if stored is None else stored.follows
        if is_same and stored is not None and follow in ("", follows):
            raise Conflict(
                f"endpoint {plan.endpoint} serves {plan.current.version} already, by plan "
                f"{plan.number - 1}",
                hint="deploy another version, or use another strategy",
            )

    def _check(self, plan: Plan, before: Plan | None) -> None:
        """Raise `Refused` unless every version may be served, and all have one signature.

        What was served before was checked then.
        """
        registry = self._registry()
        for reference in plan.versions:
            version = registry.resolve(reference)  # says if it was retired
            if before is None or reference not in before.versions:
                registry.check_may_serve(version, plan.endpoint)
        base = plan.current.version if before is None else before.current.version
        for reference in plan.versions:
            self._check_signature(registry, reference, base, plan.endpoint)

    def _check_signature(
        self, registry: Registry, reference: str, base: str, endpoint: str
    ) -> None:
        from bascule.bundle.disk import read_manifest

        if reference == base:
            return
        try:
            now = read_manifest(registry.path_to_look_at(base), verify=False).signature
        except BasculeError:
            return  # the current version is gone or damaged: another one must be able to follow
        then = read_manifest(registry.path_to_look_at(reference), verify=False).signature
        if (now.inputs, now.outputs) != (then.inputs, then.outputs):
            raise Refused(
                f"{reference} has other inputs or outputs than {base}, the current version of "
                f"endpoint {endpoint}",
                hint=f"deploy it to an endpoint of its own: bascule deploy {reference} --to NAME",
            )


def _shares(plan: Plan) -> list[tuple[str, float]]:
    return sorted((arm.version, arm.share_percent) for arm in plan.arms if arm.share_percent)


def _answers(plan: Plan) -> str:
    shares = sorted(_shares(plan), key=lambda one: -one[1])
    return ", ".join(
        f"{version} answers" if share == 100.0 else f"{version} answers {share:g} %"
        for version, share in shares
    )


def _deployed_sentence(before: Plan | None, plan: Plan, strategy: str) -> str:
    instead = "" if before is None else f" instead of {before.current.version}"
    kept = f", and {plan.arms[1].version} stays loaded" if len(plan.arms) > 1 else ""
    return (
        f"deployed {plan.current.version} to {plan.endpoint} ({strategy}): it answers every "
        f"request{instead}{kept}, by plan {plan.number}"
    )
