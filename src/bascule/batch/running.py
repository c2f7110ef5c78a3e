"""The story: a job in, a run out. Plans, checks, compares with the sink, scores, finishes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bascule.batch.checks import are_of_answers, check_answers, check_source
from bascule.batch.engine import Cancelled, ChunkWork, plan_chunks, run_local, with_retries
from bascule.batch.jobs import Job
from bascule.batch.locations import Places
from bascule.batch.manifest import (
    Chunk,
    Manifest,
    Record,
    check_complete,
    check_may_start,
    check_quarantined,
    check_same,
    manifest_of,
    pending,
)
from bascule.batch.ports import Sink, Source
from bascule.batch.recording import MonitoringRules, Recorder, close_quietly, open_recorder
from bascule.batch.runs import Status
from bascule.batch.sampling import SAMPLE_BYTES, Sample
from bascule.batch.scoring import Scorer, batch_bytes
from bascule.batch.sinks.files import FileSink
from bascule.batch.sinks.table import open_sink
from bascule.batch.sources.files import FileSource
from bascule.batch.sources.table import open_source
from bascule.bundle import Bundle
from bascule.core import BasculeError, Columns
from bascule.jobs import Live, Unrecorded, check_no_dates

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from bascule.batch.sampling import Part

log = logging.getLogger(__name__)

_SAVE_S = 0.5
_SAMPLED_SHARE = 32
"""Of the memory of a run: the sample is in memory four times while it is recorded."""
_SHOWN_ROWS = 10
_LOOKED_AT_ROWS = 256

Watcher = Callable[[Status], None]
NOT_MONITORED, NOT_RECORDED = MonitoringRules(), Unrecorded()


@dataclass(frozen=True, slots=True)
class Run:
    """What a job has done.

    Attributes:
        rows: Scored, with those of earlier processes of the same run.
        quarantined: Rows that could not be scored.
        seconds: Of this process.
        manifest: What the run is.
        findings: What checks found, a sentence each.
    """

    rows: int
    quarantined: int
    seconds: float
    manifest: Manifest
    findings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.manifest.run, "rows": self.rows, "quarantined": self.quarantined,
            "seconds": self.seconds, "model": self.manifest.model, "digest": self.manifest.digest,
            "from": self.manifest.source, "to": self.manifest.sink,
            "chunks": len(self.manifest.chunks), "findings": list(self.findings),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Planned:
    """A job that is opened and planned, and has written nothing."""

    job: Job
    source: Source
    sink: Sink
    scorer: Scorer
    chunks: list[Chunk]
    manifest: Manifest
    workers: int
    batch_rows: int

    @property
    def rows(self) -> int | None:
        """How many are read; None where the source does not know."""
        counts = [chunk.rows for chunk in self.chunks if chunk.rows is not None]
        if len(counts) < len(self.chunks):
            return None
        return min(sum(counts), self.job.limit) if self.job.limit else sum(counts)

    def expected_s(self) -> float | None:
        """How long scoring takes by the measured cost, without reading and writing."""
        rows, cost = self.rows, self.scorer.bundle.cost
        program = self.scorer.bundle.fastest_program(self.batch_rows)
        if rows is None or cost is None or program not in cost.latency_us:
            return None
        sizes = cost.latency_us[program]
        return rows * min(us / size for size, us in sizes.items()) / 1e6 / self.workers

    def preview(self) -> pa.Table:
        """The first rows, scored."""
        import pyarrow as pa

        for batch in self.source.read(self.chunks[0], _SHOWN_ROWS):
            if batch.num_rows:
                prefix = self.manifest.prefix_of(self.chunks[0].number)
                scored = self.scorer.score(batch.slice(0, _SHOWN_ROWS), prefix, 0)
                return pa.Table.from_batches([scored.rows])
        return self.scorer.schema.empty_table()


@contextmanager
def planned(
    job: Job, bundle: Bundle, version: str = "", places: Places | None = None
) -> Iterator[Planned]:
    """Open a job and plan it, without a write.

    Args:
        job: What to do.
        bundle: The model.
        version: What the column `model_version` says; the start of the digest if empty.
        places: Where it may read and write; anywhere if None.

    Raises:
        Refused: It leads out of the places.
        NotFound: There are no rows' files or table.
        Invalid: The source does not fit the model, or an option does not fit the source.
    """
    check_no_dates(job.to_json())
    if places is not None:
        places.check(job)
    with closing(open_source(job, bundle.signature)) as source, closing(open_sink(job)) as sink:
        if places is not None:
            places.check_files(source.files)
        if isinstance(source, FileSource) and isinstance(sink, FileSink):
            sink.check_apart(source.paths)
        scorer = Scorer.of_job(job, bundle, version or bundle.digest[7:19], source.schema)
        sink.fits(scorer.schema)
        chunks = plan_chunks(job, source)
        manifest = manifest_of(job, bundle.digest, chunks, source.place, sink.place)
        workers = min(job.workers or os.cpu_count() or 1, len(chunks))
        width = with_retries(
            partial(_row_bytes, source, chunks[0]), job.retries, threading.Event(), "a look"
        )
        batch_rows = scorer.batch_rows(width, job.memory_mb, workers)
        yield Planned(job, source, sink, scorer, chunks, manifest, workers, batch_rows)


def _row_bytes(source: Source, chunk: Chunk) -> float:
    """About how many bytes a row takes, by the first ones: texts have any length."""
    for batch in source.read(chunk, _LOOKED_AT_ROWS):
        if batch.num_rows:
            return float(batch.nbytes / batch.num_rows)
    return 1.0


def run_job(
    job: Job,
    bundle: Bundle,
    home: Path,
    *,
    version: str = "",
    expected_run: str = "",
    live: Live = NOT_RECORDED,
    monitoring: MonitoringRules = NOT_MONITORED,
    watch: Watcher = lambda _: None,
    places: Places | None = None,
) -> Run:
    """Score the rows of a job, or go on where an earlier process of the same run has ended.

    Args:
        job: What to do.
        bundle: The model.
        home: Where monitoring is.
        version: What the column `model_version` says; the start of the digest if empty.
        expected_run: The run that is resumed.
        live: Where the run is recorded; nowhere unless it is given.
        monitoring: What is recorded for monitoring.
        watch: Called about twice a second with the status.
        places: Where it may read and write; anywhere if None.

    Raises:
        Conflict: The sink has rows of another run, or the rows changed meanwhile.
        Refused: A check failed, or too many rows cannot be scored.
        Cancelled: The run was cancelled.
    """
    with planned(job, bundle, version, places) as plan:
        if expected_run:
            check_same(expected_run, plan.manifest)
        status = Status(
            run=plan.manifest.run, model=job.model, source=plan.source.place,
            sink=plan.sink.place, expected_rows=plan.rows, chunks=len(plan.chunks),
            digest=bundle.digest,
        )  # fmt: skip
        live.tell(status.progress())
        live.begin(plan.manifest.run, msgspec.to_builtins(plan.manifest))
        watch(status)
        return _Execution(plan, status, live, watch, home, monitoring).run()


class _Execution:
    """One process's part of a run; the meter of its engine."""

    def __init__(
        self, plan: Planned, status: Status, live: Live, watch: Watcher, home: Path,
        rules: MonitoringRules,
    ) -> None:  # fmt: skip
        self._plan, self._status, self._live, self._watch = plan, status, live, watch
        self._home, self._rules = home, rules
        self._recorder: Recorder | None = None
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._saved_s = 0.0
        self._rows: dict[int, int] = {}
        self._refused: dict[int, int] = {}
        self._records: dict[int, Record] = {}
        most_bytes = min(SAMPLE_BYTES, plan.job.memory_mb * 1_000_000 // _SAMPLED_SHARE)
        self._sample = Sample(plan.rows, plan.source.schema, most_bytes)

    def run(self) -> Run:
        plan, job = self._plan, self._plan.job
        self._check_sink()
        found = check_source(
            plan.source, plan.chunks, plan.batch_rows, job.checks, job.warnings, plan.scorer.bundle
        )
        self._status.findings += found
        with plan.sink.claim(plan.manifest.run):
            self._check_sink()  # another run may have come and gone
            return self._run()

    def _check_sink(self) -> None:
        others, foreign = self._plan.sink.runs()
        run = self._plan.manifest.run
        others = {other: done for other, done in others.items() if other != run}
        check_may_start(self._plan.manifest, self._plan.job.mode, others, has_foreign_rows=foreign)

    def _run(self) -> Run:
        plan, job = self._plan, self._plan.job
        self._records = {
            one.chunk: one for one in plan.sink.open(plan.manifest, plan.scorer.schema)
        }
        self._status.rows_before = sum(one.rows for one in self._records.values())
        self._check_quarantined()  # what was refused is refused before more is scored
        todo = pending(plan.chunks, self._records)
        log.info("%d of %d chunks to score", len(todo), len(plan.chunks))
        self._score(todo)
        if are_of_answers((*job.checks, *job.warnings), plan.source.schema.names):
            earlier = [chunk for chunk in plan.chunks if chunk not in todo]
            sample = partial(self._sample_again, earlier)
            with_retries(sample, job.retries, threading.Event(), "the sample")
        self._check_end()
        check_complete(plan.source.place, plan.chunks, self._records, job.limit)
        plan.source.close()  # its snapshot would keep a table of its own from being replaced
        with_retries(plan.sink.finish, job.retries, threading.Event(), "the end")
        self._tell(force=True)
        seconds = round(time.monotonic() - self._began_s, 3)
        log.info("%d rows in %.1f s", self._status.rows, seconds)
        return Run(
            sum(one.rows for one in self._records.values()), self._quarantined, seconds,
            plan.manifest, tuple(self._status.findings),
        )  # fmt: skip

    def _score(self, chunks: Sequence[Chunk]) -> None:
        plan, job = self._plan, self._plan.job
        work = ChunkWork(
            plan.source, plan.sink, plan.scorer, plan.manifest, self, plan.batch_rows,
            job.limit, job.retries, batch_bytes(job.memory_mb, plan.workers),
        )  # fmt: skip
        if not chunks:
            return
        self._recorder = open_recorder(self._home, plan.scorer, self._rules, job.record)
        try:
            if job.on == "local":
                plan.scorer.bundle.open_for(plan.batch_rows)  # a thread of the pool would end it
                run_local(work, chunks, plan.workers)
            else:
                from bascule.batch.on_ray import run_on_ray

                run_on_ray(job, work, chunks, plan.workers, self)
        finally:
            close_quietly(self._recorder)

    def _sample_again(self, chunks: Sequence[Chunk]) -> None:
        """Take the sample of chunks that earlier processes of this run have scored.

        So a check is measured on the same rows, with the same result, however often it is asked.
        """
        for chunk in chunks:
            rows, limit = 0, self._plan.job.limit
            for batch in self._plan.source.read(chunk, self._plan.batch_rows):
                taken = batch.slice(0, limit - rows) if limit else batch
                rows += taken.num_rows
                self._sample.add(chunk.number, rows, taken)

    def _check_quarantined(self) -> None:
        expected = self._plan.rows
        if expected is not None:
            check_quarantined(self._quarantined, expected, self._plan.job.max_quarantined)

    def _check_end(self) -> None:
        job = self._plan.job
        rows = sum(one.rows for one in self._records.values())
        check_quarantined(self._quarantined, rows + self._quarantined, job.max_quarantined)
        found = check_answers(
            self._sample.table(), self._plan.scorer, job.checks, job.warnings, rows=rows,
            false_alarms_a_year=self._rules.false_alarms_a_year,
        )  # fmt: skip
        self._status.findings += found

    def _record(
        self,
        recorder: Recorder,
        record: Record,
        parts: Sequence[Part],
    ) -> None:
        import pyarrow as pa

        if not parts:
            return
        places = np.concatenate([one for one, _, _ in parts])
        rows = pa.Table.from_batches([one for _, one, _ in parts]).combine_chunks()
        prefix, outputs = self._plan.manifest.prefix_of(record.chunk), _joined(parts)
        try:
            for batch in rows.to_batches():
                recorder.add(prefix, places, batch, record, outputs)
        except (BasculeError, ArithmeticError, TypeError, ValueError) as problem:
            # The rows are in the sink: a run does not fail because it cannot be profiled.
            log.warning("chunk %d is not in the profiles: %s", record.chunk, problem)

    @property
    def _quarantined(self) -> int:
        return sum(one.quarantined for one in self._records.values())

    def scored(self, chunk: int, rows: int, batch: pa.RecordBatch, outputs: Columns | None) -> None:
        recorder, is_read = self._recorder, batch.schema.equals(self._plan.source.schema)
        if recorder is not None and recorder.keeps_rows and is_read:
            places = np.arange(rows - batch.num_rows, rows)
            self._record(recorder, Record(chunk, batch.num_rows, 0), [(places, batch, outputs)])
        with self._lock:
            self._sample.add(chunk, rows, batch, outputs)
            self._rows[chunk] = rows
            self._tell()

    def sampled(self, chunk: int, rows: int, places: NDArray[Any], taken: pa.RecordBatch) -> None:
        with self._lock:
            self._sample.take_in(chunk, places, taken)
            self._rows[chunk] = rows
            self._tell()

    def refused(self, chunk: int, rows: int) -> None:
        with self._lock:
            self._refused[chunk] = rows
            self._check_refused()

    def _check_refused(self) -> None:
        """Early, where the rows are known: a wrong table is not scored to its end."""
        under_way = (n for chunk, n in self._refused.items() if chunk not in self._records)
        expected, most = self._plan.rows, self._plan.job.max_quarantined
        if expected is not None:
            check_quarantined(self._quarantined + sum(under_way), expected, most)

    def committed(self, record: Record) -> None:
        log.info("chunk %d: %d rows, %d quarantined", record.chunk, record.rows, record.quarantined)
        recorder = self._recorder
        if recorder is not None and not recorder.keeps_rows:
            with self._lock:
                parts = self._sample.profiled(record.chunk)
            self._record(recorder, record, parts)
        with self._lock:
            self._records[record.chunk] = record
            self._check_refused()
            self._tell(force=True)

    def _tell(self, *, force: bool = False) -> None:
        now_s = time.monotonic()
        if not force and now_s - self._saved_s < _SAVE_S:
            return
        self._saved_s = now_s
        if self._live.stopped and len(self._records) < len(self._plan.chunks):
            raise Cancelled(
                f"run {self._plan.manifest.run} was cancelled",
                hint=f"bascule batch resume {self._plan.manifest.run} goes on",
            )
        under_way = sum(n for chunk, n in self._rows.items() if chunk not in self._records)
        self._status = status = replace(
            self._status, rows=under_way + sum(one.rows for one in self._records.values()),
            quarantined=self._quarantined, chunks_done=len(self._records),
            seconds=round(now_s - self._began_s, 3),
        )  # fmt: skip
        self._live.tell(status.progress())
        self._watch(status)


def _joined(parts: Sequence[Part]) -> Columns | None:
    """The answers of all parts; None where one has none."""
    answers = [outputs for _, _, outputs in parts if outputs is not None]
    if len(answers) < len(parts):
        return None
    return {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
