"""The files of requests that are answered later, and of their answers.

A request has a random name, and an answer that of its request with the attempt. The row of the job
names the one answer that counts. `sweep` looks at ages alone; sizes are in the rows of the jobs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bascule.core import Conflict, Gone
from bascule.jobs.records import DONE, Job

if TYPE_CHECKING:
    from bascule.places import Place

MB = 1 << 20
MAX_REQUEST_BYTES = MAX_ANSWER_BYTES = 16 * MB
ROW_BYTES = 64 << 10
"""What a request counts beside its bytes: many tiny ones fill the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payloads:
    """The files, each `kept` after it was written; what they may take is in `[deferred]`."""

    files: Place
    kept: timedelta
    max_mb: int = 4_096
    max_key_mb: int = 1_024
    max_key_requests: int = 8
    runs_per_model: int = 1

    def put(self, content: bytes, name: str = "") -> str:
        """Keep a file; its name. Raises `Unavailable` or `Invalid` where it cannot be written."""
        token = secrets.token_hex(16)
        name = name or f"{token[:3]}/{token}"  # a write to a folder reads its list of names
        self.files.create(name, content)
        return name

    def answer_of(self, job: Job, now: datetime) -> bytes:
        """The answer of a job that is done.

        Raises:
            Gone: It is kept no more.
            Conflict: The job has not ended, or was cancelled.
            BasculeError: Why there is none, as the server of the model said it.
        """
        is_old = job.ended_at is not None and now >= job.ended_at + self.kept
        name = (job.result or {}).get("file")
        content = self.files.read(name) if name and not is_old else None
        if is_old or (job.state == DONE and content is None):
            raise Gone(
                f"the answer of {job.id} is kept no more, or in the folder of another host",
                hint="submit it again; with registry.objects in S3, hosts share answers",
            )
        if content is None:
            raise job.problem or Conflict(f"job {job.id} is {job.state}", hint="ask again later")
        return content

    def sweep(self) -> None:
        """Delete what is kept no more."""
        before = datetime.now(UTC) - self.kept
        old = [name for name, written_at in self.files.files("") if written_at < before]
        self.files.remove(*old)
