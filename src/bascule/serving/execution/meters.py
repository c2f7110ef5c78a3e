"""What callers have used of their limits, in one file that all workers of a server share.

Who looks at a counter, or changes it, holds the lock of the file, about 1 µs, which the kernel
frees if its process dies: so no limit is exceeded in a server, and nothing below one is refused.

- A rate is a token bucket in time: each call costs nanoseconds, and `FULL_AT_NS` is when the bucket
  will be full again, by the monotonic clock, which does not go back.
- A budget is of a day in UTC. A clock that goes back into yesterday stays in today's budget.
- Of a budget, workers use what the control process has reserved in the catalogue (`GRANTED`), and
  ask for more (`WANTED`); see `control.loops.budgets`.
- A counter has one of `SLOTS` slots, which is used again once it says no more than an empty one
  would. Callers that come while all slots of their place are used share one counter of their
  section, so that many addresses get no more than one.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SLOTS = 16_384
DAY_S = 86_400
_SHARED_SLOTS, _WINDOW = 256, 16
KEY, KEY_REST, LIMIT, FULL_AT_NS, SPENT_NS, THROTTLED_NS = range(6)
DAY, ROWS, GRANTED, WANTED, STATE = range(6, 11)
"""The words of a counter: its key, the rows of a day that it may have, what its bucket has spent
since servers last exchanged that, until when its caller is throttled, and, of `DAY`, the rows used,
reserved and asked for."""
_WORDS = 11
OPEN, EXHAUSTED, AWAY = range(3)
"""The states of a budget: more may be reserved; all is reserved; the catalogue cannot say."""


class Meters:
    """The shared file, for one worker or the control process; locked in a `with` block.

    The lock is of the process: one thread may use it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, made at the right size if it is not there."""
        size = 8 * _WORDS * (SLOTS + _SHARED_SLOTS)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self._fd)
        if os.fstat(self._fd).st_size < size:
            os.truncate(self._fd, size)
        memory = mmap.mmap(self._fd, size)
        self._words = memoryview(memory).cast("q")
        self.table: NDArray[np.int64] = np.frombuffer(memory, np.int64).reshape(-1, _WORDS)
        """The same words, a row a counter."""

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def meter(self, section: str, name: str, limit_rows: int | None = None) -> Meter:
        """The counter of a caller or a group in a section, new ones with a full bucket."""
        key, rest = key_of(section, name)
        with self:
            words = self._find(key, rest)
            if words is None:
                key = SLOTS + key_of(section, "")[0] % _SHARED_SLOTS
                words = self._at(key)
                words[KEY] = key
            if limit_rows is not None:
                words[LIMIT] = limit_rows
        return Meter(words, key)

    def among(self, is_meant: NDArray[np.bool_]) -> Iterator[Meter]:
        """The counters of these rows of `table`."""
        for slot in np.flatnonzero(is_meant).tolist():
            words = self._at(slot)
            yield Meter(words, words[KEY])

    def _find(self, key: int, rest: int) -> memoryview[int] | None:
        """The words of a counter, in a slot that is free if it has none; None where none is."""
        free, now_ns, day = None, time.monotonic_ns(), today()
        for step in range(_WINDOW):
            slot = (key + step) % SLOTS
            words = self._at(slot)
            if words[KEY] == key and words[KEY_REST] == rest:
                return words
            is_used_today = words[LIMIT] and words[DAY] >= day
            if free is None and words[FULL_AT_NS] <= now_ns and not is_used_today:
                free = slot
        if free is None:
            return None
        self.table[free] = [key, rest] + [0] * (_WORDS - 2)
        return self._at(free)

    def _at(self, slot: int) -> memoryview[int]:
        return self._words[slot * _WORDS : (slot + 1) * _WORDS]


class Meter:
    """One counter. Its file is locked while it is used."""

    __slots__ = ("key", "words")

    def __init__(self, words: memoryview[int], key: int) -> None:
        self.words, self.key = words, key

    @property
    def is_current(self) -> bool:
        """Whether the slot still is of this counter."""
        return self.words[KEY] == self.key

    @property
    def name(self) -> str:
        """What the catalogue knows the counter by; no caller can be read from it."""
        return f"{self.words[KEY]:016x}{self.words[KEY_REST]:016x}"

    def begin(self, day: int) -> None:
        """Have the counter be of that day; yesterday's clock does not begin yesterday again."""
        if not day <= self.words[DAY] <= day + 1:
            self.words[DAY] = day
            for word in (ROWS, GRANTED, WANTED, STATE):
                self.words[word] = 0

    def room_ns(self, burst_ns: int, now_ns: int) -> int:
        """The cost that fits into the bucket now; of a full one, `burst_ns`."""
        return burst_ns - max(0, self.words[FULL_AT_NS] - now_ns)

    def take(self, cost_ns: int, rows: int, now_ns: int) -> None:
        """Note a call that is admitted."""
        words = self.words
        if cost_ns:
            words[FULL_AT_NS] = max(words[FULL_AT_NS], now_ns) + cost_ns
            words[SPENT_NS] += cost_ns
        words[ROWS] += rows

    def take_back(self, cost_ns: int, rows: int, day: int) -> None:
        """Note that a call of that day, which was admitted, has not run."""
        words = self.words
        words[FULL_AT_NS] -= cost_ns
        words[SPENT_NS] -= cost_ns
        if words[DAY] == day:
            words[ROWS] -= rows


def key_of(section: str, name: str) -> tuple[int, int]:
    """Two words that are the same in every process and on every server; the first is not 0."""
    digest = hashlib.blake2b(f"{section}\0{name}".encode(), digest_size=16).digest()
    key = int.from_bytes(digest[:8], "little") >> 1
    return key or 1, int.from_bytes(digest[8:], "little") >> 1


def today() -> int:
    """The day in UTC, since 1970."""
    return int(time.time()) // DAY_S
