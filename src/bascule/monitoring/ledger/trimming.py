"""Trimming: columns whose own retention is over are taken out of segments; rows stay.

A rule names `inputs`, `outputs`, a field, or `MODEL.FIELD`, and says how many days its values are
kept. The most particular rule counts, also where it keeps for longer.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq

from bascule.monitoring.ledger.compaction import write_merged
from bascule.monitoring.ledger.manifest import LEDGER, Segment
from bascule.monitoring.ledger.scribe import Scribe
from bascule.monitoring.ledger.tables import INPUT, OUTPUT, PRIVATE_KINDS

PARTS = {INPUT: "inputs", OUTPUT: "outputs"}


def expired(
    columns: Collection[str], model: str, day: str, today: date, days_kept: Mapping[str, int]
) -> list[str]:
    """The columns of a segment whose values are kept no longer. Pure.

    Args:
        columns: The names of its columns.
        model: Whose answers.
        day: Of the segment, as `2026-11-26`.
        today: The UTC day.
        days_kept: The rules.
    """
    age = (today - date.fromisoformat(day)).days
    gone = []
    for name in columns:
        part = next((PARTS[prefix] for prefix in PARTS if name.startswith(prefix)), "")
        field = name.partition(".")[2]
        field = next((field.removesuffix(k) for k in PRIVATE_KINDS if field.endswith(k)), field)
        rules = (f"{model}.{field}", field, part) if part else ()
        days = next((days_kept[rule] for rule in rules if rule in days_kept), None)
        if days is not None and age > days:
            gone.append(name)
    return gone


class Trimming:
    """The chore of a scribe that takes expired columns out of its segments, one commit each."""

    def __init__(self, days_kept: Mapping[str, int]) -> None:
        self._days_kept = dict(days_kept)
        self._columns: dict[str, list[str]] = {}

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        for segment in scribe.manifest.segments if self._days_kept else ():
            if stopping.is_set():
                return
            if trimmed := self.trim(scribe.home, segment, scribe.home / LEDGER):
                scribe.replace([segment], [trimmed])

    def trim(self, home: Path, segment: Segment, folder: Path) -> Segment | None:
        """Write a segment again without its expired columns; None where it has none."""
        if segment.file not in self._columns:
            self._columns[segment.file] = pq.read_schema(folder / segment.file).names
        today = datetime.now(UTC).date()
        gone = expired(
            self._columns[segment.file], segment.model, segment.day, today, self._days_kept
        )
        if not gone:
            return None
        file = Path(segment.file)
        name = f"{file.stem.removesuffix('-trimmed')}-{today:%Y%m%d}-trimmed.parquet"
        return write_merged(
            home, [folder / segment.file], segment.model, segment.version, segment.day, name,
            folder=folder, leaving=gone,
        )  # fmt: skip
