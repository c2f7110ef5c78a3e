"""Loss of the ledger: answered requests that are not in it, and a scribe that is behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from bascule.monitoring.alerts.findings import Finding, Observation, Severity, Source
from bascule.monitoring.ledger import Backlog, Gap, Ledger, read_backlog

LOSS_WINDOW = timedelta(hours=24)
MAX_LAG_S = 300.0
_LOSSES: dict[str, tuple[Severity, str]] = {
    "killed": ("warning", "a worker ended before it wrote them"),
    "dropped": ("critical", "the disk was full or too slow"),
}
_EVIDENCE = "bascule ledger query 'SELECT count(*) FROM predictions'"


class LedgerSource(Source):
    """Looks at the ledger of the home."""

    name = "ledger"
    every_s = 0.0  # at each round

    def __init__(
        self,
        home: Path,
        place: str,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._place = place
        self._clock_s = clock_s
        self._behind: tuple[int, float] | None = None

    def look(self, now: datetime) -> Sequence[Observation]:
        gaps = Ledger(self._home).gaps()
        found = [
            *losses(gaps, self._place, now),
            *lag(self._lag_s(read_backlog(self._home)), self._place, now),
        ]
        return [Observation(self.name, self._place, "", tuple(found))]

    def _lag_s(self, backlog: Backlog) -> float:
        """How long there have been unread blocks without a commit of the scribe."""
        if not backlog.unread_bytes:
            self._behind = None
            return 0.0
        if self._behind is None or self._behind[0] != backlog.sequence:
            self._behind = backlog.sequence, self._clock_s()
        return self._clock_s() - self._behind[1]


def losses(gaps: Sequence[Gap], place: str, now: datetime) -> Iterator[Finding]:
    """One finding for each reason of a loss in the last 24 hours."""
    for why, (severity, words) in _LOSSES.items():
        since = now - LOSS_WINDOW
        lost = sum(
            gap.requests
            for gap in gaps
            if gap.why == why and datetime.fromisoformat(gap.found_at) >= since
        )
        if lost:
            said = (
                f"{lost:,} answers of the last 24 hours on {place} are not in the ledger: {words}"
            )
            yield Finding(
                "ledger", f"lost_{why}", "", severity, said, lost, 0, now, place=place,
                evidence=_EVIDENCE,
            )  # fmt: skip


def lag(lag_s: float, place: str, now: datetime) -> Iterator[Finding]:
    """A finding where the scribe is behind."""
    if lag_s > MAX_LAG_S:
        said = (
            f"the ledger on {place} is {lag_s / 60:.0f} minutes behind, limit {MAX_LAG_S / 60:.0f}"
        )
        yield Finding(
            "ledger", "lag", "", "warning", said, lag_s, MAX_LAG_S, now, place=place,
            evidence=_EVIDENCE,
        )  # fmt: skip
