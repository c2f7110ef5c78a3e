"""A fleet in one process, for tests and planning: devices of chance, the real store and decisions.

Each device reports at times of its own, later where it is sick, some twice, some not for days. The
server's clock is that of the simulation, and devices' clocks are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa

from bascule.catalogue import Catalogue
from bascule.core import Conflict
from bascule.edge import Channel, Offer
from bascule.fleet.operations import StoredDeviceRollout
from bascule.fleet.reports import Counts, Report
from bascule.fleet.schema import devices
from bascule.fleet.store import NEW, Fleet
from bascule.registry import Version

STABLE, CANDIDATE = Offer("late/1", "sha256:1"), Offer("late/2", "sha256:2")
_REQUESTS_PER_H, _ERRORS = 100.0, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to a fleet.

    Attributes:
        devices: Their number.
        harmed: The share of the devices that the candidate harms.
        harm: What happens to them: the golden check fails, or errors are twice as many.
        mute: Of those, the share that reports nothing any more.
        away: The share of the reports after which a device is away for three days, at the mean.
        twice: The share of the reports that come twice.
        hours: Between two reports of a device, at the mean.
        until_days: When the simulation ends.
    """

    devices: int = 10_000
    harmed: float = 0.0
    harm: Literal["golden", "errors"] = "errors"
    mute: float = 0.5
    away: float = 0.01
    twice: float = 0.1
    hours: float = 6.0
    until_days: float = 12.0


@dataclass
class Announced:
    """A channel in memory; see `store.Channels`."""

    content: Channel = field(default_factory=lambda: Channel("late", STABLE, 1))

    def channel(self, name: str) -> Channel | None:  # noqa: ARG002
        return self.content

    def publish_channel(self, name: str, content: Channel) -> None:
        if content.sequence != self.content.sequence + 1:
            raise Conflict(f"channel {name} was changed meanwhile")
        self.content = content

    def root(self) -> bytes:
        return b"{}"

    def refresh(self) -> None:
        """Nothing is signed."""


class Versions:
    """The registry of a simulation: it has the candidate."""

    def resolve(self, reference: str) -> Version:  # noqa: ARG002
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return Version("late", 2, CANDIDATE.digest, at, "simulation", "passed")


@dataclass
class Simulation:
    """One fleet, from a day before its rollout on."""

    catalogue: Catalogue
    scenario: Scenario
    seed: int
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    channels: Announced = field(default_factory=Announced)

    def __post_init__(self) -> None:
        count, self.draw = self.scenario.devices, np.random.default_rng(self.seed)
        self.names = [f"device-{number:05d}" for number in range(count)]
        registry: Any = Versions()
        self.fleet = Fleet(self.catalogue, self.channels, lambda: registry, lambda: self.now)
        self._enroll()
        self._next_h = self.draw.uniform(0, self.scenario.hours, count)
        self._last_h, self._sequence = np.zeros(count), np.zeros(count, np.int64)
        self._is_sick = self.draw.random(count) < self.scenario.harmed
        self._is_mute = self._is_sick & (self.draw.random(count) < self.scenario.mute)
        self._has, self._refused = np.zeros(count, bool), np.zeros(count, bool)

    def _enroll(self) -> None:
        """Without keys: nothing asks for them here."""
        about = {"group": "stable", "key": "", "enrolled_at": self.now, "enrolled_by": "simulation"}
        self.catalogue.create()
        with self.catalogue.write() as connection:
            rows = [{"name": name, **NEW, **about} for name in self.names]
            connection.execute(sa.insert(devices), rows)

    def run(self) -> tuple[StoredDeviceRollout, float]:
        """The rollout as it ended, or stood at the end; and the largest share that was exposed."""
        started, hour, exposed = self.now, 0.0, 0.0
        while hour < 24:
            hour += 1
            self._hour(hour, started)
        name = self.fleet.begin(CANDIDATE.version, "stable", by="ada").id
        while hour < 24 * self.scenario.until_days:
            stored = self.fleet.rollout(name)
            if stored.ended_at is not None:
                break
            self.fleet.advance(stored)
            exposed = max(exposed, float(self._is_offered().mean()))
            hour += 1
            self._hour(hour, started)
        return self.fleet.rollout(name), exposed

    def _hour(self, hour: float, started: datetime) -> None:
        self.now = started + timedelta(hours=hour)
        self._take()
        due = np.flatnonzero((self._next_h <= hour) & ~(self._has & self._is_mute))
        hours = hour - self._last_h[due]
        sick = self._has[due] & self._is_sick[due]
        requests = self.draw.poisson(_REQUESTS_PER_H * hours)
        errors = self.draw.binomial(requests, np.where(sick, 2 * _ERRORS, _ERRORS))
        self._send(
            due,
            lambda place, at: {
                "event": "counts", "running": CANDIDATE if self._has[place] else STABLE,
                "counts": Counts(int(requests[at]), int(errors[at])),
            },
        )  # fmt: skip
        self._last_h[due] = hour
        pause_h = self.draw.exponential(self.scenario.hours * np.where(sick, 3.0, 1.0))
        away = self.draw.random(len(due)) < self.scenario.away
        self._next_h[due] = hour + pause_h + np.where(away, self.draw.exponential(72, len(due)), 0)

    def _is_offered(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        candidate = self.channels.content.candidate
        if candidate is None:
            is_promoted = self.channels.content.stable == CANDIDATE
            return np.full(len(self.names), is_promoted)
        return np.array([candidate.takes(name) for name in self.names])

    def _take(self) -> None:
        """Devices install what they are offered, at the mean after two hours; they may fail."""
        offered = self._is_offered()
        self._has &= offered
        ready = offered & ~self._has & ~self._refused
        ready &= self.draw.random(len(ready)) < 0.4
        if self.scenario.harm == "golden":
            failed = np.flatnonzero(ready & self._is_sick)
            self._refused[failed] = True
            told = failed[~self._is_mute[failed]]
            self._send(told, lambda *_: {"event": "golden_failed", "running": CANDIDATE})
            self._next_h[failed[self._is_mute[failed]]] = np.inf
            ready &= ~self._is_sick
        self._has |= ready
        told = np.flatnonzero(ready & ~self._is_mute)
        self._send(told, lambda *_: {"event": "installed", "running": CANDIDATE})

    def _send(self, places: Any, about: Callable[[int, int], dict[str, Any]]) -> None:
        sent = {}
        for at, place in enumerate(places):
            self._sequence[place] += 1
            name = self.names[place]
            clock = f"{1970 + place % 90}-01-01T00:00:00"
            sent[name] = [Report(name, int(self._sequence[place]), clock, **about(place, at))]
        self.fleet.receive(sent)
        again = [name for name in sent if self.draw.random() < self.scenario.twice]
        self.fleet.receive({name: sent[name] for name in again})
