"""The load generator: open or closed loop, one process on its own core, raw sockets on uvloop.

    python -m bench.storm.client PLAN.json TALLY.json

It spins instead of sleeping, since uvloop's timers are whole milliseconds. Every answer is kept,
and decoded when all is over: its numbers are compared with those of the row that was asked about,
so that an answer which belongs to another caller is found.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import uvloop

from bench.storm.tally import SHED, Tally, percentile

TOLERANCE = 1e-4
_GRACE_S = 5.0
_CONNECTING = 64


class Plan(msgspec.Struct, frozen=True):
    """What to do.

    Attributes:
        port: Of 127.0.0.1.
        path: What is posted to.
        bodies: Requests; the schedule goes through them in turn.
        truths: The numbers that the answer to each must hold.
        output: Which output of the answer.
        due_s: When to send, for an open loop; empty for a closed one.
        clients: Of a closed loop, how many ask again as soon as they are answered.
        seconds: How long the schedule, or the closed loop, lasts.
        connections: The most that an open loop may use.
        deadline_s: After which a request has no value: it is told to the server, and one that was
            not yet sent is given up. None for no deadline.
        one_way_s: The delay of the network that is played, each way.
    """

    port: int
    path: str
    bodies: list[str]
    truths: list[list[float]]
    output: str
    due_s: list[float]
    clients: int
    seconds: float
    connections: int
    deadline_s: float | None = None
    one_way_s: float = 0.0


class Tensor(msgspec.Struct):
    name: str
    data: list[Any]


class Answer(msgspec.Struct):
    outputs: list[Tensor]


class PendingRequest:
    """One request under way."""

    __slots__ = ("due", "number")

    def __init__(self, due: float, number: int) -> None:
        self.due = due
        self.number = number


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._parts = b""
        self.asked: PendingRequest | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of no such class

    def send(self, asked: PendingRequest) -> None:
        self.asked = asked
        assert self.transport is not None
        self.transport.write(self._run.requests[asked.number % len(self._run.requests)])

    def data_received(self, data: bytes) -> None:
        self._parts = self._parts + data if self._parts else data
        head_end = self._parts.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._parts[: head_end + 2].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.index(b"\r\n", at)])
        if len(self._parts) < head_end + 4 + length:
            return
        body, self._parts = self._parts[head_end + 4 :], b""
        asked, self.asked = self.asked, None
        if asked is not None:
            self._run.take(self, asked, int(head[9:12]), head, body)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self.transport = None
        asked, self.asked = self.asked, None
        self._run.lost(self, asked)


class Run:
    """One run: sends what is due, takes what is answered."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.requests = [_request(plan, body) for body in plan.bodies]
        self._truths = [np.array(truth) for truth in plan.truths]
        # The last body that was right for each: of millions of answers, most are the same bytes.
        self._right = [b""] * len(plan.truths)
        self._decode = msgspec.json.Decoder(Answer).decode
        self._all: set[Connection] = set()
        self._free: list[Connection] = []
        self._waiting: deque[PendingRequest] = deque()
        self._flying: list[tuple[float, int, Callable[[], None]]] = []
        self._flown = itertools.count()
        self._open = 0
        self._under_way = 0
        self._answers: list[tuple[float, int, bytes]] = []
        self._answers_by_end = 0
        self._spun = 0.0
        self._lags: list[float] = []
        self._statuses: dict[int, int] = {}
        self._no_retry_after = self._unsent = self._broken = self._due = 0
        self._ended = False

    async def go(self) -> Tally:
        loop = asyncio.get_running_loop()
        plan = self._plan
        wanted = plan.clients or plan.connections
        while self._open < wanted:
            await asyncio.gather(
                *(self._connect(loop) for _ in range(min(_CONNECTING, wanted - self._open)))
            )
        self._start = time.perf_counter()
        self._end = self._start + plan.seconds
        if plan.clients:
            for number in range(plan.clients):
                self._ask(number)
        schedule = [self._start + due for due in plan.due_s]
        position = 0
        done = loop.create_future()

        def spin() -> None:
            nonlocal position
            self._spun = now = time.perf_counter()
            while position < len(schedule) and schedule[position] <= now:
                self._waiting.append(PendingRequest(schedule[position], position))
                self._lags.append(now - schedule[position])
                position += 1
                self._due += 1
            self._send_waiting(now)
            while self._flying and self._flying[0][0] <= now:
                heapq.heappop(self._flying)[2]()
            over = now >= self._end and not self._waiting and not self._under_way
            if over or now >= self._end + _GRACE_S:
                done.set_result(None)
            else:
                loop.call_soon(spin)

        spin()
        await done
        self._ended = True
        for connection in self._all:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)
        is_right = [self._is_right(number, body) for _, number, body in self._answers]
        right = [
            latency * 1e3
            for (latency, _, _), holds in zip(self._answers, is_right, strict=True)
            if holds
        ]
        return Tally(
            seconds=plan.seconds,
            due=self._due,
            accepted_ms=right,
            statuses=self._statuses,
            wrong=len(self._answers) - len(right),
            shed_without_retry_after=self._no_retry_after,
            unsent=self._unsent + len(self._waiting),
            broken=self._broken,
            unanswered=self._under_way,
            send_lag_p99_ms=percentile(self._lags, 0.99) * 1e3 if self._lags else 0.0,
            after_end=sum(is_right[self._answers_by_end :]),
        )

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        _, connection = await loop.create_connection(
            lambda: Connection(self), "127.0.0.1", self._plan.port
        )
        self._open += 1
        self._all.add(connection)
        self._free.append(connection)

    def _ask(self, number: int) -> None:
        """The next request of a closed loop, unless time is up."""
        if (now := time.perf_counter()) < self._end:
            self._due += 1
            self._waiting.append(PendingRequest(now, number))

    def _send_waiting(self, now: float) -> None:
        deadline_s = self._plan.deadline_s
        while self._waiting:
            if deadline_s is not None and now - self._waiting[0].due > deadline_s:
                self._waiting.popleft()
                self._unsent += 1
            elif self._free:
                connection, asked = self._free.pop(), self._waiting.popleft()
                if connection.transport is None:
                    self._waiting.appendleft(asked)
                    continue
                self._under_way += 1
                if self._plan.one_way_s:
                    self._later(partial(self._send, connection, asked))
                else:
                    self._send(connection, asked)
            else:
                return

    def _send(self, connection: Connection, asked: PendingRequest) -> None:
        if connection.transport is None:
            self._under_way -= 1
            self._broken += 1
        else:
            connection.send(asked)

    def take(
        self, connection: Connection, asked: PendingRequest, status: int, head: bytes, body: bytes
    ) -> None:
        if self._plan.clients:
            self._lags.append(time.perf_counter() - self._spun)
        if self._plan.one_way_s:
            self._later(partial(self._took, connection, asked, status, head, body))
        else:
            self._took(connection, asked, status, head, body)

    def _took(
        self, connection: Connection, asked: PendingRequest, status: int, head: bytes, body: bytes
    ) -> None:
        now = time.perf_counter()
        self._under_way -= 1
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if status == 200:
            self._answers.append((now - asked.due, asked.number, body))
            if now <= self._end:
                self._answers_by_end = len(self._answers)
        elif status in SHED and b"\r\nretry-after:" not in head:
            self._no_retry_after += 1
        if connection.transport is not None and not connection.transport.is_closing():
            self._free.append(connection)
        if self._plan.clients:
            self._ask(asked.number + self._plan.clients)

    def _later(self, what: Callable[[], None]) -> None:
        """After one way through the network."""
        at = time.perf_counter() + self._plan.one_way_s
        heapq.heappush(self._flying, (at, next(self._flown), what))

    def _is_right(self, number: int, body: bytes) -> bool:
        place = number % len(self._truths)
        if body == self._right[place]:
            return True
        try:
            outputs = self._decode(body).outputs
            given = next(one.data for one in outputs if one.name == self._plan.output)
            off = np.abs(np.array(given, dtype=float) - self._truths[place]).max()
        except (msgspec.DecodeError, StopIteration, ValueError):
            return False
        if off <= TOLERANCE:
            self._right[place] = body
        return bool(off <= TOLERANCE)

    def lost(self, connection: Connection, asked: PendingRequest | None) -> None:
        """A connection ended: open another, and count what it was asked."""
        if self._ended:
            return
        self._open -= 1
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if asked is not None:
            self._under_way -= 1
            self._broken += 1
            if self._plan.clients:
                self._ask(asked.number + self._plan.clients)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._connect(loop))
        task.add_done_callback(_ignore_refusal)


def _ignore_refusal(task: asyncio.Task[None]) -> None:
    """A server that is gone is seen by what is left unsent and unanswered."""
    if not task.cancelled():
        task.exception()


def _request(plan: Plan, body: str) -> bytes:
    raw = body.encode()
    head = (
        f"POST {plan.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n"
    )
    if plan.deadline_s is not None:
        head += f"X-Request-Timeout-Ms: {plan.deadline_s * 1e3:.0f}\r\n"
    return head.encode() + b"\r\n" + raw


def main() -> None:
    asked, told = map(Path, sys.argv[1:])
    plan = msgspec.json.decode(asked.read_bytes(), type=Plan)
    # A collection would make it late, and nothing here is made of rings.
    gc.disable()
    told.write_bytes(msgspec.json.encode(uvloop.run(Run(plan).go())))


if __name__ == "__main__":
    main()
