"""Scores the chunks of a run on a Ray cluster, by Ray Data; this process commits them.

A worker reads and scores whole chunks with the code of the local engine, into memory. A worker that
dies is replaced, and its chunk scored again by another. Only this process writes, so what makes a
run exactly once is the same as without Ray. Bundles are sent to the workers; sources must be
reachable from them, and Bascule installed there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from bascule.batch.engine import ChunkWork, plan_chunks, with_retries
from bascule.batch.jobs import Job
from bascule.batch.manifest import Chunk, Manifest, Record
from bascule.batch.ports import Sink
from bascule.batch.sampling import Sample
from bascule.batch.scoring import Scorer
from bascule.batch.sources.table import open_source
from bascule.bundle import load
from bascule.core import KINDS, BasculeError, Conflict, MissingExtra, Unavailable, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_CONNECT_HINT = (
    "is the cluster up, and has it the same versions of Python and Ray? "
    "If it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
)


class Sampler(Protocol):
    """Receives the sample of a chunk before it is committed."""

    def sampled(self, chunk: int, rows: int, places: NDArray[Any], taken: pa.RecordBatch) -> None:
        """`rows` rows of the chunk are scored; `taken` are those at `places`."""


def run_on_ray(
    job: Job, work: ChunkWork, chunks: Sequence[Chunk], workers: int, sampler: Sampler
) -> None:
    """Score the chunks on the cluster that `Job.on` names, and commit each when it is scored.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: The cluster is away, or its workers die again and again.
        Conflict: A worker sees other rows than this process.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("jobs on Ray need Ray Data", hint="pip install 'bascule[ray]'") from None
    counts = [one.rows for one in chunks if one.rows is not None]
    expected_rows = sum(counts) if len(counts) == len(chunks) else None
    by_number = {one.number: one for one in chunks}
    with _connected(job, workers) as most:
        task = _Task.of(job, work, expected_rows)
        driver = ray.remote(num_cpus=0)(_Driver).remote(task, chunks, most)
        try:
            ahead = driver.next_scored.remote()
            while (table := ray.get(ahead)) is not None:
                ahead = driver.next_scored.remote()
                (row,) = table.to_batches()
                _commit(row, work, by_number, sampler)
        except (ray.exceptions.RayError, ConnectionError) as problem:
            raise Unavailable(
                f"the run on Ray has ended: {first_line(problem)}",
                hint="look at the logs of Ray; the same command goes on",
            ) from None
        finally:
            ray.kill(driver)


@contextmanager
def _connected(job: Job, workers: int) -> Iterator[int]:
    """Connect to the cluster meanwhile; how many chunks it may score at a time."""
    import logging

    import ray

    if ray.is_initialized():  # the caller's own cluster stays
        yield job.workers or int(ray.cluster_resources().get("CPU", 1))
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "local") if job.on == "ray" else job.on
    if address == "local":  # one more, so that no worker waits for what Ray Data does itself
        quiet |= {"num_cpus": workers + 1, "include_dashboard": False}
    for attempt in (1, 2):
        try:
            ray.init(address, **quiet)
        except Exception as problem:  # Ray raises plain ones where a node does not start
            # A head starts a process for each client, which fails now and then (Ray 2.60).
            if attempt == 1 and str(problem).startswith("Initialization failure from server"):
                continue
            said = str(problem).strip().splitlines()
            reason = said[-1] if said and said[0].endswith(":") else first_line(problem)
            raise Unavailable(
                f"Ray at {address} cannot be reached: {reason}", hint=_CONNECT_HINT
            ) from None
        break
    try:
        known = int(ray.cluster_resources().get("CPU", 1))
        yield job.workers or (workers if address == "local" else known)
    finally:
        ray.shutdown()


def _commit(
    row: pa.RecordBatch, work: ChunkWork, chunks: Mapping[int, Chunk], sampler: Sampler
) -> None:
    """Write a scored chunk to the sink."""
    import pyarrow as pa

    said = msgspec.json.decode(row["said"][0].as_py())
    if "error" in said:
        kind = next(one for one in KINDS if one.__name__ == said["kind"])
        raise kind(said["error"], hint=said["hint"])
    record = msgspec.convert(said["record"], Record)
    scored, poison, sample = (
        pa.ipc.open_stream(row[name][0].as_buffer()).read_all()
        for name in ("scored", "poison", "sample")
    )
    read = record.rows + record.quarantined
    (taken,) = sample.combine_chunks().to_batches() or [None]
    if taken is not None:
        places = taken.column(taken.num_columns - 1).to_numpy()
        kept = taken.select(taken.schema.names[:-1]).cast(work.source.schema)
        sampler.sampled(record.chunk, read, places, kept)

    def write() -> Record:
        with work.sink.stage(chunks[record.chunk]) as staged:
            for batch in scored.to_batches():
                staged.write(batch)
            if poison.num_rows:
                staged.quarantine(poison)
            staged.commit(record)
        return record

    what = f"chunk {record.chunk}"
    work.meter.committed(with_retries(write, work.retries, threading.Event(), what))


class _Task(msgspec.Struct, frozen=True):
    """What a worker needs: it is sent once, and read by all."""

    job: dict[str, Any]
    bundle: bytes
    version: str
    manifest: Manifest
    batch_rows: int
    expected_rows: int | None

    @classmethod
    def of(cls, job: Job, work: ChunkWork, expected_rows: int | None) -> _Task:
        content = job.to_json()
        if "://" not in job.source:  # a worker has another working folder
            content["from"] = str(Path(job.source).expanduser().absolute())
        with tempfile.TemporaryDirectory() as folder:
            file = shutil.make_archive(f"{folder}/bundle", "zip", work.scorer.bundle.path)
            packed = Path(file).read_bytes()
        version = work.scorer.version
        return cls(content, packed, version, work.manifest, work.batch_rows, expected_rows)


