"""What tests of devices share: a fleet over a catalogue, a clock that is set, and reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bench.simulated_fleets import CANDIDATE, STABLE, Announced, Versions

from bascule.edge import Offer
from bascule.fleet import Fleet, read_reports

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clocked:
    """A fleet whose clock is `now`, with one channel in memory."""

    def __init__(self, catalogue) -> None:
        self.now, self.channels = T0, Announced()
        self.fleet = Fleet(catalogue, self.channels, Versions, lambda: self.now)

    def enroll(self, *names, group="stable"):
        return [self.fleet.enroll(name, group, by="ada").key for name in names]

    def pass_hours(self, hours):
        self.now += timedelta(hours=hours)

    def report(self, device, sequence, event="counts", running=STABLE, key="", **more):
        reports = read_reports([report(device, sequence, event, running, **more)])
        return self.fleet.receive({device: reports}, key=key)[device]

    def device(self, name):
        return next(device for device in self.fleet.devices() if device.name == name)

    def begin(self, **plan):
        return self.fleet.begin("late/2", "stable", by="ada", **plan)


def report(device, sequence, event="counts", running=STABLE, **more):
    """A report as the agent writes it."""
    about = {"version": running.version, "digest": running.digest} if running else None
    return {
        "device": device, "sequence": sequence, "at": "1970-01-01T00:00:00+00:00", "event": event,
        "running": about, "reason": "", "bytes_received": 0, **more,
    }  # fmt: skip


def counts(requests, errors=0):
    return {"counts": {"requests": requests, "errors": errors, "latency_us": {}}}


__all__ = ["CANDIDATE", "STABLE", "T0", "Clocked", "Offer", "counts", "report"]
