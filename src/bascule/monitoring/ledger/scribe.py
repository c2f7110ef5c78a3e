"""The scribe: turns the spool into Parquet segments and profiles, each row exactly once.

A turn reads the blocks after what the manifest says, writes segments, adds the rows to the profiles
of their day, and commits segments, profiles and progress by one rename. Killed anywhere, it repeats
that turn: files that no manifest names are removed when the next one starts.
"""

from __future__ import annotations

import fcntl
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bascule.core import BasculeError, Columns, Conflict, sync_folder, synced
from bascule.monitoring.ledger.blocks import Array, Block, read_blocks
from bascule.monitoring.ledger.manifest import (
    LEDGER,
    MANIFEST,
    Deleted,
    Gap,
    Manifest,
    Progress,
    Segment,
    commit,
    read_manifest,
)  # fmt: skip
from bascule.monitoring.ledger.sealing import FieldKeys
from bascule.monitoring.ledger.spool import WriterFolder, writers
from bascule.monitoring.ledger.subjects import (
    Digests,
    note_erased_rows,
    rows_to_keep,
    tombstones_of,
)
from bascule.monitoring.ledger.tables import Answers, answers_of, tables_of
from bascule.monitoring.profiles import RETENTION_DAYS, Folding, ProfileFile
from bascule.stats import WindowProfile

log = logging.getLogger(__name__)

TURN_BYTES = 32 << 20
"""So much of the spool is looked at in one turn: it bounds the memory."""
_COMMIT_BYTES = 16 << 20
_COMMIT_S = 60.0
_SETTLED_S = 3.0
"""A living writer's newest interval is left alone for so long: its share may still fall."""
_MAX_GAPS = 1_000
_WARN_EVERY_S = 60.0
_LINGER_S = 30.0
"""A query that has read the manifest has so long to open the files of segments that are merged."""
_OK = 200


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


def kept_profiles(files: Sequence[ProfileFile], now: datetime) -> list[ProfileFile]:
    """Those of the last `RETENTION_DAYS` days; they are small."""
    oldest = (now - timedelta(days=RETENTION_DAYS)).strftime("%Y-%m-%d")
    return [one for one in files if one.day >= oldest]


@dataclass(slots=True)
class _Change:
    """What one turn adds to the manifest."""

    segments: list[Segment] = field(default_factory=list)
    removed: Collection[Segment] = ()
    profiles: Sequence[ProfileFile] | None = None
    deletions: dict[str, Deleted] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    progress: dict[str, Progress] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.segments or self.gaps or self.progress)


class Chore(Protocol):
    """Work on segments that a scribe does between its turns."""

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        """Do what is due, in steps that `Scribe.replace` commits; once `stopping`, little."""


