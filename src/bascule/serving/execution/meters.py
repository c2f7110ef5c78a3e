"""What callers have used of their limits, in one file that all workers of a server share.

As in `telemetry.counters`, each worker writes words of its own and reads those of all, so nothing
is locked where requests are answered. The rules:

- a worker notes what it admits before the call runs. Workers that decide at the same moment may
  all admit: a limit is exceeded by at most one call of each other worker, and nothing below a
  limit is refused. Far from a limit a worker notes up to 64 calls together, within 10 ms: these
  are what is over where a limit is reached meanwhile, and what a worker that is killed takes along;
- a rate is a token bucket in time: each call costs nanoseconds, and the bucket is full when the
  costs since it was last full have passed. Time is the monotonic clock, which does not go back;
- a budget is of a day in UTC. A clock that goes back into yesterday stays in today's budget;
- of a budget, the workers use what the control process has reserved in the catalogue (`GRANTED`),
  and ask for more (`WANTED`); see `control.loops.budgets`;
- a counter has one of `SLOTS` slots, which is used again once it says no more than an empty one
  would. Callers that come while all slots of their place are used share one counter of their
  section, so that many addresses get no more than one.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOTS = 16_384
DAY_S = 86_400
_SHARED_SLOTS, _WINDOW = 256, 16
KEY, KEY_REST, IDLE_NS, LIMIT, GRANT_DAY, GRANTED, STATE, ELSEWHERE_NS = range(8)
"""The words of a slot that are of no one worker: its key, the time in which its bucket was full,
the rows of a day, the day of what is reserved, that, its `STATE`, and costs on other servers."""
_FIXED = 8
OPEN, EXHAUSTED, AWAY = range(3)
"""Of a budget: more may be reserved; all is reserved; the catalogue cannot say."""
_TAKEN = 0
"""The first word: how many slots were taken. How often workers have asked comes after it, by
worker, then the taken slots in their order."""


class Meters:
    """The shared file, for one worker or for the control process."""

    def __init__(self, path: Path, workers: int, worker: int = 0) -> None:
        """Open the file at `path`, made at the right size if it is not there."""
        self.workers, self.worker = workers, worker
        self._order = 1 + workers
        self._first = self._order + SLOTS
        self._slot_words = _FIXED + 4 * workers
        size = 8 * (self._first + (SLOTS + _SHARED_SLOTS) * self._slot_words)
        self._path = path
        with path.open("a+b") as file:
            if file.seek(0, 2) < size:
                file.truncate(size)
            self.words = memoryview(mmap.mmap(file.fileno(), size)).cast("q")

    def asked(self) -> int:
        """How often workers have asked for more of a budget."""
        return sum(self.words[1 : 1 + self.workers])

    def meter(self, section: str, name: str, limit_rows: int) -> Meter:
        """The counter of a caller or a group in a section, new ones with a full bucket."""
        key, rest = key_of(section, name)
        with self._locked():
            base = self._base_of(key, rest)
            if base is None:
                shared = key_of(section, "")[0] % _SHARED_SLOTS
                key = rest = 0
                base = self._at(SLOTS + shared)
                if not self.words[base + IDLE_NS]:
                    self._clear(base, 0, 0)
            self.words[base + LIMIT] = limit_rows
        return Meter(self, base, key)

    def every(self) -> Iterator[Meter]:
        """The counters that have a slot."""
        for place in range(self.words[_TAKEN]):
            base = self._at(self.words[self._order + place])
            yield Meter(self, base, self.words[base + KEY])

    def _base_of(self, key: int, rest: int) -> int | None:
        words, free = self.words, None
        for base in self._window(key):
            if words[base + KEY] == key and words[base + KEY_REST] == rest:
                return base
            if free is None and self._is_free(base):
                free = base
        if free is not None:
            is_new = not words[free + KEY]
            self._clear(free, key, rest)
            if is_new:
                taken = words[_TAKEN]
                words[self._order + taken] = (free - self._first) // self._slot_words
                words[_TAKEN] = taken + 1
        return free

    def _window(self, key: int) -> Iterator[int]:
        return (self._at((key + step) % SLOTS) for step in range(_WINDOW))

    def _at(self, slot: int) -> int:
        return self._first + slot * self._slot_words

    def _is_free(self, base: int) -> bool:
        words = self.words
        if not words[base + KEY]:
            return True
        meter = Meter(self, base, words[base + KEY])
        is_used_today = words[base + LIMIT] and meter.last_day() >= today()
        return not is_used_today and meter.is_full(time.monotonic_ns())

    def _clear(self, base: int, key: int, rest: int) -> None:
        """A full bucket and nothing used; words of workers are theirs, so they stay."""
        words = self.words
        words[base + KEY] = 0
        for word in (GRANT_DAY, GRANTED, STATE, ELSEWHERE_NS):
            words[base + word] = 0
        costs = base + _FIXED
        words[base + IDLE_NS] = time.monotonic_ns() - sum(words[costs : costs + self.workers])
        words[base + KEY_REST], words[base + KEY] = rest, key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The slots are given out by one process at a time; the lock of one that dies ends."""
        with self._path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield


