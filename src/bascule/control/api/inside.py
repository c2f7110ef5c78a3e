"""Asks the control API in this process: the same route, rights and history as from the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyio import sleep_forever
from fastapi import Request
from starlette.types import Message

_KEPT = ("type", "asgi", "http_version", "scheme", "server")


async def ask_inside(
    request: Request, method: str, path: str, raw_path: bytes, query: bytes,
    headers: Sequence[tuple[bytes, bytes]], body: bytes, **scope: Any,
) -> tuple[int, bytes]:  # fmt: skip
    """Status and body of the answer. `scope` holds what no client can send, such as `SESSION`."""
    sent = [(name, value) for name, value in request.headers.raw if name == b"host"]
    sent += [*headers, (b"content-length", b"%d" % len(body))]
    inner = {
        **{key: request.scope[key] for key in _KEPT}, "method": method, "path": path,
        "raw_path": raw_path, "query_string": query, "root_path": "", "headers": sent,
        "client": request.scope.get("client"), "state": {}, **scope,
    }  # fmt: skip
    heard: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await sleep_forever()  # the caller does not go away
        return messages.pop()

    async def send(message: Message) -> None:
        heard.append(message)

    await request.app(inner, receive, send)
    status = next(int(one["status"]) for one in heard if one["type"].endswith("start"))
    return status, b"".join(one.get("body", b"") for one in heard if one["type"].endswith("body"))
