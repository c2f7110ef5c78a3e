"""What the manifest and the spool say without a look into the rows: backlog, and days with rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bascule.monitoring.ledger.manifest import Progress, read_manifest
from bascule.monitoring.ledger.spool import writers


@dataclass(frozen=True, slots=True)
class Backlog:
    """The spool at one moment.

    Attributes:
        sequence: Of the manifest; it grows with each commit of the scribe.
        unread_bytes: In the spool, of blocks that are in no segment.
    """

    sequence: int
    unread_bytes: int


def read_backlog(home: Path) -> Backlog:
    """The backlog of the ledger in `home`. Raises `Untrusted` where the manifest is unreadable."""
    manifest = read_manifest(home)
    unread = 0
    for writer in writers(home):
        done = manifest.writers.get(writer.name, Progress())
        for file in [] if done.is_ended else writer.files():
            try:
                unread += max(0, file.stat().st_size - done.files.get(file.name, 0))
            except FileNotFoundError:
                continue  # the scribe has read and removed it
    return Backlog(manifest.sequence, unread)


def newest_days(home: Path, before: date) -> Mapping[str, date]:
    """By model, the newest UTC day before another that has rows in segments or profiles."""
    manifest = read_manifest(home)
    days: dict[str, date] = {}
    known = {(one.model, one.day) for one in manifest.segments}
    known |= {(one.model, one.day) for one in manifest.profiles}
    for model, text in known:
        day = date.fromisoformat(text)
        if day < before:
            days[model] = max(day, days.get(model, day))
    return days
