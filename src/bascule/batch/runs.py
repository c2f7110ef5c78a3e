"""Runs: the jobs of kind `batch` that have begun, by the ids of their manifests.

The sink alone knows what was written; a run that is not recorded, or forgotten, goes on as well.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bascule import jobs
from bascule.batch.jobs import Job, job_of
from bascule.batch.manifest import Manifest
from bascule.batch.places import is_url

KIND = "batch"
RUNNING, DONE, FAILED, CANCELLED, KILLED = "running", "done", "failed", "cancelled", "killed"
STATES = (RUNNING, DONE, FAILED, CANCELLED, KILLED)
OF_SCHEDULE = jobs.OF_SCHEDULE
_NOT_YET = datetime(1970, 1, 1, tzinfo=UTC)
_OF_JOB = ("run", "state", "by", "started_at", "updated_at", "host", "pid", "error")
_DERIVED = ("rows_per_s", "left_s")


@dataclass(kw_only=True)
class Status:
    """How far a run is.

    Attributes:
        run: The id.
        state: `running`, `done`, `failed`, `cancelled`, or `killed`: its process is gone.
        rows: Scored and committed, or under way.
        rows_before: Those of them that earlier processes of the same run have scored.
        expected_rows: Where the source knows it.
        chunks_done: Committed, with those of earlier processes.
        error: Why it failed, with the next step.
        findings: What checks found, a sentence each.
        by: The user, or `schedule NAME`.
        digest: Of the model's bundle.
        rows_per_s: Of the process that scores or scored; None before its first rows.
        left_s: About how long a running one still takes; None where that is not known.
    """

    run: str
    state: str = RUNNING
    model: str
    digest: str = ""
    by: str = ""
    source: str
    sink: str
    rows: int = 0
    rows_before: int = 0
    quarantined: int = 0
    expected_rows: int | None = None
    chunks_done: int = 0
    chunks: int = 0
    seconds: float = 0.0
    started_at: datetime = _NOT_YET
    updated_at: datetime = _NOT_YET
    host: str = ""
    pid: int = 0
    error: str = ""
    findings: list[str] = field(default_factory=list)
    rows_per_s: float | None = None
    left_s: float | None = None

    def __post_init__(self) -> None:
        new, rate = self.rows - self.rows_before, None
        if self.seconds and new > 0:
            self.rows_per_s = rate = round(new / self.seconds, 1)
        if rate and self.state == RUNNING and self.expected_rows is not None:
            self.left_s = round(max(self.expected_rows - self.rows, 0) / rate, 1)

    @classmethod
    def of(cls, job: jobs.Job) -> Status:
        """The run of a job of kind `batch` that has begun."""
        host, _, pid = job.holder.rpartition(":")
        error, state = job.problem, job.state
        said = "" if error is None or state != FAILED else error.message
        now = {
            "run": job.subject, "state": RUNNING if state == jobs.QUEUED else state, "by": job.by,
            "started_at": job.started_at or job.created_at, "updated_at": job.updated_at,
            "host": host, "pid": int(pid or 0),
            "error": f"{said} ({error.hint})" if said and error and error.hint else said,
        }  # fmt: skip
        return msgspec.convert({**job.progress, **now}, cls)

    def progress(self) -> dict[str, Any]:
        """What a job keeps of it; `of` is the way back."""
        counts = {"done": self.rows, "of": self.expected_rows, "unit": "rows"}
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return {name: kept[name] for name in kept if name not in (*_OF_JOB, *_DERIVED)} | counts

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made


class Runs:
    """The runs in a catalogue."""

    def __init__(self, jobs: jobs.Jobs) -> None:
        self._jobs = jobs

    def list(self) -> list[Status]:
        """All of them, the latest first."""
        runs = map(Status.of, self._jobs.find(kind=KIND, newest=True))
        return sorted(runs, key=lambda run: run.started_at, reverse=True)

    def of_host(self) -> Sequence[Status]:
        """Those that ran on this machine last."""
        return [run for run in self.list() if run.host == socket.gethostname()]

    def page(self, offset: int, limit: int) -> tuple[Sequence[Status], int]:
        """Some of the runs, the latest first, and how many there are."""
        shown = self._jobs.find(kind=KIND, newest=True, offset=offset, limit=limit)
        return [Status.of(job) for job in shown], self._jobs.count(KIND)

    def quarantined(self, run: str, limit: int) -> Sequence[dict[str, Any]]:
        """The first rows of a run that could not be scored: `chunk`, `row`, `reason`, `content`.

        Of a sink in local files; others are empty: the table of a database keeps them.
        """
        import pyarrow.parquet as pq

        found: list[dict[str, Any]] = []
        record = self.find(run)
        sink = str(record.input["to"])
        for file in quarantine_files(sink, record.subject, Path(record.folder)):
            with suppress(OSError), pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(limit):
                    found += batch.to_pylist()
                    break
            if len(found) >= limit:
                break
        return found[:limit]

    def find(self, run: str) -> jobs.Job:
        """The job of the run whose id begins with `run`; of several, the newest."""
        return self._jobs.about(KIND, run)

    def get(self, run: str) -> Status:
        return Status.of(self.find(run))

    def log(self, run: str) -> str:
        """What it has logged."""
        return self._jobs.log(self.find(run).id)

    def manifest(self, run: str) -> Manifest:
        """What it is."""
        return msgspec.convert(self._jobs.facts(self.find(run).id), Manifest)

    def job(self, run: str) -> tuple[str, Job, str]:
        """The whole id, the job, and the folder that its paths are relative to."""
        record = self.find(run)
        return record.subject, job_of(record.input), record.folder

    def cancel(self, run: str) -> Status:
        """Ask a running one to stop, which it does after the batch under way.

        Raises:
            Conflict: It does not run.
        """
        record = self._jobs.command(self.find(run).id, "cancel", can_resume=True)
        return Status.of(record)


def quarantine_files(sink: str, run: str, folder: Path) -> list[Path]:
    """The files of a local sink with the rows of a run that could not be scored, in order."""
    from bascule.batch.sinks.writers import format_of_suffix

    if is_url(sink):
        return []
    target = folder / Path(sink).expanduser()
    is_file = not sink.endswith("/") and format_of_suffix(target.suffix.lower()) is not None
    base = target.with_name(f".{target.name}.parts") if is_file else target
    folders = (base / "_bascule" / run, base / "_bascule" / "runs" / run)
    return sorted(file for one in folders for file in one.glob("quarantine-*.parquet"))
