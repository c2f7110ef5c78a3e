"""Chunks and runs: what is read, in which parts, and what is decided from it. No I/O.

A run's id is a digest of the model, the source's rows, the options and the sink. So the same job on
the same rows is the same run, and the same job on other rows is another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bascule.batch.jobs import Job
from bascule.core import Conflict, Refused, canonical_json, sha256_bytes

_ID_DIGITS = 16


class Chunk(msgspec.Struct, frozen=True):
    """A part of a source that is read, scored and committed at once.

    Attributes:
        number: Its place in the source, from 0.
        digest: Of what it reads: it changes when the rows do, as far as the source can tell.
        reads: The source's own description of it.
        rows: How many it has, where the source knows without reading.
    """

    number: int
    digest: str
    reads: Any
    rows: int | None = None


class Record(msgspec.Struct, frozen=True):
    """What became of a chunk that was committed.

    Attributes:
        rows: How many its file has.
        erased: How many it had of people who were erased since.
    """

    chunk: int
    rows: int
    quarantined: int
    seconds: float = 0.0
    erased: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is; the sink keeps it beside the rows.

    Attributes:
        run: The id.
        model: The reference or name of the model.
        digest: Of its bundle.
        source: Where rows come from, without passwords.
        sink: Where they go to.
        identity: The options that change what is written.
        chunks: By number, the digest of what each reads.
    """

    run: str
    model: str
    digest: str
    source: str
    sink: str
    identity: dict[str, Any]
    chunks: tuple[str, ...]

    def prefix_of(self, chunk: int) -> str:
        """The id of a chunk's predictions; that of a row is `ID#ROW`, as of a server's answers."""
        return sha256_bytes(f"{self.run}/{chunk}".encode())[7:27]


def manifest_of(job: Job, digest: str, chunks: Sequence[Chunk], source: str, sink: str) -> Manifest:
    """The manifest of a job on these rows. Pure: the same facts give the same id."""
    identity = job.identity() | {"from": source, "to": sink}
    digests = tuple(chunk.digest for chunk in chunks)
    facts = {"model": digest, "options": identity, "chunks": digests}
    run = sha256_bytes(canonical_json(facts))[7 : 7 + _ID_DIGITS]
    return Manifest(run, job.model, digest, source, sink, identity, digests)


def pending(chunks: Sequence[Chunk], committed: Iterable[int]) -> list[Chunk]:
    """The chunks that are still to be scored, in order."""
    done = set(committed)
    return [chunk for chunk in chunks if chunk.number not in done]


def check_may_start(
    manifest: Manifest, mode: str, others: Mapping[str, bool], *, has_foreign_rows: bool
) -> None:
    """Raise where a run may not write to its sink.

    Args:
        manifest: Of the run.
        mode: What the job says about rows of other runs.
        others: The other runs of which the sink has rows; whether each is finished.
        has_foreign_rows: Whether the sink has rows of no run.

    Raises:
        Conflict: The rows of another run would be mixed with those of this one.
    """
    if mode in ("replace", "replace_partitions", "upsert"):
        return
    unfinished = next((run for run, is_finished in others.items() if not is_finished), None)
    if unfinished is not None:
        raise Conflict(
            f"{manifest.sink} has rows of run {unfinished}, which is not finished, and whose rows "
            f"or options differ from those of this run, {manifest.run}",
            hint=f"bascule batch resume {unfinished}, or --mode replace",
            run=unfinished,
        )
    if mode == "error" and (others or has_foreign_rows):
        what = f"run {next(iter(others))}" if others else "no run of bascule"
        raise Conflict(
            f"{manifest.sink} already has rows, of {what}; the rows or options of this run, "
            f"{manifest.run}, differ",
            hint="choose another place, or --mode append, replace or upsert",
        )


def check_read(place: str, chunk: Chunk, limit: int, rows: int) -> None:
    """Raise `Conflict` where as many rows as were planned were not read of a chunk."""
    expected = min(chunk.rows, limit) if chunk.rows is not None and limit else chunk.rows
    if expected is not None and rows != expected:
        raise Conflict(
            f"chunk {chunk.number} of {place}: {expected:,} rows were planned, and {rows:,} read",
            hint="its rows have changed, or its key does not order them; start the job again",
        )


def check_complete(
    place: str, chunks: Sequence[Chunk], records: Mapping[int, Record], limit: int
) -> None:
    """Raise `Conflict` unless each chunk is committed with all of its rows."""
    if {chunk.number for chunk in chunks} != records.keys():
        raise Conflict(f"the sink has {len(records)} of the {len(chunks)} chunks of {place}")
    for chunk in chunks:
        record = records[chunk.number]
        check_read(place, chunk, limit, record.rows + record.quarantined + record.erased)


def check_same(expected: str, found: Manifest) -> None:
    """Raise `Conflict` where a run that is resumed has become another one."""
    if found.run != expected:
        raise Conflict(
            f"run {expected} cannot be resumed: its rows, model or options have changed, and are "
            f"now those of run {found.run}",
            hint="start the job again with bascule batch run",
            run=expected,
        )


def check_quarantined(quarantined: int, rows: int, most: float) -> None:
    """Raise `Refused` where more than the share `most` of the rows read cannot be scored."""
    if quarantined > most * rows:
        raise Refused(
            f"{quarantined:,} of {rows:,} rows cannot be scored, which is over max_quarantined "
            f"{most:g}",
            hint="look at the reasons in the quarantine, or raise --max-quarantined",
            quarantined=quarantined,
        )
