"""The spool: files that one process appends blocks to, and another reads and removes.

`spool/WRITER/` belongs to one process. It has files of blocks, `00000001.blocks` and on, and the
file `pending`, a page of shared memory that outlives a killed process: how many requests were
kept, the ids of the latest, and how many were dropped. The writer holds a lock on `pending` as
long as it lives.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

SPOOL = "spool"
MANIFEST = "ledger/manifest.json"
PENDING = "pending"
SUFFIX = ".blocks"
FILE_BYTES = 32 << 20
"""A file that is larger is followed by the next one; the reader removes it when it is read."""

_KEPT, _DROPPED = 0, 8
_SLOTS_FROM = 64
_SLOT_BYTES = 64
_SLOTS = 2_048
"""More than are ever kept between two blocks: ids of requests that no block holds yet."""
_WORD = struct.Struct("<Q")
_pack_slot = struct.Struct(f"{_SLOT_BYTES}p").pack_into
"""One byte of length, then the bytes that have room."""
_MAX_WAITING_BYTES = 64 << 20
"""Of blocks that the disk has not taken yet; one more is dropped, and counted."""
_WARN_EVERY_S = 60.0
_REST_S = 0.02
_BLANK_BYTES = 1 << 20


class SpoolWriter:
    """Appends the blocks of this process, on a thread: a slow disk holds up no request."""

    def __init__(self, home: Path, *, max_bytes: int = 1 << 30) -> None:
        """Make the folder of this process.

        Args:
            home: The home; the folder is made in its `spool`.
            max_bytes: With more than this unread in its folder, blocks are dropped and counted.

        Raises:
            OSError: The home cannot be written.
        """
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        self.folder = home / SPOOL / name
        self.folder.mkdir(parents=True)
        self._pending_fd = os.open(self.folder / PENDING, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._pending_fd, fcntl.LOCK_EX)
        # Real space: a page that a full disk cannot take would end the process.
        os.posix_fallocate(self._pending_fd, 0, _SLOTS_FROM + _SLOTS * _SLOT_BYTES)
        self._pending = mmap.mmap(self._pending_fd, 0)
        self._words = memoryview(self._pending).cast("Q")
        self._max_bytes = max_bytes
        self._manifest = home / MANIFEST
        self._started_s, self._written_s = time.time(), 0.0
        self._kept = 0
        self._dropped = 0
        self._dropping = threading.Lock()
        self._handed_bytes = self._taken_bytes = 0  # each changed by one thread
        self._waiting: queue.SimpleQueue[tuple[bytes | bytearray, int] | None] = queue.SimpleQueue()
        self._warned_s = 0.0
        self._writing = threading.Thread(target=self._write, name="bascule-spool", daemon=True)
        self._writing.start()

    def keep(self, request_id: str) -> None:
        """Note the id of a request that a later block will hold."""
        kept = self._kept
        slot = _SLOTS_FROM + kept % _SLOTS * _SLOT_BYTES
        _pack_slot(self._pending, slot, request_id.encode("utf-8", "replace"))
        self._kept = self._words[0] = kept + 1  # after the id: `_KEPT` is the first word

    @property
    def kept(self) -> int:
        """How many requests were kept."""
        return self._kept

    @property
    def dropped(self) -> int:
        """How many requests were dropped."""
        return self._dropped

    def lag_s(self) -> float:
        """Since the last commit, if something was written after it; 0 where all is taken in."""
        try:
            committed_s = self._manifest.stat().st_mtime
        except FileNotFoundError:
            committed_s = self._started_s
        return max(0.0, time.time() - committed_s) if self._written_s > committed_s else 0.0

    def append(self, data: bytes | bytearray, requests: int) -> None:
        """Hand over the bytes of a block of so many requests; drops it where too many wait."""
        if self._handed_bytes - self._taken_bytes + len(data) <= _MAX_WAITING_BYTES:
            self._handed_bytes += len(data)
            self._waiting.put((data, requests))
        else:
            self.drop(requests, "the disk is slow")

    def wait_for_room(self, size: int) -> None:
        """Return when a block of `size` bytes would not be dropped; for writers that may wait."""
        while (waiting := self._handed_bytes - self._taken_bytes) > 0:
            if waiting + size <= _MAX_WAITING_BYTES:
                return
            time.sleep(_REST_S)

    def drop(self, requests: int, why: str) -> None:
        """Count requests that are not written, and say so once a minute."""
        with self._dropping:  # by the event loop, and by the thread that writes
            self._dropped += requests
            _WORD.pack_into(self._pending, _DROPPED, self._dropped)
        now_s = time.monotonic()
        if now_s - self._warned_s > _WARN_EVERY_S or not self._warned_s:
            self._warned_s = now_s
            log.warning("the ledger drops answers: %s; %d so far", why, self._dropped)

    def close(self) -> None:
        """Write what waits, and end. The reader removes the folder when it has read it."""
        self._waiting.put(None)
        self._writing.join()
        self._words.release()
        self._pending.close()
        os.close(self._pending_fd)

    def _write(self) -> None:
        number, size, fd = 0, FILE_BYTES, -1
        for data, requests in iter(self._taken, None):
            try:
                if self._unread_bytes(number) + size > self._max_bytes:
                    self.drop(requests, f"{self.folder} holds {self._max_bytes:,} unread bytes")
                    continue
                if size >= FILE_BYTES:
                    if fd >= 0:
                        os.close(fd)
                    number, size, fd = number + 1, 0, -1
                    file = self.folder / f"{number:08d}{SUFFIX}"
                    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                self._append(fd, data, size)
                size += len(data)
                self._written_s = time.time()
            except OSError as error:
                self.drop(requests, str(error))
                size = size if fd >= 0 else FILE_BYTES
            finally:
                self._taken_bytes += len(data)
        if fd >= 0:
            os.close(fd)

    def _taken(self) -> tuple[bytes | bytearray, int] | None:
        """What waits, as one; None at the end.

        Whenever this thread wakes, the event loop waits for it: it sleeps first, so that is seldom.
        """
        items = [self._waiting.get()]
        if items[0] is None:
            return None
        time.sleep(_REST_S)
        while not self._waiting.empty():
            items.append(self._waiting.get())
        if items[-1] is None:
            items.pop()
            self._waiting.put(None)
        found = [item for item in items if item is not None]
        return b"".join([data for data, _ in found]), sum([requests for _, requests in found])

    def _unread_bytes(self, number: int) -> int:
        """Of whole files before the current one; most of the time there are none."""
        if number < 2:
            return 0
        earlier = (self.folder / f"{n:08d}{SUFFIX}" for n in range(max(1, number - 64), number))
        return sum(FILE_BYTES for file in earlier if file.exists())

    @staticmethod
    def _append(fd: int, data: bytes | bytearray, size: int) -> None:
        """All of it, or none: what comes after a torn block could not be found."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, size)
            raise