class Scribe:
    """The one process that writes the ledger of a home."""

    def __init__(
        self,
        home: Path,
        *,
        commit_s: float = _COMMIT_S,
        retention: Retention = FOR_EVER,
        chores: Sequence[Chore] = (),
    ) -> None:
        """Take the ledger's lock, and remove what an earlier scribe left half done.

        Args:
            home: The home.
            retention: What is kept.
            commit_s: How old an answer in the spool may get before a segment is written of it,
                where there are few.
            chores: What `run` does after its turns, one after the other.

        Raises:
            Conflict: Another scribe has the lock.
        """
        self.home = self._home = home
        self._commit_s = commit_s
        self._retention = retention
        self._chores = chores
        self._warned_s = 0.0
        self._leaving: list[tuple[float, Path]] = []
        folder = home / LEDGER
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Conflict(f"another scribe writes the ledger in {folder}") from None
        self._manifest = read_manifest(home)
        self._seal = FieldKeys(home).seal
        self._folding = Folding(home, self._manifest.profiles)
        self._remove_orphans()

    def close(self) -> None:
        for _, file in self._leaving:
            file.unlink(missing_ok=True)
        self._lock.close()

    def run(self, stopping: threading.Event, every_s: float = 1.0) -> None:
        """Take turns until `stopping` is set; then take in all that there is."""
        while not stopping.wait(every_s):
            while self.turn():
                pass
            for chore in self._chores:
                self._do(chore, stopping)
        while self.turn(everything=True):
            pass
        for chore in self._chores:
            self._do(chore, stopping)

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

    @property
    def retention(self) -> Retention:
        """What is kept."""
        return self._retention

    @property
    def manifest(self) -> Manifest:
        """The one that was committed last."""
        return self._manifest

    def change_windows(self, model: str, change: Callable[[WindowProfile], bool]) -> None:
        """Change windows of a model that this host has made; `replace` commits that."""
        self._folding.change(model, change)

    def next_name(self, label: str) -> str:
        """Of a new segment, for `write_segment`; unique, also among hosts."""
        return f"{self._manifest.sequence + 1:08d}-{label}-{secrets.token_hex(4)}.parquet"

    def replace(
        self,
        removed: Collection[Segment],
        added: Sequence[Segment],
        *,
        profiles: Sequence[ProfileFile] | None = None,
        deletions: Mapping[str, Deleted] | None = None,
    ) -> None:
        """Commit segments in place of others, whose files go a little later, for readers in flight.

        Args:
            removed: Segments that count no more.
            added: Segments that are written.
            profiles: Those of other hosts from now on; None leaves them.
            deletions: What became of deletions; files that these remove go at once.
        """
        change = _Change(
            segments=list(added), removed=removed, profiles=profiles,
            deletions=dict(deletions or {}),
        )  # fmt: skip
        self._commit(change, linger_s=0.0 if deletions else _LINGER_S)

    def _do(self, chore: Chore, stopping: threading.Event) -> None:
        """Do a chore that may fail: the spool goes on being taken in."""
        try:
            chore.work(self, stopping)
        except Exception as error:
            now_s = time.monotonic()
            if now_s - self._warned_s >= _WARN_EVERY_S or not self._warned_s:
                self._warned_s = now_s
                is_known = isinstance(error, OSError | BasculeError)
                name = type(chore).__name__.lower()
                log.warning("%s of the ledger failed: %s", name, error, exc_info=not is_known)

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
        answers = self._without_erased(answers_of(blocks))
        for one in answers:
            self._fold(one)
        for model, version, table in tables_of(answers, self._seal):
            for day, part in _by_day(table):
                name = f"{self._manifest.sequence + 1:08d}-{writer}-{len(made)}.parquet"
                made.append(write_segment(self._home, part, model, version, day, name))
        return made

    def _without_erased(self, answers: list[Answers]) -> list[Answers]:
        """Without rows of people who are erased, that arrive late."""
        if not answers or not (tombstones := tombstones_of(self._home)):
            return answers
        digests = Digests(self._home)
        masks = [rows_to_keep(one, tombstones, digests) for one in answers]
        for one, mask in zip(answers, masks, strict=True):
            if not mask.all():
                note_erased_rows(self._home, one, mask, tombstones, digests)
        return [
            one if mask.all() else one.take(np.flatnonzero(mask))
            for one, mask in zip(answers, masks, strict=True)
        ]

    def _fold(self, answers: Answers) -> None:
        """Add the answered rows to the profiles of their day."""
        if not answers.inputs and not answers.outputs:
            return
        requests = answers.requests
        # A batch run that keeps no rows records a bounded sample.
        is_sample = answers.head.is_anonymous and all(
            protocol == "batch" for _, protocol, *_ in answers.origins
        )
        for day, rows in answers.days():
            rows = rows[requests["status"][rows] == _OK]
            if len(rows):
                self._folding.add(
                    (answers.head.model, answers.head.version, day),
                    requests["time_ns"][rows],
                    1 / answers.shares[rows],
                    partial(_columns_of, answers, rows),
                    is_sample=is_sample,
                )

    def _commit(self, change: _Change, linger_s: float = 0.0) -> None:
        sequence = self._manifest.sequence + 1
        others = change.profiles
        if others is None:
            others = [one for one in self._manifest.profiles if one.host != self._folding.host]
        profiles = kept_profiles([*others, *self._folding.write(sequence)], datetime.now(UTC))
        there = {writer.name for writer in writers(self._home)}
        known = {**self._manifest.writers, **change.progress}
        staying = [one for one in self._manifest.segments if one not in change.removed]
        deletions = self._manifest.deletions | change.deletions
        made = Manifest(
            sequence=sequence,
            profiles=profiles,
            segments=kept_segments(
                [*staying, *change.segments], self._retention, datetime.now(UTC)
            ),
            writers={name: one for name, one in known.items() if name in there},
            gaps=[*self._manifest.gaps, *change.gaps][-_MAX_GAPS:],
            deletions=dict(list(deletions.items())[-_MAX_GAPS:]),
        )
        before, after = _files(self._manifest), _files(made)
        for folder in {(self._home / LEDGER / file).parent for file in after - before}:
            sync_folder(folder)
        commit(self._home, made)
        removed = (before | {one.file for one in change.segments}) - after
        self._manifest = made
        self._folding.forget(profiles)
        self._leave([self._home / LEDGER / file for file in removed], linger_s)
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

    def _leave(self, files: list[Path], linger_s: float) -> None:
        """Remove files after some time, and those whose time has come; a restart removes all."""
        now_s = time.monotonic()
        self._leaving += [(now_s + linger_s, file) for file in files]
        for at_s, file in self._leaving:
            if at_s <= now_s:
                file.unlink(missing_ok=True)
        self._leaving = [(at_s, file) for at_s, file in self._leaving if at_s > now_s]

    def _remove_orphans(self) -> None:
        folder = self._home / LEDGER
        named = _files(self._manifest)
        for kind in ("parquet*", "profile"):
            for file in folder.glob(f"*/*/*/*.{kind}"):
                if str(file.relative_to(folder)) not in named:
                    file.unlink(missing_ok=True)


