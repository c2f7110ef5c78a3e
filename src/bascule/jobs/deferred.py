"""Inference that is answered later: its options, its files, its callback.

Requests and answers are files of one folder, named at random and each written once. The job's row
names the one answer that counts, so that an attempt that lost its lease leaves a file without a
name. `Payloads.sweep` removes every file by its age alone.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit

from annotated_types import Ge, Gt, Le

from bascule.core import Conflict, Gone, Invalid, Overloaded, Refused, sync_folder, synced, writing
from bascule.jobs.records import DONE, Job

MAX_REQUEST_BYTES = 16 << 20
MAX_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredOptions:
    """How requests are answered later: the section `[deferred]`.

    Attributes:
        folder: Where requests and answers are; empty for a folder of the home. Servers of one
            catalogue that share it take over each other's requests.
        kept_hours: How long an answer is kept after it was given, and a request before.
        max_kept_mb: How much requests and answers may take, in millions of bytes; above, a request
            is refused with 429.
        max_waiting: How many requests may wait; one more is refused with 429.
        max_waiting_of_caller: How many requests of one key may wait or run.
        deadline_s: How long the model may take for one of them, in place of `serving.deadline_s`
            where callers need keys.
        callbacks: Addresses that callers may have called: `https://hooks.example.com/models`; what
            is below them as well. None named is no callbacks.
        callback_secret: The key of their signature: as the secret of a webhook of alerts.
    """

    folder: str = ""
    kept_hours: Annotated[float, Gt(0), Le(168)] = 24.0
    max_kept_mb: Annotated[int, Ge(1)] = 4_096
    max_waiting: Annotated[int, Ge(1)] = 100
    max_waiting_of_caller: Annotated[int, Ge(1)] = 20
    deadline_s: Annotated[float, Gt(0), Le(86_400)] = 900.0
    callbacks: tuple[str, ...] = ()
    callback_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """A request that is answered later.

    Attributes:
        id: Of its job.
        model: Which model or endpoint it asks.
        state: `queued`, `running`, `done`, `failed`, `cancelled` or `killed`.
        attempts: How often the model was asked.
        created_at: When it was submitted.
        ended_at: When it ended; null before.
        kept_until: Until when the answer is kept; null before its end.
        bytes: Of the answer; 0 without one.
        error: Why there is no answer; empty for no error.
    """

    id: str
    model: str
    state: str
    attempts: int
    created_at: datetime
    ended_at: datetime | None
    kept_until: datetime | None
    bytes: int
    error: str

    @classmethod
    def of(cls, job: Job, kept_hours: float) -> Inference:
        return cls(
            id=job.id, model=job.input["model"], state=job.state, attempts=job.attempt,
            created_at=job.created_at, ended_at=job.ended_at,
            kept_until=job.ended_at and job.ended_at + timedelta(hours=kept_hours),
            bytes=(job.result or {}).get("bytes", 0),
            error=job.problem.message if job.problem else "",
        )  # fmt: skip


def answer_of(job: Job, kept_hours: float, now: datetime) -> Mapping[str, Any]:
    """The name, headers and size of the answer of a job that has ended. Pure.

    Raises:
        Gone: It is kept no more.
        BasculeError: Why there is none, as the model's server said it.
    """
    if job.ended_at is not None and now >= job.ended_at + timedelta(hours=kept_hours):
        raise gone(job.id, kept_hours)
    if job.state != DONE:
        raise job.problem or Conflict(f"inference {job.id} is {job.state}", hint="ask again later")
    answer: Mapping[str, Any] = job.result
    return answer


def gone(job_id: str, kept_hours: float) -> Gone:
    """The error of an answer that was removed."""
    return Gone(
        f"the answer of inference {job_id} is kept no more: deferred.kept_hours is {kept_hours:g}",
        hint="submit the request again",
    )


def check_callback(url: str, allowed: Sequence[str]) -> None:
    """Raise `Refused` unless an address is one of `allowed`, or below one.

    The settings name host and port, so that no caller has this server reach another.
    """
    parts = _address(url)
    segments = unquote(parts.path).replace("\\", "/").split("/")
    is_plain = url.isascii() and url.isprintable() and not set(' $\\{}"<>') & set(url)
    if not is_plain or ".." in segments or parts.fragment or parts.username is not None:
        raise Invalid("callback: not a plain http or https address", field="callback")
    for place in map(_address, allowed):
        root = place.path.rstrip("/")
        is_below = parts.path == root or parts.path.startswith(root + "/")
        if is_below and _origin(place) == _origin(parts):
            return
    raise Refused(
        f"callback: {parts.scheme}://{parts.netloc} is not in deferred.callbacks",
        hint="poll for the answer, or have the address added to the settings of the server",
    )


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise Invalid("callback: not http://HOST/PATH or https://HOST/PATH", field="callback")


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


class Payloads:
    """The files of requests and answers."""

    def __init__(self, options: DeferredOptions, home: Path) -> None:
        self._folder = Path(options.folder or home / "deferred")
        self._max_bytes = options.max_kept_mb * 1_000_000
        self._kept_s = options.kept_hours * 3_600

    def put(self, body: bytes) -> str:
        """Keep a request; its name. Raises `Overloaded` where the folder is full."""
        with writing(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept_bytes = sum(entry.stat().st_size for entry in os.scandir(self._folder))
            if kept_bytes + len(body) > self._max_bytes:
                raise Overloaded(
                    f"{kept_bytes:,} bytes of requests and answers are kept, of "
                    f"{self._max_bytes:,} (deferred.max_kept_mb)",
                    hint="delete answers that were read, or retry later", retry_after_s=60,
                )  # fmt: skip
            name = secrets.token_hex(16)
            with synced(self.path(name)) as file:
                file.write(body)
            sync_folder(self._folder)
        return name

    def path(self, name: str) -> Path:
        """Of a file that may be there."""
        return self._folder / name

    def remove(self, *names: str) -> None:
        """Delete files; fine where they are not there."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what is older than answers are kept."""
        before_s = time.time() - self._kept_s
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before_s:
                        os.unlink(entry)
