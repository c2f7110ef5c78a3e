"""The files of requests that are answered later, and of their answers.

A request has a random name, and an answer that of its request with the attempt. The row of the job
names the one answer that counts. `sweep` looks at ages alone.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from bascule.core import Conflict, Gone, Overloaded, sync_folder, synced, writing
from bascule.jobs.records import DONE, Job

MAX_REQUEST_BYTES = MAX_ANSWER_BYTES = 16 << 20
MAX_KEPT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Payloads:
    """The files in `folder`, each `kept` after it was written. Raises `Invalid` as `writing`."""

    folder: Path
    kept: timedelta

    def put(self, content: bytes, name: str = "") -> str:
        """Keep a file; its name. Raises `Overloaded` where `MAX_KEPT_BYTES` are kept."""
        name = name or secrets.token_hex(16)
        if self.sweep() > MAX_KEPT_BYTES:
            raise Overloaded(
                f"requests and answers take over {MAX_KEPT_BYTES:,} bytes",
                hint="retry later", retry_after_s=60,
            )  # fmt: skip
        with writing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with synced(self.folder / name) as file:
                file.write(content)
            sync_folder(self.folder)
        return name

    def answer_of(self, job: Job, now: datetime) -> Path:
        """The answer of a job that is done.

        Raises:
            Gone: It is kept no more.
            Conflict: The job has not ended, or was cancelled.
            BasculeError: Why there is none, as the server of the model said it.
        """
        path = self.folder / ((job.result or {}).get("file") or "none")
        is_old = job.ended_at is not None and now >= job.ended_at + self.kept
        if is_old or (job.state == DONE and not path.exists()):
            raise Gone(f"the answer of {job.id} is kept no more", hint="submit the request again")
        if job.state != DONE:
            raise job.problem or Conflict(f"job {job.id} is {job.state}", hint="ask again later")
        return path

    def sweep(self) -> int:
        """Delete what is kept no more; how many bytes stay."""
        before_s, size = time.time() - self.kept.total_seconds(), 0
        with suppress(FileNotFoundError):
            for file in list(os.scandir(self.folder)):
                with suppress(FileNotFoundError):  # another server sweeps too
                    facts = file.stat()
                    if facts.st_mtime < before_s:
                        os.unlink(file)
                    else:
                        size += facts.st_size
        return size
