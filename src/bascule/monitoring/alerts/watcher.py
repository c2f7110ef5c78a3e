"""Looks at the sources, and sends notifications; runs on threads of the control process.

What one host alone sees (`local` sources) is looked at by every control process. What all see, and
the delivery, is the job of the one that holds the lease. A process that dies loses nothing: states
and outbox are in the catalogue, and the next holder goes on from there.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bascule.catalogue import Catalogue, Lease, Leases
from bascule.core import BasculeError, Conflict
from bascule.monitoring.alerts.advancing import Rules
from bascule.monitoring.alerts.delivery import Courier
from bascule.monitoring.alerts.findings import Observation, Source
from bascule.monitoring.alerts.routing import Contacts, Routing
from bascule.monitoring.alerts.sinks import Receiver
from bascule.monitoring.alerts.store import AlertStore

log = logging.getLogger(__name__)

LEASE = "alerts"
_SWEEP_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Watching:
    """What a watcher works with.

    Attributes:
        local: Sources that this process alone can read.
        shared: Sources that one process reads for all.
        receivers: Where notifications go.
        rules: How long things last.
        routing: Which receivers take what.
        contacts: Finds the contacts of models, by their names.
        round_s: How often sources are looked at and the outbox is sent.
    """

    local: Sequence[Source] = ()
    shared: Sequence[Source] = ()
    receivers: Sequence[Receiver] = ()
    rules: Rules = field(default_factory=Rules)
    routing: Routing = field(default_factory=Routing)
    contacts: Callable[[Collection[str]], Mapping[str, Contacts]] = lambda _models: {}
    round_s: float = 15.0

    @property
    def ttl_s(self) -> float:
        """How long the lease lasts; after each renewal there is time for every attempt to send."""
        return 3 * max([self.round_s, *(one.timeout_s for one in self.receivers)])


class Watcher:
    """The watcher of one process."""

    def __init__(self, catalogue: Catalogue, watching: Watching) -> None:
        """Start nothing yet. Raises `Invalid` where a receiver lacks a setting."""
        self._catalogue = catalogue
        self._watching = watching
        self._store = AlertStore(catalogue)
        self._courier = Courier(self._store, watching.receivers, _now)
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._lease: Lease | None = None
        self._looked_s: dict[str, float] = {}
        self._swept_s = 0.0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Work on threads of this process, which end with it."""
        rounds = (("lease", self.keep_lease), ("local", self.look_locally),
                  ("shared", self.look_for_all), ("delivery", self.deliver))  # fmt: skip
        for name, act in rounds:
            every_s = self._watching.ttl_s / 3 if name == "lease" else self._watching.round_s
            threading.Thread(
                target=self._repeat, args=(act, every_s), name=f"bascule-alerts-{name}", daemon=True
            ).start()

    def stop(self) -> None:
        """End the threads after their round, and leave the lease to others."""
        self._stopped.set()
        lease, self._lease = self._lease, None
        if lease is not None:
            Leases(self._catalogue).release(lease)

    def keep_lease(self) -> None:
        """Acquire the lease, or renew it."""
        leases, lease = Leases(self._catalogue), self._lease
        self._lease = None if lease is None else leases.renew(lease)
        if self._lease is None:
            self._catalogue.create()
            self._lease = leases.acquire(LEASE, self._holder, self._watching.ttl_s)

    def look_locally(self) -> None:
        """Look at the sources of this process."""
        self._take(self._watching.local, None)

    def look_for_all(self) -> None:
        """Look at the sources that all see, if this process holds the lease."""
        if self._held() is not None:
            self._take(self._watching.shared, self._held)

    def deliver(self) -> None:
        """Send what is due, if this process holds the lease."""
        lease = self._held()
        if lease is None:
            return
        self._courier.deliver(lease)
        if time.monotonic() - self._swept_s >= _SWEEP_S:
            self._swept_s = time.monotonic()
            self._store.sweep(lease, _now())

    def _held(self) -> Lease | None:
        lease = self._lease
        return lease if lease is not None and lease.remaining_s > 0 else None

    def _take(self, sources: Sequence[Source], held: Callable[[], Lease | None] | None) -> None:
        observations = [one for source in sources for one in self._look(source)]
        models = {one.model for one in observations if one.model}
        lease = None
        if held is not None and (lease := held()) is None:
            return  # lost while it looked: the next holder looks itself
        self._catalogue.create()
        watching = self._watching
        open_models = {one.finding.model for one in self._store.alerts() if one.finding.model}
        self._store.take(
            lease, observations, watching.rules, watching.routing,
            watching.contacts(models | open_models), _now(),
        )  # fmt: skip

    def _look(self, source: Source) -> Sequence[Observation]:
        now_s = time.monotonic()
        if now_s - self._looked_s.get(source.name, -source.every_s) < source.every_s:
            return ()
        self._looked_s[source.name] = now_s
        try:
            return source.look(_now())
        except Exception:  # a source that fails must not keep the others from being looked at
            log.exception("alerts: the source %s failed", source.name)
            return ()

    def _repeat(self, act: Callable[[], None], every_s: float) -> None:
        while not self._stopped.is_set():
            try:
                act()
            except Conflict:
                pass  # the lease went to another process
            except BasculeError as error:
                log.warning("alerts: %s", error.message)
            except Exception:
                log.exception("alerts: a round failed")
            self._stopped.wait(every_s)


def _now() -> datetime:
    return datetime.now(UTC)
