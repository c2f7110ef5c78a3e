"""The queue of requests that are read and not begun, for an event loop that is behind.

A run on the event loop delays reading, and unread requests wait in the kernel, where their age is
unknown. So the loop works for one turn at most, then reads all that has arrived, then works on. The
requests that it reads meanwhile wait here, in the order of reading and with a known age. A request
that cannot be answered in time is refused at once, before its body is parsed.

The rules:
- while the loop keeps up, the queue is not used;
- a request that arrives while others wait is queued behind them;
- a burst may wait for as long as its deadlines allow; but a queue that does not become empty is no
  burst, and is kept short;
- a request whose deadline has passed is not begun.

`BufferBudget` counts the bytes of requests that are incomplete, pipelined, queued, or waiting for
a model to load.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from bascule.core import BasculeError, Columns, Overloaded, Unavailable

log = logging.getLogger(__name__)

TURN_S = 0.01
"""How long the loop works before it reads on: the error of every age, and the delay of others."""

SHORT_BYTES = 8 << 10
"""A read of at most this size is handled at once, even while other connections wait for their
turn."""

BESIDE_CALL_BYTES = 1 << 10
"""The approximate memory of a waiting decoded call beside its rows."""
_IDLE_NS = 1_000_000
"""A loop without an answer for so long has read meanwhile."""
_MARGIN = 1.25
_STANDING_MARGIN = 2.0
_STANDING_SHARE = 0.1
_NEWEST_COUNTS = 0.2


def comes_in_time(wait_s: float, allowed_s: float, standing_s: float) -> bool:
    """Whether a request that joins a queue is answered before its deadline. Pure.

    Args:
        wait_s: The expected time to its answer.
        allowed_s: The time until its caller gives up.
        standing_s: How long the queue has not been empty.

    A long queue answers no more requests than a short one; it only answers all of them late. It
    is of use for a burst alone: once it has not been empty for a tenth of a deadline, its wait may
    be half a deadline at most (the idea is CoDel's: Nichols and Jacobson 2012, RFC 8289).
    """
    is_standing = standing_s > _STANDING_SHARE * allowed_s
    return wait_s * (_STANDING_MARGIN if is_standing else _MARGIN) <= allowed_s


class BufferBudget:
    """The bytes that one worker buffers of requests that cannot begin yet.

    One account for the connections of all protocols and the queues of all models: each has bounds
    of its own, and there may be ten thousand. Code that adds bytes subtracts the same later. On
    the event loop only.
    """

    __slots__ = ("bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self.max_bytes = max_bytes

    def is_over(self) -> bool:
        """Whether the buffered bytes exceed the limit."""
        return self.bytes > self.max_bytes

    def check_room(self, size: int, name: str, retry_after_s: int = 1) -> None:
        """Return if a decoded call of `size` bytes may wait for the model of this name.

        A call always may while nothing else is buffered, so that the largest request is answered.

        Raises:
            Overloaded: The buffered bytes would exceed the limit.
        """
        if self.bytes and self.bytes + size > self.max_bytes:
            raise Overloaded(
                f"the request takes {size} bytes, and requests that wait for {name} or elsewhere "
                f"already take {self.bytes} of at most {self.max_bytes} bytes",
                hint="retry later, with fewer rows a request, or serve with more workers",
                retry_after_s=retry_after_s,
            )

    def refusal(self) -> Unavailable:
        """The error of a request that is not buffered."""
        return Unavailable(
            f"requests that cannot begin yet take all of the {self.max_bytes} bytes for them",
            hint="retry later, with fewer requests ahead of their answers, or serve with more "
            "workers",
        )


class Client(Protocol):
    """A connection as its unread answers see it."""

    def cut_off(self) -> None:
        """Close it at once, and note in `Unread` that it has nothing unread."""


class Unread:
    """The bytes of one worker's answers that clients have not read, over all connections.

    Bytes that are written at once are not counted, only bytes that wait for a client to make room.
    Each client has time limits of its own (`sites.Taking`), but there may be thousands of clients.
    Above the limit, the connection with the most unread bytes is closed.
    """

    __slots__ = ("_max_bytes", "_of", "bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._of: dict[Client, int] = {}
        self.bytes = 0

    def note(self, client: Client, size: int) -> None:
        """Note a client's unread bytes; alone, one client may exceed the limit with one answer."""
        before = self._of.pop(client, 0)
        others = self.bytes
        self.bytes += size - before
        if size:
            self._of[client] = size
        if size > before and others and self.bytes > self._max_bytes:
            max(self._of, key=self._of.__getitem__).cut_off()


def held_bytes(columns: Columns) -> int:
    """The approximate memory of a call's decoded rows."""
    size = BESIDE_CALL_BYTES
    for column in columns.values():
        size += column.nbytes
        if column.dtype == object:
            # An array counts the addresses of texts alone, and a short text takes ten of them.
            size += sum(map(sys.getsizeof, column.ravel().tolist()))
    return size


class Waiting(Protocol):
    """A request as the queue sees it.

    Attributes:
        body: Its body, which counts towards the limit.
        answered: It has its answer, or its client has gone.
        waited_s: Its time in the queue; set before it is begun.
    """

    body: bytes
    answered: bool
    waited_s: float

    def fail_late(self) -> None:
        """Answer that its deadline passed in the queue."""


class Sender(Protocol):
    """An answer in parts that is on its way, as the worker sees it."""

    def check_right(self) -> None:
        """End it if its caller may not have it any more."""

    def stop(self, error: BasculeError) -> None:
        """End it because the worker stops."""


class _Entry(NamedTuple):
    request: Waiting
    begin: Callable[[], None]
    read_ns: int
    until_ns: int
    body_bytes: int


class AdmissionQueue:
    """The requests of one worker that wait for the event loop. On the event loop only."""

    def __init__(self, max_bytes: int, turn_s: float = TURN_S) -> None:
        """Empty.

        Args:
            max_bytes: The limit for the bodies of all waiting requests, and half the limit for
                the unread bytes of answers.
            turn_s: How long the loop works before it reads on.
        """
        self._max_bytes = max_bytes
        self._turn_ns = turn_s * 1e9
        self._waiting: deque[_Entry] = deque()
        self._bytes = 0
        self._busy_since_ns = 0
        self._standing_since_ns = 0
        self._paced_ns = 0
        self._pace_s = 0.0
        self._refusal: Overloaded | None = None
        self._later: deque[Callable[[], None]] = deque()
        self.unread = Unread(2 * max_bytes)
        self.senders: set[Sender] = set()
        """The answers in parts that are on their way."""
        self.answered_ns = 0
        """The time of the last answer, by `time.perf_counter_ns`; set by the code that answers."""

    def __len__(self) -> int:
        return len(self._waiting)

    def is_behind(self, now_ns: int) -> bool:
        """Whether a new request must wait here: others wait, or the turn of the loop is over."""
        if self._waiting:
            return True
        if now_ns - self.answered_ns > _IDLE_NS:
            self._busy_since_ns = now_ns
            return False
        return now_ns - self._busy_since_ns > self._turn_ns

    def add(
        self, request: Waiting, allowed_s: float, begin: Callable[[], None]
    ) -> Overloaded | None:
        """Have a request wait for its turn, in which `begin` is called.

        Returns:
            None; or why it may not wait: its turn would come too late, or too much waits.
            One error object serves all refusals of a turn: to refuse must cost little.
        """
        now_ns = time.perf_counter_ns()
        waiting = self._waiting
        size = len(request.body)
        if waiting:
            wait_s = (len(waiting) + 1) * self._pace_s
            standing_s = (now_ns - self._standing_since_ns) / 1e9
            if (
                not comes_in_time(wait_s, allowed_s, standing_s)
                or self._bytes + size > self._max_bytes
            ):
                if self._refusal is None:
                    self._refusal = _refusal(len(waiting), wait_s)
                return self._refusal
        else:
            self._standing_since_ns = now_ns
            self._paced_ns = 0
            asyncio.get_running_loop().call_soon(self._work)
        self._bytes += size
        waiting.append(_Entry(request, begin, now_ns, now_ns + int(allowed_s * 1e9), size))
        return None

    def is_crowded(self) -> bool:
        """Whether a read longer than `SHORT_BYTES` must wait behind other connections."""
        return bool(self._later)

    def later(self, go_on: Callable[[], None]) -> None:
        """Have a connection go on with the bytes that it has read, after a turn for all others.

        One at a time: many connections with large reads take no more of a turn than one.
        """
        self._later.append(go_on)
        if len(self._later) == 1:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        go_on = self._later[0]
        try:
            go_on()
        except Exception:
            log.exception("a connection failed that had waited for its turn")
        self._later.popleft()
        if self._later:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _work(self) -> None:
        """Work for one turn, oldest first; then the loop reads, and comes back here."""
        started_ns = time.perf_counter_ns()
        self._paced_ns = self._paced_ns or started_ns
        self._refusal = None
        begun = 0
        waiting = self._waiting
        now_ns = started_ns
        while waiting and now_ns - started_ns <= self._turn_ns:
            request, begin, read_ns, until_ns, size = waiting[0]
            if not request.answered:
                request.waited_s = (now_ns - read_ns) / 1e9
                is_late = now_ns >= until_ns
                self._begin(request.fail_late if is_late else begin)
                begun += not is_late
            # Not before: a request that arrives while it is begun must wait behind it.
            waiting.popleft()
            self._bytes -= size
            now_ns = time.perf_counter_ns()
        if begun:
            self._learn_pace((now_ns - self._paced_ns) / 1e9 / begun)
            self._paced_ns = now_ns
        self._busy_since_ns = now_ns
        if waiting:
            asyncio.get_running_loop().call_soon(self._work)

    def _begin(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except Exception:
            # One request whose answer fails must not end the turns of all others.
            log.exception("a request failed that had waited for its turn")

    def _learn_pace(self, pace_s: float) -> None:
        if self._pace_s:
            pace_s = self._pace_s + _NEWEST_COUNTS * (pace_s - self._pace_s)
        self._pace_s = pace_s


def _refusal(count: int, wait_s: float) -> Overloaded:
    return Overloaded(
        f"{count} requests wait, and the next would be answered in about {wait_s:.2g} s: "
        "after its deadline, or their bodies are too large to buffer",
        hint="retry later, or serve with more workers",
        retry_after_s=max(1, math.ceil(wait_s)),
    )
