"""Looks at the sources, and sends notifications; runs on threads of the control process.

There is a lease for each server, under which its `local` sources are looked at, and one for what
all see and for the delivery. A process that dies loses nothing: states and outbox are in the
catalogue, and the next holder goes on from there. The alerts of a server that is gone for good,
which has no lease, are resolved. While the catalogue is away nothing is looked at; see `outage`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from bascule.catalogue import Catalogue, Lease, Leases
from bascule.core import BasculeError, Conflict, NotFound, Unavailable
from bascule.monitoring.alerts.advancing import Rules
from bascule.monitoring.alerts.delivery import Courier
from bascule.monitoring.alerts.findings import Finding, Observation, Source
from bascule.monitoring.alerts.outage import Outage
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
        place: The server, as its findings name it; empty for a process without a server.
        local: Sources that this process alone can read.
        shared: Sources that one process reads for all.
        receivers: Where notifications go.
        rules: How long things last.
        routing: Which receivers take what.
        contacts: Finds the contacts of models, by their names.
        note_away: Is called when the catalogue goes away and when it is back.
        round_s: How often sources are looked at and the outbox is sent.
        gone_after_s: How long a server has no lease before its alerts are resolved.
    """

    place: str = ""
    local: Sequence[Source] = ()
    shared: Sequence[Source] = ()
    receivers: Sequence[Receiver] = ()
    rules: Rules = field(default_factory=Rules)
    routing: Routing = field(default_factory=Routing)
    contacts: Callable[[Collection[str]], Mapping[str, Contacts]] = lambda _models: {}
    note_away: Callable[[bool], None] = lambda _is_away: None
    round_s: float = 15.0
    gone_after_s: float = 300.0

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
        self._outage = Outage(
            watching.place or socket.gethostname(), watching.rules, watching.routing,
            self._courier.send_now, watching.note_away,
        )  # fmt: skip
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._leases: dict[str, Lease | None] = {LEASE: None}
        if watching.place:
            self._leases[_lease_of(watching.place)] = None
        self._looked_s: dict[Source, float] = {}
        self._gone_s: dict[str, float] = {}
        self._swept_s = 0.0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Work on threads of this process, which end with it."""
        rounds: list[tuple[str, Callable[[], None]]] = [
            ("leases", self.keep_leases), ("local", self.look_locally),
            ("shared", self.look_for_all), ("upkeep", self.sweep),
            *((f"to-{one.name}", partial(self.deliver, [one.name]))
              for one in self._watching.receivers),
        ]  # fmt: skip
        for name, act in rounds:
            every_s = self._watching.ttl_s / 3 if name == "leases" else self._watching.round_s
            threading.Thread(
                target=self._repeat, args=(act, every_s), name=f"bascule-alerts-{name}", daemon=True
            ).start()

    def stop(self) -> None:
        """End the threads after their round, and leave the leases to others."""
        self._stopped.set()
        for name, lease in self._leases.items():
            self._leases[name] = None
            if lease is not None:
                with suppress(Unavailable):  # it ends by itself
                    Leases(self._catalogue).release(lease)

    def keep_leases(self) -> None:
        """Acquire the leases, or renew them."""
        leases = Leases(self._catalogue)
        for name, lease in list(self._leases.items()):
            renewed = None if lease is None else leases.renew(lease)
            if renewed is None and not self._stopped.is_set():
                self._catalogue.create()
                renewed = leases.acquire(name, self._holder, self._watching.ttl_s)
            self._leases[name] = renewed
        self._outage.end(_now())

    def look_locally(self) -> None:
        """Look at the sources of this server."""
        if self._watching.place:
            self._take(_lease_of(self._watching.place), self._watching.local)

    def look_for_all(self) -> None:
        """Look at the sources that all see, if this process holds the lease."""
        self._take(LEASE, self._watching.shared)

    def deliver(self, receivers: Collection[str] | None = None) -> None:
        """Send these receivers, or all, what is due, if this process holds the lease."""
        self._outage.notify(_now(), receivers)
        lease = self._held(LEASE)
        if lease is not None:
            self._courier.deliver(lease, receivers)

    def sweep(self) -> None:
        """Give up what no receiver of the settings can take; once a day, remove what is old."""
        self.deliver(())
        lease = self._held(LEASE)
        if lease is not None and time.monotonic() - self._swept_s >= _SWEEP_S:
            self._swept_s = time.monotonic()
            self._store.sweep(lease, _now())

    def _held(self, name: str) -> Lease | None:
        lease = self._leases[name]
        return lease if lease is not None and lease.remaining_s > 0 else None

    def _take(self, name: str, sources: Sequence[Source]) -> None:
        if self._held(name) is None:
            return
        observations = [one for source in sources for one in self._look(source)]
        try:
            self._keep(name, observations)
        except BaseException:
            for source in sources:
                source.again()
                self._looked_s.pop(source, None)
            raise

    def _keep(self, name: str, observations: list[Observation]) -> None:
        models = {one.model for one in observations if one.model}
        open_findings = [one.finding for one in self._store.alerts()]
        models |= {one.model for one in open_findings if one.model}
        if name == LEASE:
            observations += self._gone(open_findings)
        lease = self._held(name)
        if lease is None:
            raise Conflict("the lease ended during the look", hint="look again")
        watching = self._watching
        self._store.take(
            lease, observations, watching.rules, watching.routing, watching.contacts(models), _now()
        )

    def _gone(self, findings: Sequence[Finding]) -> list[Observation]:
        """Empty looks in place of the servers that are gone, so that their alerts are resolved."""
        holder, now_s = Leases(self._catalogue).holder, time.monotonic()
        places = {one.place for one in findings if one.place}
        self._gone_s = {
            place: self._gone_s.get(place, now_s)
            for place in places
            if holder(_lease_of(place)) is None
        }
        after_s = self._watching.gone_after_s
        gone = {place for place, since_s in self._gone_s.items() if now_s - since_s >= after_s}
        about = {(one.source, one.place, one.model) for one in findings if one.place in gone}
        return [Observation(*one, ()) for one in about]

    def _look(self, source: Source) -> Sequence[Observation]:
        now_s = time.monotonic()
        if now_s - self._looked_s.get(source, -source.every_s) < source.every_s:
            return ()
        self._looked_s[source] = now_s
        try:
            return source.look(_now())
        except BasculeError as error:
            log.warning("alerts: the source %s failed: %s", source.name, error.message)
            return ()
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
                if not self._is_away():
                    log.warning("alerts: %s", error.message)
            except Exception:
                log.exception("alerts: a round failed")
            self._stopped.wait(every_s)

    def _is_away(self) -> bool:
        """Whether the catalogue cannot be read now; notes that it is away."""
        try:
            with suppress(NotFound), self._catalogue.read():
                pass
        except Unavailable as error:
            self._outage.begin(error, _now())
            return True
        return False


def _lease_of(place: str) -> str:
    return f"{LEASE} of {place}"


def _now() -> datetime:
    return datetime.now(UTC)
