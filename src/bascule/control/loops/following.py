"""Has the server beside this process serve what the catalogue's plans say.

A thread watches the catalogue. Each endpoint is changed by itself, in all workers or in none, so an
endpoint whose version cannot be loaded here keeps no other from its plan: it goes on with its
former plan, and its rollout, its history and the alerts say why. While the catalogue is away, the
server goes on with the plans that it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.bundle import load
from bascule.control.loops.turning import turning
from bascule.control.references import notice_of
from bascule.core import (
    BasculeError,
    ModelFailed,
    NotFound,
    Overloaded,
    TimedOut,
    Unavailable,
    first_line,
    masked_text,
)
from bascule.endpoints import PlanEvent, own_part
from bascule.serving import ModelSpec, ModelSpecs, Plans, is_the_same, noticed, planned

if TYPE_CHECKING:
    from bascule.control.link import ServerLink
    from bascule.endpoints import EndpointStore, Plan
    from bascule.registry import Registry
    from bascule.release.rollouts import RolloutStore

log = logging.getLogger(__name__)

_WAIT_S = 1.0
_AGAIN_S = 5.0
"""After so long a change that failed is tried again, twice as long after each further try, and the
served names are read again."""
_MOST_AGAIN_S = {True: 60.0, False: 300.0}
"""The longest pause: where something is away, which comes back; and where it is not."""
_TRY_S = 200.0
"""A try has ended after so long: a change takes 150 s at most."""
_NOTED_AWAY = 3
"""At this try a store that is away is noted in the history of an endpoint."""
_AWAY = (Unavailable, Overloaded, TimedOut)

FindVersion = Callable[[str], ModelSpec]
"""The version of a reference, checked, and held until it is served."""


def following_plans(
    server: ServerLink,
    open_store: Callable[[], EndpointStore],
    find: FindVersion,
    open_registry: Callable[[], Registry],
    *,
    every_endpoint: bool,
    own_arms: bool,
    after: threading.Event,
) -> AbstractContextManager[None]:
    """Follow the plans, and the deprecations of versions, while the block runs, on a thread.

    Args:
        server: What is changed.
        open_store: Opens the endpoints.
        find: Finds a version that a plan needs.
        open_registry: Opens the registry, which knows the deprecated versions.
        every_endpoint: Whether to serve every endpoint, or those whose names are served alone.
        own_arms: Whether to serve, of a plan, the versions alone that the server has already.
        after: Set once opening the catalogue delays nothing else.
    """
    follower = Follower(
        server, open_store, find, open_registry, every_endpoint=every_endpoint, own_arms=own_arms
    )
    return turning("plans", follower.follow, after=after, pause_s=_WAIT_S)


@dataclass(slots=True)
class _Failing:
    """The tries to serve a plan that failed; `again_s` is of the monotonic clock."""

    plan: Plan
    tries: int = 0
    away: int = 0
    again_s: float = 0.0

    def is_about(self, plan: Plan) -> bool:
        """Also of the next plan of a rollout, which needs the same versions."""
        return (self.plan.rollout, self.plan.versions) == (plan.rollout, plan.versions)


class Follower:
    """See the module."""

    def __init__(
        self,
        server: ServerLink,
        open_store: Callable[[], EndpointStore],
        find: FindVersion,
        open_registry: Callable[[], Registry],
        *,
        every_endpoint: bool,
        own_arms: bool = False,
    ) -> None:
        self._own_arms = own_arms
        self._digests: dict[Path, str] = {}
        self._registry = open_registry
        self._server = server
        self._open_store = open_store
        self._find = find
        self._every_endpoint = every_endpoint
        self._failing: dict[str, _Failing] = {}
        self._told = ""

    def follow(self, ended: threading.Event) -> None:
        """Reconcile after each change of the catalogue, until `ended`."""
        while not ended.is_set():
            try:
                self._watch(ended)
            except Exception as error:
                # Any failure may be temporary, and the thread must go on.
                self._tell(error)
            ended.wait(_WAIT_S)

    def _watch(self, ended: threading.Event) -> None:
        store, again_s = self._open_store(), 0.0
        with store.watch() as watch:
            while not ended.is_set():
                if watch.wait(_WAIT_S) or time.monotonic() >= again_s:
                    self.reconcile(store)
                    self.notice()
                    self._told = ""
                    again_s = time.monotonic() + _AGAIN_S

    def reconcile(self, store: EndpointStore) -> None:
        """Bring each endpoint of this server to its plan."""
        services, plans = self._server.services, self._server.plans
        served = {plan.endpoint: plan for plan in plans}
        names = {spec.model for spec in services if not spec.is_planned} | set(served)
        for name in store.deleted(sorted(served)):
            self._stop(served[name])
        endpoints = store.endpoints(None if self._every_endpoint else sorted(names))
        for name in self._server.unserved.keys() - {endpoint.name for endpoint in endpoints}:
            del self._server.unserved[name]  # deleted before it was served
        for endpoint in endpoints:
            plan = endpoint.current.plan
            if self._own_arms:
                own = own_part(plan, self._own_versions(endpoint.name, services))
                if own is None:
                    if endpoint.name in served:
                        self._stop(served[endpoint.name])
                    continue
                plan = own
            if served.get(endpoint.name) == plan or self._is_too_soon(plan):
                continue
            if (
                endpoint.name not in served
                and not self._own_arms
                and not self._is_registered(endpoint.name, services)
            ):
                continue
            try:
                self._serve(plan, services)
            except BasculeError as error:
                self._note_failure(store, plan, error, services)
            except Exception as error:  # of one endpoint, which must keep no other from its plan
                log.exception("plan %d of endpoint %s", plan.number, endpoint.name)
                failed = ModelFailed(f"{type(error).__name__}: {first_line(error)}")
                self._note_failure(store, plan, failed, services)
            else:
                self._note_served(store, plan)

    def notice(self) -> None:
        """Have the answers of deprecated versions say so, and end those whose sunset has passed."""
        now = datetime.now(UTC)
        notices = {
            str(version): notice
            for version in self._registry().deprecated()
            if (notice := notice_of(version, now)) is not None
        }
        services = self._server.services
        if not is_the_same(services, noticed(services, notices)):
            self._server.change(lambda before: noticed(before, notices))

    def _serve(self, plan: Plan, services: ModelSpecs) -> None:
        specs = specs_of(plan, services, self._find)

        def with_it(now: ModelSpecs, plans: Plans) -> tuple[ModelSpecs, Plans]:
            others = [other for other in plans if other.endpoint != plan.endpoint]
            next_plans = sorted([*others, plan], key=attrgetter("endpoint"))
            return _planned(now, tuple(next_plans), specs)

        self._server.change_all(with_it)

    def _note_failure(
        self, store: EndpointStore, plan: Plan, error: BasculeError, services: ModelSpecs
    ) -> None:
        """Count a try, and say in the rollout, or in the history, what was wrong."""
        problem = masked_text(first_line(error))
        log.error(
            "plan %d of endpoint %s cannot be served: %s", plan.number, plan.endpoint, problem
        )
        failing = self._failing_of(plan) or self._resumed(store, plan)
        is_away = isinstance(error, _AWAY) and not error.facts.get("while_loading")
        failing.away, failing.tries = failing.away + is_away, failing.tries + (not is_away)
        pause_s = min(
            _AGAIN_S * 2.0 ** min(failing.away + failing.tries - 1, 9), _MOST_AGAIN_S[is_away]
        )
        failing.plan, failing.again_s = plan, time.monotonic() + pause_s
        self._failing[plan.endpoint] = failing
        if plan.rollout:
            from bascule.release.rollouts import LoadFailure

            rollouts, version = _rollouts_of(store), error.facts.get("version")
            served = _by_version(services)
            new = tuple(version for version in plan.versions if version not in served)
            failure = LoadFailure(
                host=self._server.place, versions=(str(version),) if version else new,
                error=problem, tries=failing.tries, away=failing.away,
                until=rollouts.now() + timedelta(seconds=pause_s + _TRY_S),
            )  # fmt: skip
            rollouts.put_load_failure(plan.rollout, failure.host, failure)
            return
        sentence = (
            f"{self._server.place} cannot serve plan {plan.number} of {plan.endpoint}, and goes on "
            f"with what it served before: {problem}"
        )
        self._server.unserved[plan.endpoint] = sentence
        if (failing.away, failing.tries) in ((0, 1), (_NOTED_AWAY, 0)):
            event = PlanEvent("not_served", datetime.now(UTC), self._server.place, "", sentence)
            store.record(plan.endpoint, event)

    def _note_served(self, store: EndpointStore, plan: Plan) -> None:
        self._failing.pop(plan.endpoint, None)
        self._server.unserved.pop(plan.endpoint, None)
        if plan.rollout:
            _rollouts_of(store).put_load_failure(plan.rollout, self._server.place, None)

    def _failing_of(self, plan: Plan) -> _Failing | None:
        failing = self._failing.get(plan.endpoint)
        return failing if failing is not None and failing.is_about(plan) else None

    def _resumed(self, store: EndpointStore, plan: Plan) -> _Failing:
        """The tries of an earlier control process of this server count as well."""
        failing = _Failing(plan)
        for failure in _rollouts_of(store).load_failures(plan.rollout):
            if failure.host == self._server.place:
                failing.tries, failing.away = failure.tries, failure.away
        return failing

    def _stop(self, plan: Plan) -> None:
        """Serve an endpoint by no plan: if its name is a model, its current version goes on."""
        name, current = plan.endpoint, plan.current.version

        def without_it(now: ModelSpecs, plans: Plans) -> tuple[ModelSpecs, Plans]:
            spec = _by_version(now)[current]
            goes_on = [replace(spec, is_planned=False)] if spec.model == name else []
            others = tuple(other for other in plans if other.endpoint != name)
            return _planned((*goes_on, *now), others)

        self._server.change_all(without_it)

    def _own_versions(self, name: str, services: ModelSpecs) -> set[str]:
        """The versions of a model that this server has, where their bundles are the registry's."""
        versions = set()
        for version, spec in _by_version(services).items():
            if spec.model == name:
                with suppress(BasculeError):
                    if spec.path not in self._digests:
                        self._digests[spec.path] = load(spec.path).digest
                    if self._registry().resolve(version).digest == self._digests[spec.path]:
                        versions.add(version)
        return versions

    def _is_registered(self, name: str, services: ModelSpecs) -> bool:
        """Whether what is served under a name is of the registry, and no folder of that name."""
        own = [spec for spec in services if spec.model == name and not spec.is_planned]
        try:
            return not own or any(
                self._find(version).path == spec.path for version, spec in _by_version(own).items()
            )
        except BasculeError:
            return False

    def _is_too_soon(self, plan: Plan) -> bool:
        failing = self._failing_of(plan)
        return failing is not None and time.monotonic() < failing.again_s

    def _tell(self, error: Exception) -> None:
        problem = masked_text(str(error))
        if problem != self._told and not isinstance(error, NotFound):
            log.warning("plans cannot be followed, and those of before are served: %s", problem)
        self._told = problem


def _by_version(specs: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    return {f"{spec.model}/{spec.version}": spec for spec in specs}


def _planned(
    specs: ModelSpecs, plans: Plans, fresh: Sequence[ModelSpec] = ()
) -> tuple[ModelSpecs, Plans]:
    """What to serve by some plans, of what is served and what is new."""
    known = _by_version((*specs, *fresh))
    return planned(specs, plans, tuple(known[v] for plan in plans for v in plan.versions)), plans


def _rollouts_of(store: EndpointStore) -> RolloutStore:
    from bascule.release.rollouts import RolloutStore

    return RolloutStore(store.catalogue)


def specs_of(plan: Plan, services: Sequence[ModelSpec], find: FindVersion) -> list[ModelSpec]:
    """The versions that a plan needs; those that are served already need not be found."""
    known, specs = _by_version(services), []
    for version in plan.versions:
        try:
            specs.append(known.get(version) or find(version))
        except BasculeError as error:
            error.facts.setdefault("version", version)
            raise
    return specs
