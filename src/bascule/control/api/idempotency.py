"""Requests that a caller may send twice: `Idempotency-Key`.

As draft-ietf-httpapi-idempotency-key-header-07 has it: the same key with the same request gets the
first answer again; with another request 422; while the first is under way 409. Answers that a
retry may improve on (408, 429, 5xx) are not kept, nor are secrets (`Cache-Control: no-store`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from bascule.control.api.problems import KeyReused, problem_of
from bascule.core import BasculeError, Invalid

if TYPE_CHECKING:  # a database library comes with it
    from bascule.catalogue import Requests

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
"""Header of an answer that is the first one again."""

MAX_KEPT_BYTES = 1 << 20
"""Of an answer. A longer one is not kept, and a repetition acts again."""
KEY_PATTERN = r'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x2b\x2d-\x7e]{1,255})'
_KEY = re.compile(KEY_PATTERN)
_RETRYABLE = (408, 429)


async def once(
    open_requests: Callable[[], Requests],
    request: Request,
    caller: str,
    handle: Callable[[Request], Awaitable[Response]],
) -> Response:
    """The answer to a request that changes something; the first one again for a known key.

    Keys and answers are in the catalogue, so they outlive this process, and hosts share them.

    Raises:
        Invalid: The key cannot be one.
        KeyReused: The key came with another request.
        Conflict: The first request is still under way.
    """
    said = request.headers.get(HEADER)
    if said is None:
        return await handle(request)
    key = _parsed(said)
    digest = await _digest(request)
    requests = await run_in_threadpool(open_requests)
    try:
        kept = await run_in_threadpool(requests.begin, key, caller, digest, now=datetime.now(UTC))
    except Invalid as problem:
        raise KeyReused(problem.message, hint=problem.hint) from None
    if kept is not None:
        return Response(kept.body, kept.status, {**dict(kept.headers), REPLAYED: "true"})
    reply = None
    try:
        response = await _answered(request, handle)
        if _may_be_kept(response):
            from bascule.catalogue import Reply  # opened by now

            reply = Reply(response.status_code, _kept_headers(response), bytes(response.body))
        return response
    finally:
        with suppress(BasculeError):  # what the request did stands, also if this cannot be kept
            if reply is None:
                await run_in_threadpool(requests.forget, key, caller)
            else:
                await run_in_threadpool(requests.finish, key, caller, reply)


async def _answered(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
    try:
        return await handle(request)
    except Exception as error:
        answer = problem_of(error, request.url.path)
        if answer is None:
            raise
        return answer


def _may_be_kept(response: Response) -> bool:
    """Neither an answer that a retry may improve on, nor a secret."""
    is_final = response.status_code < 500 and response.status_code not in _RETRYABLE
    is_short = len(response.body) <= MAX_KEPT_BYTES
    return is_final and is_short and response.headers.get("cache-control") != "no-store"


def _kept_headers(response: Response) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in response.headers.items() if name != "date")


def _parsed(said: str) -> str:
    match = _KEY.fullmatch(said.strip())
    if match is None:
        raise Invalid(
            f"{HEADER}: not 1 to 255 printable characters without spaces",
            hint=f'{HEADER}: "8e03978e-40d5-43e8-bc93-6894a57f9324"',
        )
    return match[1] or match[2]


async def _digest(request: Request) -> str:
    made = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    made.update(await request.body())
    return made.hexdigest()
