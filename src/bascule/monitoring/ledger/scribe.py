"""The scribe: turns the spool into Parquet segments, each row exactly once.

A turn reads the blocks after what the manifest says, writes segments, and commits segments and
progress by one rename. Killed anywhere, it repeats that turn: segments that no manifest names are
removed when the next one starts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bascule.core import Conflict, Unavailable
from bascule.monitoring.ledger.blocks import Block, read_blocks
from bascule.monitoring.ledger.manifest import (
    LEDGER,
    MANIFEST,
    Gap,
    Manifest,
    Progress,
    Segment,
    commit,
    read_manifest,
    sync_folder,
)  # fmt: skip
from bascule.monitoring.ledger.outcomes import Outcomes
from bascule.monitoring.ledger.spool import WriterFolder, writers
from bascule.monitoring.ledger.tables import tables_of

log = logging.getLogger(__name__)

TURN_BYTES = 32 << 20
"""So much of the spool is looked at in one turn: it bounds the memory."""
_COMMIT_BYTES = 8 << 20
_COMMIT_S = 60.0
_SETTLED_S = 3.0
"""A living writer's newest interval is left alone for so long: its share may still fall."""
_MAX_GAPS = 1_000


class Retention(NamedTuple):
    """What the ledger keeps: the newest days, for so many days, in so many bytes."""

    max_bytes: int
    days: int


FOR_EVER = Retention(1 << 62, 1 << 20)


def kept_segments(
    segments: Sequence[Segment], retention: Retention, now: datetime
) -> list[Segment]:
    """Those that are kept: of the last days, the newest first until they are too large."""
    oldest = (now - timedelta(days=min(retention.days, 100_000))).strftime("%Y-%m-%d")
    room = retention.max_bytes
    kept = []
    for segment in sorted(segments, key=lambda one: (one.day, one.file), reverse=True):
        room -= segment.size_bytes
        if segment.day >= oldest and room >= 0:
            kept.append(segment)
    return kept[::-1]


@dataclass(slots=True)
class _Change:
    """What one turn adds to the manifest."""

    segments: list[Segment] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    progress: dict[str, Progress] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.segments or self.gaps or self.progress)


class Scribe:
    """The one process that writes the ledger of a home."""

    def __init__(
        self, home: Path, *, commit_s: float = _COMMIT_S, retention: Retention = FOR_EVER
    ) -> None:
        """Take the ledger's lock, and remove what an earlier scribe left half done.

        Args:
            home: The home.
            retention: What is kept.
            commit_s: How old an answer in the spool may get before a segment is written of it,
                where there are few.

        Raises:
            Conflict: Another scribe has the lock.
        """
        self._home = home
        self._commit_s = commit_s
        self._retention = retention
        self._folded_s = time.monotonic()
        folder = home / LEDGER
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Conflict(f"another scribe writes the ledger in {folder}") from None
        self._manifest = read_manifest(home)
        self._remove_orphans()

    def close(self) -> None:
        self._lock.close()

    def run(self, stopping: threading.Event, every_s: float = 1.0) -> None:
        """Take turns until `stopping` is set; then take in all that there is."""
        while not stopping.wait(every_s):
            while self.turn():
                pass
            self._fold_outcomes()
        while self.turn(everything=True):
            pass

    def _fold_outcomes(self) -> None:
        if time.monotonic() - self._folded_s > _COMMIT_S:
            self._folded_s = time.monotonic()
            try:
                Outcomes(self._home).fold()
            except (OSError, Unavailable) as error:
                log.warning("outcomes cannot be folded: %s", error)

    def turn(self, *, everything: bool = False) -> bool:
        """Commit what is due; whether something was.

        Args:
            everything: Commit blocks of any age, also those of running writers.
        """
        change = _Change()
        budget = TURN_BYTES
        for writer in writers(self._home):
            before = self._manifest.writers.get(writer.name, Progress())
            if before.is_ended:
                shutil.rmtree(writer.path, ignore_errors=True)
                continue
            is_alive = writer.is_alive()
            if is_alive and not everything and not self._is_due(writer, before):
                continue
            blocks, after, size = _read(writer, before, budget, settled=is_alive and not everything)
            change.segments += self._write(blocks, writer.name)
            change.gaps += _gaps(writer, after, has_ended=not is_alive and not blocks)
            after.is_ended = not is_alive and not blocks
            if after != before:
                change.progress[writer.name] = after
            budget -= size
            if budget <= 0:
                break
        if change.is_empty:
            return False
        self._commit(change)
        return True

    def _is_due(self, writer: WriterFolder, before: Progress) -> bool:
        size = sum(file.stat().st_size - before.files.get(file.name, 0) for file in writer.files())
        if size <= 0:
            return False
        return size >= _COMMIT_BYTES or time.time() - self._committed_s(writer) >= self._commit_s

    def _committed_s(self, writer: WriterFolder) -> float:
        try:
            return (self._home / LEDGER / MANIFEST).stat().st_mtime
        except FileNotFoundError:
            return writer.path.stat().st_mtime

    def _write(self, blocks: list[Block], writer: str) -> list[Segment]:
        made: list[Segment] = []
        for model, version, table in tables_of(blocks):
            days = table["time"].cast(pa.date32())
            for day in pc.unique(days).to_pylist():
                part = table.filter(pc.equal(days, day)).sort_by("time")
                name = f"{self._manifest.sequence + 1:08d}-{writer}-{len(made)}.parquet"
                made.append(write_segment(self._home, part, model, version, str(day), name))
        return made

    def _commit(self, change: _Change) -> None:
        there = {writer.name for writer in writers(self._home)}
        known = {**self._manifest.writers, **change.progress}
        made = Manifest(
            sequence=self._manifest.sequence + 1,
            segments=kept_segments(
                [*self._manifest.segments, *change.segments], self._retention, datetime.now(UTC)
            ),
            writers={name: one for name, one in known.items() if name in there},
            gaps=[*self._manifest.gaps, *change.gaps][-_MAX_GAPS:],
        )
        for folder in {(self._home / LEDGER / one.file).parent for one in change.segments}:
            sync_folder(folder)
        commit(self._home, made)
        removed = set(self._manifest.segments) - set(made.segments)
        self._manifest = made
        for segment in removed:
            (self._home / LEDGER / segment.file).unlink(missing_ok=True)
        for gap in change.gaps:
            log.warning(
                "the ledger lacks %d requests of %s (%s); the latest: %s",
                gap.requests, gap.writer, gap.why, ", ".join(gap.ids[-3:]) or "not known",
            )  # fmt: skip
        for writer in writers(self._home):
            done = made.writers.get(writer.name, Progress())
            if done.is_ended:
                shutil.rmtree(writer.path, ignore_errors=True)
            else:
                _remove_read_files(writer, done)

    def _remove_orphans(self) -> None:
        folder = self._home / LEDGER
        named = {one.file for one in self._manifest.segments}
        for file in folder.glob("*/*/*/*.parquet*"):
            if str(file.relative_to(folder)) not in named:
                file.unlink(missing_ok=True)


