"""Scores the chunks of a run on a Ray cluster, by Ray Data; this process commits them.

A worker reads and scores whole chunks with the code of the local engine. Where it reaches the files
of the sink, it writes and commits them too: that is the same when it is done twice. Other sinks get
the rows from this process. A worker that dies is replaced, and its chunk scored again by another.
This process opens and ends the run. Bundles are sent to the workers; sources must be reachable from
them, and Bascule installed there.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from bascule.batch.delta import url_of
from bascule.batch.engine import ChunkWork, plan_chunks, with_retries
from bascule.batch.jobs import Job
from bascule.batch.manifest import Chunk, Manifest, Record
from bascule.batch.places import is_url
from bascule.batch.ports import Sink
from bascule.batch.sampling import Sample
from bascule.batch.scoring import Scorer, batch_bytes
from bascule.batch.sinks.files import FileSink
from bascule.batch.sinks.table import open_sink
from bascule.batch.sources.table import open_source
from bascule.bundle import load
from bascule.core import (
    BasculeError,
    Columns,
    Conflict,
    Unavailable,
    error_from_json,
    error_to_json,
    first_line,
    library,
)

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
    """Score and commit the chunks on the cluster that `Job.on` names.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: The cluster is away, or its workers die again and again.
        Conflict: A worker sees other rows than this process.
    """
    counts = [one.rows for one in chunks if one.rows is not None]
    expected_rows = sum(counts) if len(counts) == len(chunks) else None
    by_number = {one.number: one for one in chunks}
    with connected_to_ray(job.on, workers, job.workers) as most:
        import ray

        sink = work.sink
        commits = isinstance(sink, FileSink) and (not sink.is_local or _is_one_machine())
        task = _Task.of(job, work, expected_rows, workers, commits=commits)
        driver = ray.remote(num_cpus=0)(_Driver).remote(task, chunks, most)
        try:
            ahead = driver.next_scored.remote()
            while (blocks := ray.get(ahead)) is not None:
                ahead = driver.next_scored.remote()
                for block in blocks:
                    for row in ray.get(block).to_batches(max_chunksize=1):
                        _take(row, work, by_number, sampler)
        except (ray.exceptions.RayError, ConnectionError) as problem:
            raise Unavailable(
                f"the run on Ray has ended: {first_line(problem)}",
                hint="look at the logs of Ray; the same command goes on",
            ) from None
        finally:
            ray.kill(driver)


@contextmanager
def connected_to_ray(on: str, workers: int, limit: int | None = None) -> Iterator[int]:
    """Connect to a cluster meanwhile; how many tasks of one processor it may run at a time.

    Args:
        on: Its address, or `ray`: that of `RAY_ADDRESS`, or one that lives as long as this.
        workers: Processors of the latter.
        limit: The number that is yielded in place of the cluster's own.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: The cluster is away.
    """
    import logging

    ray = library("ray", "ray")
    if ray.is_initialized():  # the caller's own cluster stays
        yield limit or int(ray.cluster_resources().get("CPU", 1))
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "local") if on == "ray" else on
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
        yield limit or (workers if address == "local" else known)
    finally:
        ray.shutdown()


def _is_one_machine() -> bool:
    import ray

    hosts = {one["NodeManagerHostname"] for one in ray.nodes() if one["Alive"]}
    return hosts == {socket.gethostname()}


def _take(
    row: pa.RecordBatch, work: ChunkWork, chunks: Mapping[int, Chunk], sampler: Sampler
) -> None:
    """Count a scored chunk; write it to the sink, unless the worker has."""
    import pyarrow as pa

    said = msgspec.json.decode(row["said"][0].as_py())
    if "error" in said:
        raise error_from_json(said)
    record = msgspec.convert(said["record"], Record)
    sample = pa.ipc.open_stream(row["sample"][0].as_buffer()).read_all()
    (taken,) = sample.combine_chunks().to_batches() or [None]
    if taken is not None:
        places = taken.column(taken.num_columns - 1).to_numpy()
        kept = taken.select(taken.schema.names[:-1]).cast(work.source.schema)
        sampler.sampled(record.chunk, record.rows + record.quarantined, places, kept)
    if row["scored"][0].is_valid:
        _write_chunk(row, work, chunks[record.chunk], record)
    work.meter.committed(record)


def _write_chunk(row: pa.RecordBatch, work: ChunkWork, chunk: Chunk, record: Record) -> None:
    import pyarrow as pa

    scored, poison = (
        pa.ipc.open_stream(row[name][0].as_buffer()).read_all() for name in ("scored", "poison")
    )

    def write() -> None:
        with work.sink.stage(chunk) as staged:
            for batch in scored.to_batches():
                staged.write(batch)
            if poison.num_rows:
                staged.quarantine(poison)
            staged.commit(record)

    with_retries(write, work.retries, threading.Event(), f"chunk {chunk.number}")


class _Task(msgspec.Struct, frozen=True):
    """What a worker needs: it is sent once, and read by all."""

    job: dict[str, Any]
    bundle: bytes
    version: str
    manifest: Manifest
    batch_rows: int
    workers: int
    expected_rows: int | None
    commits: bool
    token: str

    @classmethod
    def of(
        cls, job: Job, work: ChunkWork, expected_rows: int | None, workers: int, *, commits: bool
    ) -> _Task:
        content = job.to_json()
        # A worker has another working folder.
        content |= {"from": _whole(job.source), "to": _whole(job.sink)}
        with tempfile.TemporaryDirectory() as folder:
            file = shutil.make_archive(f"{folder}/bundle", "zip", work.scorer.bundle.path)
            packed = Path(file).read_bytes()
        token = work.sink.token if isinstance(work.sink, FileSink) else ""
        return cls(
            content, packed, work.scorer.version, work.manifest, work.batch_rows, workers,
            expected_rows, commits, token,
        )  # fmt: skip


def _whole(place: str) -> str:
    if place.startswith("delta://"):
        return f"delta://{url_of(place)}"
    if is_url(place):
        return place
    folder = "/" if place.endswith("/") else ""
    return f"{Path(place).expanduser().absolute()}{folder}"


class _Driver:
    """In an actor: runs Ray Data, which clients of a cluster cannot; its threads end with it."""

    def __init__(self, task: _Task, chunks: Sequence[Chunk], most: int) -> None:
        import ray
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"chunk": one.number, "digest": one.digest} for one in chunks]
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _ChunkScorer, fn_constructor_args=(ray.put(task),), batch_size=1,
            batch_format="pyarrow", num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=min(most, len(items))),
        )  # fmt: skip
        self._scored = iter(scored.iter_internal_ref_bundles())

    def next_scored(self) -> list[Any] | None:
        """References to tables of what became of some chunks (see `_row`); None at the end."""
        bundle = next(self._scored, None)
        return None if bundle is None else list(bundle.block_refs)


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
        self._commits = task.commits
        if self._commits:
            files = cast(FileSink, open_sink(job))
            drafts = files.join(task.manifest, scorer.schema, task.token)
            weakref.finalize(self, shutil.rmtree, drafts, ignore_errors=True)
            sink = files
        self._work = ChunkWork(
            self._source, sink, scorer, task.manifest, self._memory, task.batch_rows, job.limit,
            job.retries, batch_bytes(job.memory_mb, task.workers),
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
            return _row(error_to_json(error), {})
        streams = self._memory.streams(with_rows=not self._commits)
        return _row({"record": msgspec.to_builtins(record)}, streams)


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

    def scored(
        self, chunk: int, rows: int, batch: pa.RecordBatch, _outputs: Columns | None
    ) -> None:
        self._sample.add(chunk, rows, batch)

    def refused(self, chunk: int, rows: int) -> None:
        """It is counted where chunks are committed."""

    def committed(self, record: Record) -> None:
        self._committed = record

    def streams(self, *, with_rows: bool) -> dict[str, pa.Buffer]:
        """Sample and rows of the committed chunk, as streams of Arrow; they are given away."""
        parts = self._sample.of_chunk(self._committed.chunk)
        made = {"sample": _stream(None, [_with_places(*part[:2]) for part in parts])}
        if with_rows:
            poison = [one for table in self._poison for one in table.to_batches()]
            made["scored"] = _stream(self._scorer.schema, self._scored)
            made["poison"] = _stream(None, poison)
        self._clear()
        return made


def _row(said: Mapping[str, Any], streams: Mapping[str, pa.Buffer]) -> pa.Table:
    """One row: what became of a chunk, and its streams."""
    import pyarrow as pa

    columns = {name: _cell(streams.get(name)) for name in ("scored", "poison", "sample")}
    return pa.table({"said": pa.array([msgspec.json.encode(said)], pa.binary()), **columns})


def _cell(content: pa.Buffer | None) -> pa.Array:
    """A column of one row, which is not copied: it may be hundreds of megabytes."""
    import pyarrow as pa

    if content is None:
        return pa.array([None], pa.large_binary())
    offsets = pa.array([0, content.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content])


def _with_places(places: NDArray[Any], rows: pa.RecordBatch) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = [*rows.columns, pa.array(places)]
    return pa.RecordBatch.from_arrays(arrays, [*rows.schema.names, "place in the chunk"])


def _stream(schema: pa.Schema | None, batches: Sequence[pa.RecordBatch]) -> pa.Buffer:
    import pyarrow as pa

    if schema is None:
        schema = batches[0].schema if batches else pa.schema([])
    size = pa.MockOutputStream()
    _write(size, schema, batches)
    content = pa.allocate_buffer(size.size())  # one that grows is copied again and again
    _write(pa.FixedSizeBufferWriter(content), schema, batches)
    return content


def _write(sink: pa.NativeFile, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> None:
    import pyarrow as pa

    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
