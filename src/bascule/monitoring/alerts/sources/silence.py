"""Silence: no request in an hour that usually has some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from bascule.monitoring.alerts.findings import Finding, Observation, Source
from bascule.monitoring.alerts.sources.daily import SETTLED

DAYS = 7
MIN_ROWS = 20
"""The same hour of each of the last `DAYS` days had at least so many rows."""

CountRows = Callable[[Sequence[datetime]], Mapping[str, Mapping[datetime, int]]]
"""By model: the rows of each of these whole UTC hours."""


class SilenceSource(Source):
    """Looks at each whole hour once it is over."""

    name = "silence"
    every_s = 60.0

    def __init__(self, count: CountRows, place: str) -> None:
        self._count = count
        self._place = place
        self._looked: datetime | None = None

    def again(self) -> None:
        """Look at the last hour again."""
        self._looked = None

    def look(self, now: datetime) -> Sequence[Observation]:
        settled = now.astimezone(UTC) - SETTLED
        hour = settled.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        if hour == self._looked:
            return ()
        hours = [hour - timedelta(days=day) for day in range(DAYS + 1)]
        counted = self._count(hours)
        self._looked = hour
        return [
            Observation(
                self.name, self._place, model,
                _silent(model, [rows.get(one, 0) for one in hours], hour, self._place, now),
            )
            for model, rows in counted.items()
        ]  # fmt: skip


def _silent(
    model: str, rows: Sequence[int], hour: datetime, place: str, now: datetime
) -> tuple[Finding, ...]:
    last, *usual = rows
    if last or min(usual) < MIN_ROWS:
        return ()
    said = (
        f"{model} on {place} answered nothing from {hour:%H:%M} to {hour.hour:02}:59 UTC; the same "
        f"hour of the last {DAYS} days had {min(usual):,} to {max(usual):,} rows"
    )
    return (
        Finding(
            "silence", "no_requests", model, "warning", said, 0, min(usual), now, place=place,
            evidence="bascule top",
        ),
    )  # fmt: skip