class Meter:
    """One counter, as one worker or the control process sees it."""

    __slots__ = ("_costs", "_days", "_key", "_meters", "_rows", "_wanted", "base", "words")

    def __init__(self, meters: Meters, base: int, key: int) -> None:
        workers = meters.workers
        self._meters, self._key = meters, key
        self.base, self.words = base, meters.words
        self._costs = base + _FIXED
        self._days = self._costs + workers
        self._rows = self._days + workers
        self._wanted = self._rows + workers

    @property
    def is_current(self) -> bool:
        """Whether the slot still is of this counter."""
        return self.words[self.base + KEY] == self._key

    @property
    def name(self) -> str:
        """What the catalogue knows the counter by; no caller can be read from it."""
        words, base = self.words, self.base
        return f"{words[base + KEY]:016x}{words[base + KEY_REST]:016x}"

    def last_day(self) -> int:
        if self._meters.workers == 1:
            return self.words[self._days]
        return max(self.words[self._days : self._rows])

    def day(self, now: int) -> int:
        """The day that counts at `now`: yesterday's clock does not begin yesterday again."""
        last = self.last_day()
        return last if last == now + 1 else now

    def is_full(self, now_ns: int) -> bool:
        return self._costs_ns() + self.words[self.base + IDLE_NS] <= now_ns

    def room_ns(self, burst_ns: int, now_ns: int) -> int:
        """The cost that fits into the bucket now; of a full one, `burst_ns`. Nothing is taken."""
        words, idle = self.words, self.base + IDLE_NS
        idle_ns = words[idle]  # read once: another worker may note the same idle time meanwhile
        full_at_ns = self._costs_ns() + idle_ns
        if full_at_ns < now_ns:
            words[idle] = idle_ns + now_ns - full_at_ns
            return burst_ns
        return burst_ns + now_ns - full_at_ns

    def rows(self, day: int) -> int:
        """The rows that all workers have admitted that day."""
        words, days, workers = self.words, self._days, self._meters.workers
        if workers == 1:
            return words[self._rows] if words[days] == day else 0
        return sum(
            words[self._rows + worker] for worker in range(workers) if words[days + worker] == day
        )

    def take(self, cost_ns: int, rows: int, day: int) -> None:
        """Note a call that is admitted; negative amounts take back one that did not run."""
        words, worker = self.words, self._meters.worker
        words[self._costs + worker] += cost_ns
        mine = self._rows + worker
        if words[self._days + worker] != day:
            if rows < 0:
                return
            # Before the day: yesterday's rows must not count as today's.
            words[mine] = words[self._wanted + worker] = 0
            words[self._days + worker] = day
        words[mine] += rows

    def granted(self, day: int) -> int:
        """The rows that this server may admit that day, as far as they are reserved."""
        words, base = self.words, self.base
        return words[base + GRANTED] if words[base + GRANT_DAY] == day else 0

    def state(self, day: int) -> int:
        """`OPEN`, `EXHAUSTED` or `AWAY`."""
        words, base = self.words, self.base
        return words[base + STATE] if words[base + GRANT_DAY] == day else OPEN

    def want(self, rows: int, day: int) -> None:
        """Ask the control process to reserve so many rows of the day in all; 0 takes it back."""
        words, meters = self.words, self._meters
        self.take(0, 0, day)
        words[self._wanted + meters.worker] = rows
        words[1 + meters.worker] += 1

    def wanted(self, day: int) -> int:
        """The most that a worker asks for that day."""
        words, workers = self.words, range(self._meters.workers)
        asks = [words[self._wanted + w] for w in workers if words[self._days + w] == day]
        return max(asks, default=0)

    def cost_ns(self) -> int:
        """All costs that the workers of this server have taken."""
        return sum(self.words[self._costs : self._days])

    def idle_ns(self, now_ns: int) -> int:
        """How long the bucket was full in all, from any moment on."""
        idle_ns = self.words[self.base + IDLE_NS]
        return idle_ns + max(0, now_ns - self._costs_ns() - idle_ns)

    def _costs_ns(self) -> int:
        words, costs = self.words, self._costs
        own = words[costs] if self._meters.workers == 1 else sum(words[costs : self._days])
        return own + words[self.base + ELSEWHERE_NS]


def key_of(section: str, name: str) -> tuple[int, int]:
    """Two words that are the same in every process and on every server; the first is not 0."""
    digest = hashlib.blake2b(f"{section}\0{name}".encode(), digest_size=16).digest()
    key = int.from_bytes(digest[:8], "little") >> 1
    return key or 1, int.from_bytes(digest[8:], "little") >> 1


def today() -> int:
    """The day in UTC, since 1970."""
    return int(time.time()) // DAY_S
