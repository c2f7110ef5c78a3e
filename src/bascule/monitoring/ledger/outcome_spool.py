"""The spool of outcomes: lines of JSON in `outcomes/MODEL/`, one file for each writing process.

Many small requests share one file, which a later fold turns into one Parquet file. `append`
returns when the lines are on the disk. The writer holds a lock on its file as long as it writes
there; a file without a lock is complete. The name of a file begins with its key: lines count as
long as no Parquet file has their key, so that a fold is committed by one rename.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from bascule.core import Unavailable, sync_folder
from bascule.monitoring.ledger.outcome_lines import Line

OUTCOMES = "outcomes"
LINES = ".jsonl"
JUDGES = "_judge."
"""The models under which verdicts of judges are kept begin with it, and those of bundles cannot."""
FILE_BYTES = 4 << 20
_FILE_S = 600.0
"""A file with more, or an older one, is followed by the next."""
_LAST_BYTES = 32 << 10
"""The last line is in so many bytes: id and truth have at most 1,024 characters each."""


class Kept(msgspec.Struct, omit_defaults=True):
    """One line of a file: a `Line`, when it was received, and its place in its request."""

    id: str
    row: int
    truth: str
    truth_number: float | None
    time_us: int | None
    received_us: int
    position: int
    reviewer: str | None = None
    probability: float | None = None


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Kept).decode


class OutcomeSpool:
    """Appends the outcomes of this process. Not for several threads."""

    def __init__(self, home: Path) -> None:
        """Make nothing yet."""
        self._home = home
        self._files: dict[str, _File] = {}
        self._last_us = 0

    def append(self, model: str, batches: Sequence[Sequence[Line]]) -> None:
        """Keep outcomes, each batch as received together; they are on the disk when this returns.

        Raises:
            Unavailable: The home cannot be written; none of them is kept.
        """
        try:
            self._file_of(model).write(b"".join(map(self._encoded, batches)))
        except OSError as error:
            self._forget(model)
            raise Unavailable(
                f"outcomes of {model} cannot be written: {error.strerror or error}",
                hint="make the server's home writable, and send them again",
            ) from None

    def close(self) -> None:
        """Let go of the files."""
        for model in tuple(self._files):
            self._forget(model)

    def _file_of(self, model: str) -> _File:
        file = self._files.get(model)
        if file is not None and (file.size >= FILE_BYTES or file.is_old()):
            self._forget(model)
            file = None
        if file is None:
            folder = self._home / OUTCOMES / model
            folder.mkdir(parents=True, exist_ok=True)
            self._last_us = max(self._now_us(), latest_us(folder) + 1)
            file = self._files[model] = self._new_file(folder)
        return file

    def _new_file(self, folder: Path) -> _File:
        while True:
            file = _File(folder / f"{new_key(self._last_us)}{LINES}")
            if file.is_there():
                return file
            file.close()  # a fold took the empty file for a complete one, before it was locked

    def _encoded(self, lines: Sequence[Line]) -> bytes:
        received_us = self._last_us = self._now_us()
        return b"".join(
            _encode(Kept(*line[:5], received_us, position, *line[5:])) + b"\n"
            for position, line in enumerate(lines)
        )

    def _now_us(self) -> int:
        return max(time.time_ns() // 1000, self._last_us + 1)

    def _forget(self, model: str) -> None:
        file = self._files.pop(model, None)
        if file is not None:
            file.close()


class _File:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self.size = 0
        self._opened_s = time.monotonic()
        sync_folder(path.parent)

    def is_old(self) -> bool:
        return time.monotonic() - self._opened_s > _FILE_S

    def is_there(self) -> bool:
        return os.fstat(self._fd).st_nlink > 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        os.close(self._fd)


def new_key(now_us: int) -> str:
    """The key of a new file."""
    return f"{now_us}-{secrets.token_hex(4)}"


def key_of(file: Path) -> str:
    return file.name.partition(".")[0]


def received_us(file: Path) -> tuple[int, int]:
    """When the first and the last outcome of a file was received, as its name says."""
    key, _, rest = file.name.partition(".")
    first, last = int(key.partition("-")[0]), rest.partition(".")[0]
    return first, int(last) if last.isdecimal() else first


def latest_us(folder: Path) -> int:
    """When the latest outcomes of a folder were received, by the names and times of its files."""
    latest = 0
    for file in folder.glob("[0-9]*"):
        latest = max(latest, received_us(file)[1])
        if file.suffix == LINES:
            with suppress(FileNotFoundError):
                latest = max(latest, _last_received_us(file))
    return latest


def whole_lines(data: bytes) -> bytes:
    """The lines of a file; one that is cut short was never answered, and does not count."""
    return data[: data.rfind(b"\n") + 1]


def blank_lines(file: Path, numbers: Sequence[int]) -> None:
    """Overwrite lines with spaces, which readers skip; their writer may go on appending.

    Args:
        file: The file.
        numbers: Of the lines among those that are not blank, from 0.
    """
    chosen, at, number = set(numbers), 0, 0
    with file.open("r+b") as opened:
        for line in opened.read().splitlines(keepends=True):
            if line.strip():
                if number in chosen:
                    opened.seek(at)
                    opened.write(b" " * (len(line) - 1))
                number += 1
            at += len(line)
        opened.flush()
        os.fsync(opened.fileno())


def _last_received_us(file: Path) -> int:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _LAST_BYTES))
        whole = opened.read()
    # Blank lines were outcomes that are deleted.
    last = whole_lines(whole).rstrip(b" \n").rpartition(b"\n")[2]
    return _decode(last).received_us if last else 0
