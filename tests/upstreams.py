"""A small real server of the OpenAI API that behaves as each test says, on a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass
class Asked:
    """A request that came, and when its client left; `left_s` is None while it has not."""

    path: str
    key: str
    body: dict[str, Any]
    left_s: float | None = None


Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """Where the server is, what it was asked, and what it does with the next requests."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    behaviours: list[Behave] = field(default_factory=list)
    """One for each request; the last one for all others."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heads = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])
        }
        body = json.loads(await reader.readexactly(int(heads["content-length"])))
        asked = Asked(head.split()[1], heads.get("authorization", ""), body)
        self.asked.append(asked)
        behave = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        gone = asyncio.ensure_future(reader.read(1))
        gone.add_done_callback(lambda _: setattr(asked, "left_s", time.monotonic()))
        doing = asyncio.ensure_future(behave(reader, writer))
        await asyncio.wait({gone, doing}, return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()
        gone.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await doing


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A running server."""
    served, loop = Upstream(), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(served._serve, "127.0.0.1", 0))
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield served
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def event(text: str = "", finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n'
DONE = b"data: [DONE]\n\n"


def sending(*pieces: bytes | float, head: bytes = HEAD) -> Behave:
    """Send the pieces, and pause for so many seconds at numbers."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (head, *pieces):
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            else:
                await asyncio.sleep(piece)

    return behave


def refusing(status: int, message: str = "because") -> Behave:
    body = json.dumps({"error": {"message": message}}).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return sending(body, head=head.encode())


FINE = sending(event("Hel"), event("lo"), event("", "stop"), USAGE, DONE)
