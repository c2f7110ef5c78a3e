"""Compaction: many small segments of a day become few of a sensible size.

The scribe commits a segment a minute, and a query opens every file, so small files are most of
its cost. The segments of a finished day are merged; today's are once there are many. Memory is
bounded by one row group: inputs are read and written batch by batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bascule.core import synced
from bascule.monitoring.ledger.manifest import LEDGER, Segment
from bascule.monitoring.ledger.outcomes import Outcomes
from bascule.monitoring.ledger.scribe import Scribe

log = logging.getLogger(__name__)

MERGED_BYTES = 64 << 20
"""Segments are merged up to this size; those of half of it and more stay as they are."""
_MANY_TODAY = 16
_GROUP_ROWS = 131_072
_GROUP_BYTES = 64 << 20
_BATCH_ROWS = 8_192


def to_merge(segments: Sequence[Segment], today: str) -> list[list[Segment]]:
    """Which segments become one each: of the same version and day, the oldest first. Pure.

    Args:
        segments: All of the ledger.
        today: The UTC day as `2026-11-26`: its segments are merged once 16 of them are small.
    """
    alike: dict[tuple[str, str, str], list[Segment]] = {}
    for one in sorted(segments, key=lambda one: one.file):
        if one.size_bytes < MERGED_BYTES // 2:
            alike.setdefault((one.day, one.model, one.version), []).append(one)
    found = []
    for (day, *_), small in sorted(alike.items()):
        if len(small) >= (_MANY_TODAY if day >= today else 2):
            found += [group for group in _packed(small) if len(group) > 1]
    return found


def _packed(small: Sequence[Segment]) -> list[list[Segment]]:
    groups: list[list[Segment]] = [[]]
    size = 0
    for one in small:
        if groups[-1] and size + one.size_bytes > MERGED_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += one.size_bytes
    return groups


class Compaction:
    """The chore of a scribe that merges segments, one commit a merge."""

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        Outcomes(scribe.home).fold()
        while not stopping.is_set():
            today = datetime.now(UTC).strftime("%Y-%m-%d")
            sound = [one for one in scribe.manifest.segments if one.file not in self._failed]
            if not (groups := to_merge(sound, today)):
                return
            self._merge(scribe, groups[0])

    def _merge(self, scribe: Scribe, group: Sequence[Segment]) -> None:
        first = group[0]
        files = [scribe.home / LEDGER / one.file for one in group]
        name = scribe.next_name("merged")
        try:
            made = write_merged(scribe.home, files, first.model, first.version, first.day, name)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # of the disk, such as a full one, and not of a file
            # Left as they are: a query says what is wrong with one of them.
            self._failed.update(one.file for one in group)
            log.warning("%d segments of %s are not merged: %s", len(group), first.model, error)
            return
        if made is not None:
            scribe.replace(group, [made])


def write_merged(
    home: Path,
    files: Sequence[Path],
    model: str,
    version: str,
    day: str,
    name: str,
    *,
    without: Sequence[pa.Array] | None = None,
    folder: Path | None = None,
    leaving: Collection[str] = (),
) -> Segment | None:
    """Write the rows of files as one segment; None where there are none.

    Args:
        home: The home.
        files: The segments, in the order of time.
        model: Whose answers.
        version: Of which version.
        day: Of which day.
        name: Of the new file.
        without: For each file, the numbers of the rows that are left out, in order.
        folder: Where segments are, if not in `ledger` of the home.
        leaving: Columns that are left out.
    """
    place = f"{model}/{version}/{day}/{name}"
    target = (folder or home / LEDGER) / place
    target.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.unify_schemas(
        [pq.read_schema(file) for file in files], promote_options="permissive"
    )
    schema = pa.schema([field for field in schema if field.name not in leaving])
    rows = 0
    expected = min(_GROUP_ROWS, sum(pq.read_metadata(file).num_rows for file in files))
    # Ids have no order: without a filter, a look for one reads them all.
    filters = {"id": {"ndv": max(1, expected), "fpp": 0.01}}
    try:
        with (
            synced(target) as opened,
            pq.ParquetWriter(
                opened, schema, compression="zstd", bloom_filter_options=filters
            ) as writer,
        ):
            for table in _groups(files, schema, without):
                writer.write_table(table.sort_by("time"))
                rows += table.num_rows
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    if not rows:
        target.unlink()
        return None
    return Segment(
        file=place, model=model, version=version, day=day, rows=rows,
        size_bytes=target.stat().st_size,
    )  # fmt: skip


def _groups(
    files: Sequence[Path], schema: pa.Schema, without: Sequence[pa.Array] | None
) -> Iterator[pa.Table]:
    """The rows as tables of the size of a row group."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for number, file in enumerate(files):
        start = 0
        opened = pq.ParquetFile(file)
        names = [name for name in opened.schema_arrow.names if name in schema.names]
        for batch in opened.iter_batches(_BATCH_ROWS, columns=names):
            table = pa.table(batch)
            if without is not None:
                gone = without[number].to_numpy()
                gone = gone[slice(*np.searchsorted(gone, (start, start + len(batch))))] - start
                if len(gone):
                    kept = np.ones(len(batch), bool)
                    kept[gone] = False
                    table = table.filter(pa.array(kept))
            start += len(batch)
            if not table.num_rows:
                continue
            waiting.append(
                pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
            )
            rows, size = rows + table.num_rows, size + table.nbytes
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                yield pa.concat_tables(waiting)
                waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)
