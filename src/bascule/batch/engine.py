"""Scores chunks side by side on threads: readers, programs and writers release the interpreter.

Each thread takes a chunk from reading to commit, so that one reads while another scores or writes.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from bascule.batch.jobs import Job
from bascule.batch.manifest import Chunk, Manifest, Record, check_read
from bascule.batch.ports import Sink, Source
from bascule.batch.scoring import Poison, Scorer
from bascule.core import Columns, Conflict, ModelFailed, Overloaded, TimedOut, Unavailable

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_ALL_ROWS = 1 << 60
_JOINED = 8
"""Batches of an eighth of the rows that are scored at once are joined to others."""
_T = TypeVar("_T")
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0
TRANSIENT = (Unavailable, Overloaded, TimedOut)
"""Kinds of error after which a chunk is tried again."""


class Cancelled(Conflict):
    """The run was cancelled. What it has committed stays, and it can be resumed."""


class Meter(Protocol):
    """Receives progress, on several threads; raises `Cancelled` to stop the run."""

    def scored(self, chunk: int, rows: int, batch: pa.RecordBatch, outputs: Columns | None) -> None:
        """`rows` rows of the chunk are scored so far, the last in `batch`; see `Scored.outputs`."""

    def refused(self, chunk: int, rows: int) -> None:
        """`rows` rows of the chunk cannot be scored; raises `Refused` where these are too many."""

    def committed(self, record: Record) -> None:
        """A chunk is committed."""


@dataclass(frozen=True, slots=True)
class ChunkWork:
    """From a chunk to its record: reads, scores, quarantines, commits. Safe on several threads."""

    source: Source
    sink: Sink
    scorer: Scorer
    manifest: Manifest
    meter: Meter
    batch_rows: int
    limit: int = 0
    retries: int = 4
    batch_bytes: int = 1 << 60

    def __call__(self, chunk: Chunk, stopped: threading.Event) -> Record:
        """Do it, again after a transient fault.

        Raises:
            Cancelled: The run is to stop.
            Unavailable: The fault has outlasted the retries.
        """
        what = f"chunk {chunk.number}"
        return with_retries(lambda: self._once(chunk, stopped), self.retries, stopped, what)

    def _once(self, chunk: Chunk, stopped: threading.Event) -> Record:
        began_s = time.monotonic()
        prefix = self.manifest.prefix_of(chunk.number)
        read = quarantined = 0
        with self.sink.stage(chunk) as staged:
            for batch in self._parts(chunk):
                if stopped.is_set():
                    raise Cancelled("the run was stopped")
                if self.limit:
                    batch = batch.slice(0, self.limit - read)
                refuse = partial(self._refuse, chunk.number, quarantined)
                answered, poison, outputs = self.scorer.score(batch, prefix, read, refuse)
                if answered.num_rows + len(poison) != batch.num_rows:
                    raise ModelFailed(f"{batch.num_rows} rows have {answered.num_rows} answers")
                staged.write(answered)
                if poison:
                    staged.quarantine(quarantine_rows(chunk.number, read, batch, poison))
                read, quarantined = read + batch.num_rows, quarantined + len(poison)
                self.meter.scored(chunk.number, read, batch, outputs)
                if self.limit and read >= self.limit:
                    break
            check_read(self.source.place, chunk, self.limit, read)
            seconds = round(time.monotonic() - began_s, 3)
            record = Record(chunk.number, read - quarantined, quarantined, seconds)
            staged.commit(record)
        self.meter.committed(record)
        return record

    def _parts(self, chunk: Chunk) -> Iterator[pa.RecordBatch]:
        """The batches of a chunk, cut where rows are wider than those that were looked at."""
        for batch in _joined(self.source.read(chunk, self.batch_rows), self.batch_rows):
            parts = batch.nbytes // self.batch_bytes + 1
            rows = batch.num_rows // parts + 1
            for start in range(0, max(batch.num_rows, 1), rows):
                yield batch.slice(start, rows)

    def _refuse(self, chunk: int, before: int, rows: int) -> None:
        self.meter.refused(chunk, before + rows)


def _joined(batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    """Neighbouring batches as one of up to `most` rows: a file of few rows takes as long as many.

    Only while they are small: to copy the others takes as long as to score them apart.
    """
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        is_small = batch.num_rows <= most // _JOINED
        fits = is_small and rows + batch.num_rows <= most
        if waiting and not (fits and batch.schema.equals(waiting[0].schema)):
            yield pa.concat_batches(waiting)
            waiting, rows = [], 0
        if is_small:
            waiting, rows = [*waiting, batch], rows + batch.num_rows
        else:
            yield batch
    if waiting:
        yield pa.concat_batches(waiting)


def plan_chunks(job: Job, source: Source) -> list[Chunk]:
    """The chunks of a job. Rows are limited in order, which one chunk is and several are not."""
    return source.plan(_ALL_ROWS if job.limit else job.chunk_rows)


def with_retries(act: Callable[[], _T], retries: int, stopped: threading.Event, what: str) -> _T:
    """What `act` returns; it is tried again after transient faults, with pauses."""
    for attempt in range(retries):
        try:
            return act()
        except TRANSIENT as problem:
            pause = pause_s(attempt)
            log.warning("%s again in %.1f s: %s", what, pause, problem)
            if stopped.wait(pause):
                break
    return act()


def run_local(work: ChunkWork, chunks: Sequence[Chunk], workers: int) -> None:
    """Do all chunks on `workers` threads; the first error stops the others between batches."""
    stopped = threading.Event()
    with ThreadPoolExecutor(workers, "bascule-batch") as pool:
        futures = [pool.submit(work, chunk, stopped) for chunk in chunks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [one.exception() for one in futures if one.done() and not one.cancelled()]
    real = [one for one in errors if one is not None]
    real.sort(key=lambda one: isinstance(one, Cancelled))
    if real:
        raise real[0]


def pause_s(attempt: int) -> float:
    """How long to wait before the next try: doubled each time, with a random part."""
    longest: float = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)


def quarantine_rows(
    chunk: int, first_row: int, batch: pa.RecordBatch, poison: Sequence[Poison]
) -> pa.Table:
    """The rows at fault as a table: where each was, why, and its values as JSON."""
    import pyarrow as pa

    rows = batch.take(pa.array([one.row for one in poison])).to_pylist()
    return pa.table(
        {
            "chunk": pa.array([chunk] * len(poison), pa.int64()),
            "row": pa.array([first_row + one.row for one in poison], pa.int64()),
            "reason": pa.array([one.reason for one in poison], pa.string()),
            "content": pa.array(
                [msgspec.json.encode(row, enc_hook=str).decode() for row in rows], pa.string()
            ),
        }
    )
