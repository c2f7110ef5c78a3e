"""Silence: no request in an hour that usually has some."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from bascule.monitoring.alerts.findings import Finding, Observation

DAYS = 7
MIN_REQUESTS = 20
"""The same hour of each of the last `DAYS` days had at least so many requests."""

Hours = Mapping[str, Mapping[datetime, int]]
"""By model: requests by the UTC hour that they came in."""


class SilenceSource:
    """Looks at the last whole hour; only where the same hour of a week of days is on record."""

    name = "silence"
    every_s = 300.0

    def __init__(
        self, read: Callable[[datetime, datetime], Hours], place: str | None = None
    ) -> None:
        """`read` counts requests by model and hour, from one whole hour until before another."""
        self._read = read
        self._place = socket.gethostname() if place is None else place
        self._looked: datetime | None = None

    def look(self, now: datetime) -> Sequence[Observation]:
        hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        if hour == self._looked:
            return ()
        hours = self._read(hour - timedelta(days=DAYS), hour + timedelta(hours=1))
        self._looked = hour
        return [
            Observation(
                self.name, self._place, model, _silent(model, counts, hour, self._place, now)
            )
            for model, counts in hours.items()
        ]


def _silent(
    model: str, counts: Mapping[datetime, int], hour: datetime, place: str, now: datetime
) -> tuple[Finding, ...]:
    usual = [counts.get(hour - timedelta(days=day), 0) for day in range(1, DAYS + 1)]
    if counts.get(hour, 0) or min(usual) < MIN_REQUESTS:
        return ()
    said = (
        f"{model} on {place} had no request from {hour:%H:%M} to {hour.hour:02}:59 UTC; the same "
        f"hour of the last {DAYS} days had {min(usual):,} to {max(usual):,}"
    )
    return (
        Finding(
            "silence", "no_requests", model, "warning", said, 0, min(usual), now, place=place,
            evidence="bascule top",
        ),
    )  # fmt: skip