@dataclass(frozen=True, slots=True)
class Pending:
    """What `pending` of a writer says.

    Attributes:
        kept: How many requests it has kept.
        dropped: How many of those it did not write, for want of space.
        ids: Of the latest kept ones, in order; the last kept one last.
    """

    kept: int
    dropped: int
    ids: tuple[str, ...]


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


@dataclass(frozen=True, slots=True)
class WriterFolder:
    """The folder of a writer, as its reader sees it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def is_alive(self) -> bool:
        """Whether the writer still holds its lock."""
        return is_locked(self.path / PENDING)

    def files(self) -> list[Path]:
        """Its files of blocks, in the order of writing."""
        return sorted(self.path.glob(f"*{SUFFIX}"))

    def blank(self, read_bytes: Mapping[str, int]) -> None:
        """Overwrite what is read of files that stay; their writer may go on appending."""
        for file in self.files():
            with suppress(FileNotFoundError), file.open("r+b") as opened:
                size = read_bytes.get(file.name, 0)
                for start in range(0, size, _BLANK_BYTES):
                    opened.write(bytes(min(_BLANK_BYTES, size - start)))
                opened.flush()
                os.fsync(opened.fileno())

    def pending(self) -> Pending:
        try:
            data = (self.path / PENDING).read_bytes()
        except FileNotFoundError:
            data = b""
        if len(data) < _SLOTS_FROM + _SLOTS * _SLOT_BYTES:
            return Pending(0, 0, ())
        kept, dropped = _WORD.unpack_from(data, _KEPT)[0], _WORD.unpack_from(data, _DROPPED)[0]
        ids = []
        for number in range(max(0, kept - _SLOTS), kept):
            slot = _SLOTS_FROM + number % _SLOTS * _SLOT_BYTES
            ids.append(data[slot + 1 : slot + 1 + data[slot]].decode("utf-8", "replace"))
        return Pending(kept, dropped, tuple(ids))


def writers(home: Path) -> Iterator[WriterFolder]:
    """The folders of all writers, dead or alive."""
    folder = home / SPOOL
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield WriterFolder(path)
