"""What HTTP/1.1 and HTTP/2 have in common: the state of a worker, its end, and slow clients."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
import time
from collections.abc import Callable
from typing import Generic, NotRequired, Protocol, TypedDict, TypeVar, Unpack

from bascule.core import BasculeError, Unavailable
from bascule.serving.execution import AdmissionQueue, BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.telemetry import NEVER, MetricSeries, Recorder, RequestLog
from bascule.serving.transports.authenticator import Authenticator
from bascule.serving.transports.hosts import HostPolicy
from bascule.serving.transports.parts import stop_all

_LONGEST_TURN_S = 2.0
"""More than this between two looks at the clock means that the event loop stood still."""
_LAST_WORDS_S = 0.5
"""How long clients may take to read that the server has ended what was under way."""


class Drained(Protocol):
    """A connection, when the worker stops."""

    def go_on_draining(self, since_s: float) -> None:
        """Close it if there is nothing to be answered; it is drained for so long."""

    def stop(self, error: BasculeError) -> None:
        """Answer what is under way with an error: the worker waits no longer."""

    def abort(self) -> None:
        """Close at once, with what is under way."""


class OfWorker(TypedDict):
    """The parts of a worker that its connections use."""

    backlog: AdmissionQueue
    held: BufferBudget
    guard: NotRequired[Authenticator | None]
    request_log: NotRequired[RequestLog | None]
    recorder: NotRequired[Recorder | None]
    hosts: NotRequired[HostPolicy | None]


_Connection = TypeVar("_Connection", bound=Drained)


class LoopClock:
    """Seconds, of which those that the event loop stood still do not count.

    What clients sent meanwhile waits in the kernel, so none of them was slow. Looked at once a
    second, or more often.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._now_s = self._looked_s = monotonic()

    def __call__(self) -> float:
        before_s, self._looked_s = self._looked_s, self._monotonic()
        self._now_s += min(self._looked_s - before_s, _LONGEST_TURN_S)
        return self._now_s


class Shared(Generic[_Connection]):
    """What the connections of one protocol share in one worker."""

    def __init__(
        self,
        limits: Limits,
        other_series: MetricSeries,
        **of: Unpack[OfWorker],
    ) -> None:
        self.limits = limits
        self.other_series = other_series
        self.clock: Callable[[], float] = LoopClock()
        self.now = self.clock()
        self.backlog = of["backlog"]
        self.held = of["held"]
        self.guard = of.get("guard")
        self.request_log = log = of.get("request_log")
        self.noted_from = NEVER if log is None else log.least_status
        self.recorder = of.get("recorder")
        self.hosts = of.get("hosts")
        self.connections: set[_Connection] = set()
        self.draining = False
        self.watches = 0

    async def drain(self) -> None:
        """Answer what is under way, then close every connection; bounded by `drain_s`."""
        self.draining = True
        await self._go_on_draining(self.limits.drain_s)
        if self.connections:
            stopping = Unavailable("the server is stopping", hint="retry", retry_after_s=1)
            stop_all(self.backlog, stopping)
            for connection in tuple(self.connections):
                connection.stop(stopping)
            await self._go_on_draining(_LAST_WORDS_S)
        for connection in tuple(self.connections):
            connection.abort()

    async def _go_on_draining(self, within_s: float) -> None:
        self.now = started = self.clock()
        while self.connections and self.now - started < within_s:
            for connection in tuple(self.connections):
                connection.go_on_draining(self.now - started)
            await asyncio.sleep(0.02)
            self.now = self.clock()


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """What the kernel has been given and the client has not taken: it may be megabytes."""
    return _bytes_in_kernel(transport, termios.TIOCOUTQ)


def unread_bytes(transport: asyncio.Transport) -> int:
    """What the client has sent, and the kernel still holds."""
    return _bytes_in_kernel(transport, termios.FIONREAD)


def _bytes_in_kernel(transport: asyncio.Transport, question: int) -> int:
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), question, b"0000")
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def address_of(transport: asyncio.Transport) -> str:
    """The IP address of a client; empty for a socket of the file system."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


class Taking:
    """How a client takes what it is sent, from when more was left than the kernel takes.

    One that takes next to nothing would keep a large answer in memory for as long as it likes. It
    has the time of `Limits.receive_timeout_s`, and another second for every `least_bytes_per_s`
    that it has taken: as for a request that arrives.
    """

    __slots__ = ("_first", "_moved_s", "_since_s", "_taken", "seen_s")

    def __init__(self, taken: int, now_s: float) -> None:
        """Begin to look, when so many bytes have been taken, counted from anywhere."""
        self._first = self._taken = taken
        self._since_s = self._moved_s = self.seen_s = now_s

    def is_too_slow(self, taken: int, now_s: float, limits: Limits, *, among: int = 1) -> bool:
        """Whether the client has not taken enough.

        Args:
            taken: How much it has taken by now, counted from the same.
            now_s: By the clock with which it was begun.
            limits: Those to keep.
            among: Between how many answers the client divides what it can take.
        """
        if taken > self._taken:
            self._taken = taken
            self._moved_s = now_s
        self.seen_s = now_s
        allowed_s = limits.receive_timeout_s
        more_s = (taken - self._first) * among / limits.least_bytes_per_s
        return now_s - self._moved_s > allowed_s or now_s - self._since_s > allowed_s + more_s
