"""Has routers in front of servers split requests by the plans of endpoints.

Where each version has servers of its own, the shares of a plan are those of a router: Envoy, Istio,
the Gateway API. A thread watches the catalogue, writes the router's files anew after each change of
a plan, and runs the command that applies them.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bascule.control.loops.turning import turning
from bascule.core import BasculeError, Unavailable, first_line, masked_text

if TYPE_CHECKING:
    from bascule.endpoints import EndpointStore, Plan
    from bascule.registry import Registry
    from bascule.ship import Cluster

log = logging.getLogger(__name__)

_WAIT_S = 1.0
_AGAIN_S = 5.0
"""After so long a failed change is tried again."""
_COMMAND_S = 60.0


class Router(Protocol):
    """A section `[rollouts.routers.ENDPOINT]` of the settings."""

    @property
    def target(self) -> str:
        """The target of `bascule ship` that renders its files."""

    @property
    def folder(self) -> Path:
        """Where they are written."""

    @property
    def command(self) -> tuple[str, ...]:
        """Applies them, in that folder; empty for none."""


def routing_plans(
    routers: Mapping[str, Router],
    open_store: Callable[[], EndpointStore],
    open_registry: Callable[[], Registry],
    *,
    cluster: Cluster | None = None,
    after: threading.Event,
) -> AbstractContextManager[None]:
    """Keep routers at the plans of their endpoints while the block runs, on a thread.

    Args:
        routers: By endpoint.
        open_store: Opens the endpoints.
        open_registry: Opens the registry, which knows the digests of versions.
        cluster: Where the routers are in Kubernetes; None for the defaults.
        after: Set once opening the catalogue delays nothing else.
    """
    if not routers:
        return nullcontext()

    def run(ended: threading.Event) -> None:
        store, routing = open_store(), Routing(routers, open_registry, cluster)
        again_s = 0.0
        with store.watch() as watch:
            while not ended.is_set():
                if watch.wait(_WAIT_S) or time.monotonic() >= again_s:
                    routing.turn(store)
                    again_s = time.monotonic() + _AGAIN_S

    return turning("routes", run, after=after, pause_s=_AGAIN_S)


class Routing:
    """See the module."""

    def __init__(
        self,
        routers: Mapping[str, Router],
        open_registry: Callable[[], Registry],
        cluster: Cluster | None = None,
    ) -> None:
        self._routers = routers
        self._cluster = cluster
        self._open_registry = open_registry
        self._routed: dict[str, Plan] = {}
        self._said: dict[str, str] = {}

    def turn(self, store: EndpointStore) -> None:
        """Bring each router to the plan of its endpoint; one that fails keeps no other from its."""
        for one in store.endpoints(sorted(self._routers)):
            plan = one.current.plan
            if self._routed.get(one.name) == plan:
                continue
            try:
                self._route(self._routers[one.name], plan)
            except BasculeError as error:
                said = masked_text(str(error))
                if self._said.get(one.name) != said:
                    log.error(  # noqa: TRY400 -- in one line, by design
                        "the router of %s is not at plan %d: %s", one.name, plan.number, said
                    )
                self._said[one.name] = said
            else:
                self._routed[one.name] = plan
                self._said.pop(one.name, None)
                shares = ", ".join(f"{arm.version} {arm.share_percent:g} %" for arm in plan.arms)
                log.info("the router of %s is at plan %d: %s", one.name, plan.number, shares)

    def _route(self, router: Router, plan: Plan) -> None:
        from bascule.ship import ROUTES, TARGETS, shipment_of, text_of, write_file

        shipment = shipment_of(
            self._open_registry(), plan.endpoint, plan=plan, cluster=self._cluster
        )
        rendered = TARGETS[router.target].render(shipment)
        for name in ROUTES[router.target]:
            if text_of(router.folder / name) != rendered[name]:
                write_file(router.folder / name, rendered[name])
        if router.command:
            _run(router.command, router.folder)


def _run(command: tuple[str, ...], folder: Path) -> None:
    """Run the command that applies the files, also when they are as before: it may have failed."""
    said = " ".join(command)
    try:
        ended = subprocess.run(
            command, cwd=folder, timeout=_COMMAND_S, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"{said}: {first_line(problem)}") from None
    if ended.returncode != 0:
        raise Unavailable(f"{said} ended with {ended.returncode}: {first_line(ended.stderr)}")