def write_segment(
    home: Path, table: pa.Table, model: str, version: str, day: str, name: str
) -> Segment:
    """Write a table, on the disk when this returns but for the name in its folder."""
    place = f"{model}/{version}/{day}/{name}"
    file = home / LEDGER / place
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        pq.write_table(table, opened, compression="zstd")
        opened.flush()
        os.fsync(opened.fileno())
    return Segment(
        file=place, model=model, version=version, day=day, rows=table.num_rows,
        size_bytes=file.stat().st_size,
    )  # fmt: skip


def _read(
    writer: WriterFolder, before: Progress, budget: int, *, settled: bool
) -> tuple[list[Block], Progress, int]:
    """The next blocks of a writer, its progress once they are in segments, and the bytes read.

    With `settled` the newest interval is left alone for a while: its share may still fall.
    """
    there = writer.files()
    names = {file.name for file in there}
    done = {name: size for name, size in before.files.items() if name in names}
    found: list[tuple[Block, Path, int]] = []
    size = 0
    for file in there:
        start = done.get(file.name, 0)
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(max(budget - size, 0))
            here = [(block, file, start + end) for block, end in read_blocks(data)]
            if not here and not found and len(data) == budget:  # a block of more than the budget
                data += opened.read()
                here = [(block, file, start + end) for block, end in read_blocks(data)]
        found += here
        size += len(data)
        if size >= budget:
            break
    if settled and found and time.time() - found[-1][1].stat().st_mtime < _SETTLED_S:
        newest = max(block.interval for block, _, _ in found)
        found = [one for one in found if one[0].interval < newest]
    requests = before.requests + sum(len(block.requests["id"]) for block, _, _ in found)
    done |= {file.name: end for _, file, end in found}
    return (
        [block for block, _, _ in found],
        Progress(files=done, requests=requests, dropped=before.dropped),
        size,
    )


def _gaps(writer: WriterFolder, after: Progress, *, has_ended: bool) -> list[Gap]:
    """The missing requests of a writer; `after` learns how many are listed."""
    pending = writer.pending()
    found_at = datetime.now(UTC).isoformat()
    gaps = []
    if (dropped := pending.dropped - after.dropped) > 0:
        after.dropped = pending.dropped
        gaps.append(Gap(writer=writer.name, found_at=found_at, requests=dropped, why="dropped"))
    if has_ended and (lost := pending.kept - after.requests - after.dropped) > 0:
        ids = pending.ids[-lost:]
        gaps.append(
            Gap(writer=writer.name, found_at=found_at, requests=lost, why="killed", ids=ids)
        )
    return gaps


def _remove_read_files(writer: WriterFolder, done: Progress) -> None:
    """Remove the files that are wholly in segments; with the last its writer goes on."""
    for file in writer.files()[:-1]:
        if done.files.get(file.name, -1) >= file.stat().st_size:
            file.unlink(missing_ok=True)