class _Driver:
    """In an actor: runs Ray Data, which no client of a cluster can; its threads end with it."""

    def __init__(self, task: _Task, chunks: Sequence[Chunk], most: int) -> None:
        import ray
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"chunk": one.number, "digest": one.digest} for one in chunks]
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _ChunkScorer, fn_constructor_args=(ray.put(task),), batch_size=1,
            batch_format="pyarrow", num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(items))),
        )  # fmt: skip
        self._tables = iter(scored.iter_batches(batch_size=1, batch_format="pyarrow"))

    def next_scored(self) -> pa.Table | None:
        """What became of a chunk, as `_row` makes it; None at the end."""
        return next(self._tables, None)


class _ChunkScorer:
    """In a worker: from the number of a chunk to its scored rows."""

    def __init__(self, told: Any) -> None:
        import ray

        self._problem: BasculeError | None = None
        try:
            self._open(ray.get(told))
        except BasculeError as problem:  # Ray would start it again and again
            self._problem = problem

    def _open(self, task: _Task) -> None:
        job = msgspec.convert(task.job, Job)
        folder = tempfile.mkdtemp(prefix="bascule-ray-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        (archive := Path(folder, "bundle.zip")).write_bytes(task.bundle)
        shutil.unpack_archive(archive, Path(folder, "bundle"))
        bundle = load(Path(folder, "bundle"))
        self._source = open_source(job, bundle.signature)
        self._chunks = {one.number: one for one in plan_chunks(job, self._source)}
        scorer = Scorer.of_job(job, bundle, task.version, self._source.schema)
        self._memory = _Memory(scorer, task.expected_rows, self._source.schema)
        sink = cast(Sink, self._memory)
        self._work = ChunkWork(
            self._source, sink, scorer, task.manifest, self._memory, task.batch_rows, job.limit,
            job.retries,
        )  # fmt: skip

    def __call__(self, asked: pa.Table) -> pa.Table:
        number, digest = asked["chunk"][0].as_py(), asked["digest"][0].as_py()
        try:
            if self._problem is not None:
                raise self._problem
            chunk = self._chunks.get(number)
            if chunk is None or chunk.digest != digest:
                raise Conflict(
                    f"{self._source.place} is not the same at a worker of Ray: chunk {number}",
                    hint="have all workers see the same rows, and start the job again",
                )
            record = self._work(chunk, threading.Event())
        except BasculeError as error:
            kind = next(one for one in type(error).__mro__ if one in KINDS)
            said = {"kind": kind.__name__, "error": error.message, "hint": error.hint}
            return _row(said, {})
        return _row({"record": msgspec.to_builtins(record)}, self._memory.streams())


class _Memory:
    """A sink, a staged chunk and a meter in one: keeps a scored chunk as bytes."""

    place = "memory"

    def __init__(self, scorer: Scorer, expected_rows: int | None, schema: pa.Schema) -> None:
        self._scorer, self._expected_rows, self._schema = scorer, expected_rows, schema
        self._clear()

    def _clear(self) -> None:
        self._scored: list[pa.RecordBatch] = []
        self._poison: list[pa.Table] = []
        self._sample = Sample(self._expected_rows, self._schema)

    @contextmanager
    def stage(self, chunk: Chunk) -> Iterator[_Memory]:  # noqa: ARG002 -- one at a time
        self._clear()
        yield self

    def write(self, batch: pa.RecordBatch) -> None:
        self._scored.append(batch)

    def quarantine(self, rows: pa.Table) -> None:
        self._poison.append(rows)

    def commit(self, record: Record) -> None:
        """It is committed where the rows are written."""

    def scored(self, chunk: int, rows: int, batch: pa.RecordBatch) -> None:
        self._sample.add(chunk, rows, batch)

    def committed(self, record: Record) -> None:
        self._committed = record

    def streams(self) -> dict[str, memoryview]:
        """The rows of the chunk that was committed, as streams of Arrow. They are given away."""
        parts = self._sample.of_chunk(self._committed.chunk)
        made = {
            "scored": _stream(self._scorer.schema, self._scored),
            "poison": _stream(None, [one for table in self._poison for one in table.to_batches()]),
            "sample": _stream(None, [_with_places(*part) for part in parts]),
        }
        self._clear()
        return made


def _row(said: Mapping[str, Any], streams: Mapping[str, memoryview]) -> pa.Table:
    """One row: what became of a chunk, and its streams."""
    import pyarrow as pa

    columns = {
        name: pa.array([streams.get(name)], pa.large_binary())
        for name in ("scored", "poison", "sample")
    }
    return pa.table({"said": pa.array([msgspec.json.encode(said)], pa.binary()), **columns})


def _with_places(places: NDArray[Any], rows: pa.RecordBatch) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = [*rows.columns, pa.array(places)]
    return pa.RecordBatch.from_arrays(arrays, [*rows.schema.names, "place in the chunk"])


def _stream(schema: pa.Schema | None, batches: Sequence[pa.RecordBatch]) -> memoryview:
    import pyarrow as pa

    if schema is None:
        schema = batches[0].schema if batches else pa.schema([])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return memoryview(sink.getvalue())
