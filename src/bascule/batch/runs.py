"""Runs of this machine: a folder for each in `batch/` of the home, with status, job and log.

The folder has the claim of the run's process: one that was killed is known, and no two do one run.
The sink alone knows what was written; a folder may be removed.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bascule.batch.claims import FileCell, held
from bascule.batch.jobs import Job, job_of
from bascule.batch.manifest import Manifest
from bascule.batch.places import is_url
from bascule.core import Conflict, NotFound, replacing, writing

RUNNING, DONE, FAILED, CANCELLED, KILLED = "running", "done", "failed", "cancelled", "killed"
STATES = (RUNNING, DONE, FAILED, CANCELLED, KILLED)
OF_SCHEDULE = "schedule "
"""What `Status.by` of a scheduled run begins with."""


class Status(msgspec.Struct, kw_only=True):
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
    started_at: datetime
    updated_at: datetime
    host: str = ""
    pid: int = 0
    error: str = ""
    findings: list[str] = []

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made | {"rows_per_s": self.rows_per_s, "left_s": self.left_s}

    @property
    def rows_per_s(self) -> float | None:
        """Of the process that scores or scored; None before its first rows."""
        new = self.rows - self.rows_before
        return round(new / self.seconds, 1) if self.seconds and new > 0 else None

    @property
    def left_s(self) -> float | None:
        """About how long a running one still takes; None where that is not known."""
        if self.state != RUNNING or self.expected_rows is None or self.rows_per_s is None:
            return None
        return round(max(self.expected_rows - self.rows, 0) / self.rows_per_s, 1)


class Runs:
    """The runs below a home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "batch"

    def list(self) -> list[Status]:
        """All of them, the latest first."""
        found = [self._status(one.parent) for one in self._folder.glob("*/status.json")]
        return sorted(found, key=lambda one: one.started_at, reverse=True)

    def page(self, offset: int, limit: int) -> tuple[Sequence[Status], int]:
        """Some of the runs, the latest change first, and how many there are.

        The status of the others is not read, so that thousands of runs cost no more than a page.
        """
        found = []
        for file in self._folder.glob("*/status.json"):
            with suppress(FileNotFoundError):
                found.append((file.stat().st_mtime_ns, file.parent))
        found.sort(reverse=True)
        shown = [self._status(folder) for _, folder in found[offset : offset + limit]]
        return shown, len(found)

    def quarantined(self, run: str, limit: int) -> Sequence[dict[str, Any]]:
        """The first rows of a run that could not be scored: `chunk`, `row`, `reason`, `content`.

        Of a sink in local files; others are empty: the table of a database keeps them.
        """
        import pyarrow.parquet as pq

        whole, job, base = self.job(run)
        found: list[dict[str, Any]] = []
        for file in quarantine_files(job.sink, whole, Path(base)):
            with suppress(OSError), pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(limit):
                    found += batch.to_pylist()
                    break
            if len(found) >= limit:
                break
        return found[:limit]

    def get(self, run: str) -> Status:
        """The run whose id begins with `run`."""
        return self._status(self._find(run))

    def log(self, run: str) -> str:
        """What it has logged."""
        path = self._find(run) / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def manifest(self, run: str) -> Manifest:
        """What it is."""
        path = self._find(run) / "manifest.json"
        return msgspec.json.decode(path.read_bytes(), type=Manifest)

    def job(self, run: str) -> tuple[str, Job, str]:
        """The whole id, the job, and the folder that its paths are relative to."""
        folder = self._find(run)
        content = msgspec.json.decode((folder / "job.json").read_bytes())
        return folder.name, job_of(content["job"]), str(content["folder"])

    def cancel(self, run: str) -> Status:
        """Ask a running one to stop, which it does after the batch under way.

        Raises:
            Conflict: It does not run.
        """
        folder = self._find(run)
        status = self._status(folder)
        if status.state != RUNNING:
            raise Conflict(f"run {folder.name} is {status.state}", hint="bascule batch runs")
        with writing(folder):
            (folder / "cancel").touch()
        return status

    @contextmanager
    def begin(self, job: Job, status: Status, manifest: Manifest) -> Iterator[LiveRun]:
        """Hold the run while the block runs.

        Raises:
            Conflict: Another process does it.
        """
        folder = self._folder / status.run
        with held(_claim_of(folder), status.run, str(folder)):
            (folder / "cancel").unlink(missing_ok=True)
            content = {"job": job.to_json(), "folder": os.getcwd()}
            with replacing(folder / "job.json") as draft:
                draft.write_bytes(msgspec.json.encode(content))
            with replacing(folder / "manifest.json") as draft:
                draft.write_bytes(msgspec.json.encode(manifest))
            live = LiveRun(folder, status)
            live.save()
            with _logging_to(folder / "log.txt"):
                yield live

    def _find(self, run: str) -> Path:
        found = [one for one in self._folder.glob(f"{_plain(run)}*") if (one / "job.json").exists()]
        if len(found) != 1:
            what = "no run" if not found else f"{len(found)} runs"
            raise NotFound(f"{what} {run!r} on this machine", hint="bascule batch runs lists them")
        return found[0]

    @staticmethod
    def _status(folder: Path) -> Status:
        status = msgspec.json.decode((folder / "status.json").read_bytes(), type=Status)
        if status.state == RUNNING and not _claim_of(folder).is_held():
            status.state = KILLED
        return status


class LiveRun:
    """The folder of a run under way."""

    def __init__(self, folder: Path, status: Status) -> None:
        self._folder = folder
        self.status = status
        status.host, status.pid = socket.gethostname(), os.getpid()

    def save(self) -> None:
        """Write the status. That it cannot be written ends nothing."""
        self.status.updated_at = datetime.now(UTC)
        draft = self._folder / "status.draft"
        with suppress(OSError):
            draft.write_bytes(msgspec.json.encode(self.status))
            draft.replace(self._folder / "status.json")

    @property
    def is_cancelled(self) -> bool:
        return (self._folder / "cancel").exists()


def quarantine_files(sink: str, run: str, folder: Path) -> list[Path]:
    """The files of a local sink with the rows of a run that could not be scored, in order."""
    from bascule.batch.sinks.writers import format_of_suffix

    if is_url(sink):
        return []
    target = folder / Path(sink).expanduser()
    is_file = not sink.endswith("/") and format_of_suffix(target.suffix.lower()) is not None
    base = target.with_name(f".{target.name}.parts") if is_file else target
    return sorted((base / "_bascule" / run).glob("quarantine-*.parquet"))


def _plain(run: str) -> str:
    return "".join(one for one in run if one.isalnum()) or "-"


def _claim_of(folder: Path) -> FileCell:
    return FileCell(folder / "claim", str(folder))


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    room = logging.getLogger("bascule.batch")
    level = room.level
    room.addHandler(handler)
    room.setLevel(logging.INFO)
    try:
        yield
    finally:
        room.removeHandler(handler)
        room.setLevel(level)
        handler.close()