def _files(manifest: Manifest) -> set[str]:
    named = [one.file for one in manifest.segments] + [one.file for one in manifest.profiles]
    return set(named)


def _columns_of(answers: Answers, rows: Array, chosen: Array) -> tuple[Columns, Columns]:
    return answers.columns(rows[chosen])


def _by_day(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each UTC day; nearly always there is one."""
    days = table["time"].cast(pa.date32())
    ends = pc.min_max(days)
    if ends["min"] == ends["max"]:
        yield str(ends["min"]), table
        return
    for day in pc.unique(days):
        yield str(day), table.filter(pc.equal(days, day))


def write_segment(
    home: Path, table: pa.Table, model: str, version: str, day: str, name: str
) -> Segment:
    """Write a table, on the disk when this returns but for the name in its folder."""
    place = f"{model}/{version}/{day}/{name}"
    file = home / LEDGER / place
    file.parent.mkdir(parents=True, exist_ok=True)
    with synced(file) as opened:
        pq.write_table(
            table, opened, compression="zstd", compression_level=1, store_schema=False,
            use_dictionary=_repeated(table),
        )  # fmt: skip
    return Segment(
        file=place, model=model, version=version, day=day, rows=table.num_rows,
        size_bytes=file.stat().st_size,
    )  # fmt: skip


def _repeated(table: pa.Table) -> list[str]:
    """The columns with few different values: texts but the ids, and what requests share."""
    return [
        field.name
        for field in table.schema
        if field.name in ("row", "status", "kept_share")
        or (
            field.name != "id"
            and not pa.types.is_floating(field.type)
            and not pa.types.is_temporal(field.type)
        )
    ]


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
        newest = max(block.head.interval for block, _, _ in found)
        found = [one for one in found if one[0].head.interval < newest]
    requests = before.requests + sum(len(block.requests) for block, _, _ in found)
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
