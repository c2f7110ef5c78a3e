"""Many callers in one process: each asks again as soon as it is answered.

The client is Python too and shares the machine with the server, so it says how much processor time
it took itself: where that is most of the clock, it was the client that set the pace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httptools
import msgspec

from bascule.core import DType, Signature

if TYPE_CHECKING:
    import pandas as pd

_GIVE_UP_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came: status, body, and how long it took."""

    status: int
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run of requests came to.

    Attributes:
        replies: In the order of the requests; None where the connection broke before an answer.
        seconds: From the first request to the last answer.
        client_cpu_s: Processor time that the callers themselves took.
    """

    replies: list[Reply | None]
    seconds: float
    client_cpu_s: float

    @property
    def per_second(self) -> float:
        return len(self.replies) / self.seconds

    @property
    def errors(self) -> int:
        """Requests without an answer, or with another one than 200."""
        return sum(reply is None or reply.status != 200 for reply in self.replies)

    def latency_ms(self, quantile: float) -> float:
        """The time within which this share of the answers came."""
        times = sorted(reply.seconds for reply in self.replies if reply is not None)
        if not times:
            return float("nan")
        return times[min(int(quantile * len(times)), len(times) - 1)] * 1000


def bodies(signature: Signature, rows: pd.DataFrame) -> list[bytes]:
    """An Open Inference Protocol v2 request for each row; a missing value is `null`."""
    columns = [rows[field.name].tolist() for field in signature.inputs]
    heads = [(field.name, field.dtype.value) for field in signature.inputs]
    text = [field.dtype is DType.BYTES for field in signature.inputs]
    encode = msgspec.json.encode
    made = []
    for values in zip(*columns, strict=True):
        tensors = [
            {"name": name, "datatype": datatype, "shape": [1], "data": [_plain(value, is_text)]}
            for (name, datatype), value, is_text in zip(heads, values, text, strict=True)
        ]
        made.append(encode({"inputs": tensors}))
    return made


def ask(port: int, path: str, requests: Sequence[bytes], *, connections: int = 16) -> Asked:
    """Send every request over `connections` kept-alive connections to 127.0.0.1."""
    import uvloop

    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    whole = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in requests]
    cpu, clock = time.process_time(), time.perf_counter()
    replies = uvloop.run(_ask_all(port, whole, min(connections, len(whole))))
    return Asked(replies, time.perf_counter() - clock, time.process_time() - cpu)


def _plain(value: Any, is_text: bool) -> Any:
    """A missing text is None; a missing number is NaN, which the encoder writes as null."""
    return None if is_text and value != value else value


async def _ask_all(port: int, requests: list[bytes], connections: int) -> list[Reply | None]:
    queue = _Queue(requests)
    loop = asyncio.get_running_loop()
    callers = [_Caller(queue, loop.create_future()) for _ in range(connections)]
    try:
        async with asyncio.timeout(_GIVE_UP_AFTER_S):
            for caller in callers:
                await loop.create_connection(partial(_itself, caller), "127.0.0.1", port)
            await asyncio.gather(*(caller.finished for caller in callers))
    except (TimeoutError, OSError):
        pass  # what was not answered by now stays None, and counts as an error
    finally:
        for caller in callers:
            caller.close()
    return queue.replies


def _itself(caller: _Caller) -> _Caller:
    return caller


class _Queue:
    """The requests that nobody has sent yet, and the replies so far."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests
        self.replies: list[Reply | None] = [None] * len(requests)
        self.numbers = iter(range(len(requests)))


class _Caller(asyncio.Protocol):
    """One connection with at most one request under way; httptools calls the `on_` methods."""

    def __init__(self, queue: _Queue, finished: asyncio.Future[None]) -> None:
        self.finished = finished
        self._queue = queue
        self._transport: Any = None
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._send_next()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self._queue.replies[self._number] = Reply(
            self._parser.get_status_code(),
            b"".join(self._parts),
            time.perf_counter() - self._sent_at,
        )
        self._parts.clear()
        self._send_next()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send_next(self) -> None:
        number = next(self._queue.numbers, None)
        if number is None:
            self._transport.close()
            return
        self._number = number
        self._sent_at = time.perf_counter()
        self._transport.write(self._queue.requests[number])
