"""Upkeep of the files of outcomes: many small ones become one, and old ones make room.

A merged file names in its metadata the keys of the files that it replaces, so its rename is the
commit: from then on, readers leave those out. They are removed a little later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bascule.monitoring.ledger.compaction import to_merge
from bascule.monitoring.ledger.manifest import Segment
from bascule.monitoring.ledger.outcome_spool import OUTCOMES, key_of, received_us
from bascule.monitoring.ledger.outcomes import (
    MERGED_FROM,
    MERGED_SUFFIX,
    SCHEMA,
    Outcomes,
    keys_merged,
)
from bascule.monitoring.ledger.scribe import Retention, Scribe, kept_segments
from bascule.monitoring.ledger.shared import SharedStore

log = logging.getLogger(__name__)

_EVERY_S = 60.0
LINGER_S = 30.0
"""A query that has listed the files has so long to open those that are merged."""


class OutcomeUpkeep:
    """The chore of a scribe that merges and removes files of outcomes."""

    def __init__(self, store: SharedStore | None = None) -> None:
        """Do nothing yet; `store` is where hosts share their outcomes."""
        self._store = store
        self._failed: set[str] = set()
        self._next_s = 0.0

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        if time.monotonic() >= self._next_s and not stopping.is_set():
            self._next_s = time.monotonic() + _EVERY_S
            self.tend(scribe.home, scribe.retention, datetime.now(UTC))

    def tend(self, home: Path, retention: Retention, now: datetime) -> None:
        """Do what is due. The retention is that of answers, by the day of receipt."""
        outcomes, folder = Outcomes(home), home / OUTCOMES
        outcomes.forget_merged(older_than_s=LINGER_S)
        files = [_described(file) for file in outcomes.stored()[0]]
        kept = kept_segments(files, retention, now)
        staying = {one.file for one in kept}
        if gone := [folder / one.file for one in files if one.file not in staying]:
            log.info("%d files of outcomes are removed: the retention is over", len(gone))
            self._remove(gone)
        sound = [one for one in kept if one.file not in self._failed]
        for group in to_merge(sound, now.astimezone(UTC).strftime("%Y-%m-%d")):
            try:
                merge(outcomes, [folder / one.file for one in group])
            except pa.ArrowException as error:
                # Left as they are: a query says what is wrong with one of them.
                self._failed.update(one.file for one in group)
                log.warning("%d files of outcomes are not merged: %s", len(group), error)

    def _remove(self, files: Collection[Path]) -> None:
        if self._store is not None:
            self._store.replace_outcomes(dict.fromkeys(files))
            return
        for file in files:
            file.unlink(missing_ok=True)


def merge(outcomes: Outcomes, files: Sequence[Path]) -> Path:
    """Write the rows of files of one model as one file, which replaces them.

    Two leaders that merge the same files make the same file. If they merged different ones, with
    some of them in both, the rows of these are twice in what they made, and once in its merger.
    """
    files = sorted(files)
    each = [[key_of(file), *keys_merged(file)] for file in files]
    merged = sorted({key for keys in each for key in keys})
    is_overlapping = sum(map(len, each)) > len(merged)
    first = min(received_us(file)[0] for file in files)
    last = max(received_us(file)[1] for file in files)
    digest = hashlib.sha256("\n".join(merged).encode()).hexdigest()[:16]
    target = files[0].with_name(f"{first}-{digest}.{last}{MERGED_SUFFIX}")
    batches = _each_once(_batches(files)) if is_overlapping else _batches(files)
    outcomes.write(target, batches, {MERGED_FROM: json.dumps(merged).encode()})
    return target


def _each_once(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Without the second of two rows that are the same in every column."""
    table = pa.Table.from_batches(batches, SCHEMA)
    columns = table.append_column("at", pa.array(range(len(table)), pa.int64()))
    first = columns.group_by(SCHEMA.names, use_threads=False).aggregate([("at", "min")])
    yield from table.take(first["at_min"].combine_chunks().sort()).to_batches()


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=SCHEMA.names):
            columns = [
                batch[field.name].cast(field.type)
                if field.name in batch.schema.names
                else pa.nulls(batch.num_rows, field.type)
                for field in SCHEMA
            ]
            yield pa.record_batch(columns, schema=SCHEMA)


def _described(file: Path) -> Segment:
    """As a segment of no version, of the day when its last outcome was received."""
    last = datetime.fromtimestamp(received_us(file)[1] / 1e6, UTC)
    return Segment(
        file=f"{file.parent.name}/{file.name}", model=file.parent.name, version="",
        day=last.strftime("%Y-%m-%d"), rows=0, size_bytes=file.stat().st_size,
    )  # fmt: skip
