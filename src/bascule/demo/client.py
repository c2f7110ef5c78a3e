"""Many callers in one process: each sends its next request as soon as it has an answer.

The client is Python too and shares the machine with the server, so it reports the processor time
that it took itself: where that is most of the wall time, the client limited the rate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
class LoadResult:
    """The replies to a run of requests, and their times.

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


def ask(port: int, path: str, requests: Sequence[bytes], *, connections: int = 16) -> LoadResult:
    """Send every request over `connections` kept-alive connections to 127.0.0.1."""
    import uvloop

    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    whole = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in requests]
    cpu, clock = time.process_time(), time.perf_counter()
    replies = uvloop.run(_ask_all(port, whole, min(connections, len(whole))))
    return LoadResult(replies, time.perf_counter() - clock, time.process_time() - cpu)


def _plain(value: Any, is_text: bool) -> Any:
    """A missing text is None; a missing number is NaN, which the encoder writes as null."""
    return None if is_text and value != value else value


async def _ask_all(port: int, requests: list[bytes], connections: int) -> list[Reply | None]:
    replies: list[Reply | None] = [None] * len(requests)
    numbers = iter(range(len(requests)))

    async def call() -> None:
        # What a broken connection has not answered stays None, and counts as an error.
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                for number in numbers:
                    sent_at = time.perf_counter()
                    writer.write(requests[number])
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                    body = await reader.readexactly(int(length))
                    status = int(head.split(maxsplit=2)[1])
                    replies[number] = Reply(status, body, time.perf_counter() - sent_at)

    with suppress(TimeoutError):
        async with asyncio.timeout(_GIVE_UP_AFTER_S):
            await asyncio.gather(*(call() for _ in range(connections)))
    return replies
