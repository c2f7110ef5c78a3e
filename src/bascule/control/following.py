"""Has the server beside this process serve what the catalogue's plans say.

A thread watches the catalogue. Each endpoint is changed by itself, in all workers or in none, so an
endpoint whose version cannot be loaded here keeps no other from its plan. While the catalogue is
away, the server goes on with the plans that it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.bundle import load
from bascule.control.references import notice_of
from bascule.core import BasculeError, NotFound, masked_text
from bascule.endpoints import own_part
from bascule.serving import ModelSpec, ModelSpecs, Plans, is_the_same, noticed, planned

if TYPE_CHECKING:
    from bascule.control.link import ServerLink
    from bascule.endpoints import EndpointStore, Plan
    from bascule.registry import Registry

log = logging.getLogger(__name__)

_WAIT_S = 1.0
_AGAIN_S = 5.0
"""After so long a change that failed is tried again, and the served names are read again."""

FindVersion = Callable[[str], ModelSpec]
"""The version of a reference, checked, and held until it is served."""


@contextmanager
def following_plans(
    server: ServerLink,
    open_store: Callable[[], EndpointStore],
    find: FindVersion,
    open_registry: Callable[[], Registry],
    *,
    every_endpoint: bool,
    own_arms: bool,
    after: threading.Event,
) -> Iterator[None]:
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
    ended = threading.Event()
    follower = Follower(
        server, open_store, find, open_registry, every_endpoint=every_endpoint, own_arms=own_arms
    )

    def follow() -> None:
        after.wait()
        follower.follow(ended)

    threading.Thread(target=follow, name="bascule-follows-plans", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


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
        self._failed: dict[tuple[str, int], float] = {}
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
        names = {one.model for one in services if not one.is_planned} | set(served)
        for name in store.deleted(sorted(served)):
            self._stop(served[name])
        for one in store.endpoints(None if self._every_endpoint else sorted(names)):
            plan = one.current.plan
            if self._own_arms:
                own = own_part(plan, self._own_versions(one.name, services))
                if own is None:
                    if one.name in served:
                        self._stop(served[one.name])
                    continue
                plan = own
            if served.get(one.name) == plan or self._is_too_soon(plan):
                continue
            if (
                one.name not in served
                and not self._own_arms
                and not self._is_registered(one.name, services)
            ):
                continue
            try:
                self._serve(plan, services)
            except BasculeError as error:
                self._failed[one.name, plan.number] = time.monotonic() + _AGAIN_S
                log.error(  # noqa: TRY400 -- in one line, by design
                    "plan %d of endpoint %s cannot be served: %s",
                    plan.number, one.name, masked_text(str(error)),
                )  # fmt: skip
            else:
                self._failed.pop((one.name, plan.number), None)

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
            others = [one for one in plans if one.endpoint != plan.endpoint]
            known = {f"{one.model}/{one.version}": one for one in (*now, *specs)}
            made = tuple(sorted([*others, plan], key=lambda one: one.endpoint))
            needed = [known[version] for one in made for version in one.versions]
            return planned(now, made, tuple(needed)), made

        self._server.change_all(with_it)

    def _stop(self, plan: Plan) -> None:
        """Serve an endpoint by no plan: if its name is a model, its current version goes on."""
        name, current = plan.endpoint, plan.current.version

        def without_it(now: ModelSpecs, plans: Plans) -> tuple[ModelSpecs, Plans]:
            made = tuple(one for one in plans if one.endpoint != name)
            known = {f"{one.model}/{one.version}": one for one in now}
            goes_on = [
                replace(one, is_planned=False) for one in (known[current],) if one.model == name
            ]
            needed = [known[version] for one in made for version in one.versions]
            return planned((*goes_on, *now), made, tuple(needed)), made

        self._server.change_all(without_it)

    def _own_versions(self, name: str, services: ModelSpecs) -> set[str]:
        """The versions of a model that this server has, where their bundles are the registry's."""
        found = set()
        for one in services:
            said = f"{one.model}/{one.version}"
            if one.model == name:
                with suppress(BasculeError):
                    if one.path not in self._digests:
                        self._digests[one.path] = load(one.path).digest
                    if self._registry().resolve(said).digest == self._digests[one.path]:
                        found.add(said)
        return found

    def _is_registered(self, name: str, services: ModelSpecs) -> bool:
        """Whether what is served under a name is of the registry, and no folder of that name."""
        served = [one for one in services if one.model == name and not one.is_planned]
        try:
            return not served or any(
                self._find(f"{one.model}/{one.version}").path == one.path for one in served
            )
        except BasculeError:
            return False

    def _is_too_soon(self, plan: Plan) -> bool:
        return time.monotonic() < self._failed.get((plan.endpoint, plan.number), 0.0)

    def _tell(self, error: Exception) -> None:
        said = masked_text(str(error))
        if said != self._told and not isinstance(error, NotFound):
            log.warning("plans cannot be followed, and those of before are served: %s", said)
        self._told = said


def specs_of(plan: Plan, services: Sequence[ModelSpec], find: FindVersion) -> list[ModelSpec]:
    """The versions that a plan needs; those that are served already need not be found."""
    known = {f"{one.model}/{one.version}": one for one in services}
    return [known.get(version) or find(version) for version in plan.versions]
