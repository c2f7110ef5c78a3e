"""What the ledger holds, and how far its processes are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bascule.monitoring.ledger.backlog import read_backlog
from bascule.monitoring.ledger.deletion import requested
from bascule.monitoring.ledger.manifest import LEDGER, MANIFEST, Gap, Manifest, read_manifest
from bascule.monitoring.ledger.shared import NO_VIEW, View, shared_of
from bascule.monitoring.ledger.spool import is_locked, writers


@dataclass(frozen=True, slots=True)
class Day:
    """What the segments of one model and UTC day hold."""

    model: str
    day: str
    rows: int
    segments: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """The ledger of a home, with that of other hosts where it is shared.

    Attributes:
        days: By model and day, the oldest first.
        spool_bytes: What workers of this host wrote and no segment holds yet.
        lag_s: How long the spool of this host waits; 0 where nothing does.
        dropped: Requests that are not recorded for want of space, those that no gap lists yet
            included.
        has_scribe: Whether a process of this host takes in the spool.
        gaps: Requests that were answered and are not in the ledger, the latest last.
        hosts: By name, when each host that shares the ledger has last written; ISO 8601.
        deletions: How many are asked for and not carried out.
    """

    days: list[Day]
    spool_bytes: int
    lag_s: float
    dropped: int
    has_scribe: bool
    gaps: list[Gap]
    hosts: dict[str, str]
    deletions: int

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.days)

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self.days)


def read_status(home: Path) -> Status:
    """Raises `Unavailable` where other hosts share the ledger and the store is away."""
    store = shared_of(home)
    manifest = read_manifest(home)
    view = NO_VIEW if store is None else store.view()
    spool_bytes = read_backlog(home).unread_bytes
    gaps = {gap for host in view.hosts.values() for gap in host.gaps} | set(manifest.gaps)
    return Status(
        days=_days(manifest, view),
        spool_bytes=spool_bytes,
        lag_s=_committed_ago_s(home) if spool_bytes else 0.0,
        dropped=_dropped(home, manifest) + sum(g.requests for g in gaps if g.why == "dropped"),
        has_scribe=is_locked(home / LEDGER / "lock"),
        gaps=sorted(gaps, key=lambda gap: gap.found_at),
        hosts={name: host.written_at for name, host in sorted(view.hosts.items())},
        deletions=len(requested(home)),
    )


def _days(manifest: Manifest, view: View) -> list[Day]:
    known = view.known()
    found: dict[tuple[str, str], Day] = {}
    for one in [*(one for one in manifest.segments if one.file not in known), *view.segments()]:
        key = one.day, one.model
        now = found.get(key, Day(one.model, one.day, 0, 0, 0))
        found[key] = Day(
            one.model, one.day, now.rows + one.rows, now.segments + 1,
            now.size_bytes + one.size_bytes,
        )  # fmt: skip
    return [found[key] for key in sorted(found)]


def _dropped(home: Path, manifest: Manifest) -> int:
    """By workers of this host, since their last commit."""
    listed = {name: one.dropped for name, one in manifest.writers.items()}
    return sum(one.pending().dropped - listed.get(one.name, 0) for one in writers(home))


def _committed_ago_s(home: Path) -> float:
    """Since the last commit; where there is none, since the first writer began."""
    file = home / LEDGER / MANIFEST
    places = [file] if file.exists() else [writer.path for writer in writers(home)]
    return max(0.0, time.time() - min(place.stat().st_mtime for place in places))
