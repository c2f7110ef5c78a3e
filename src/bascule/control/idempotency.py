"""Requests that a caller may send twice: `Idempotency-Key`.

As draft-ietf-httpapi-idempotency-key-header-07 has it: the same key with the same request gets the
first answer again; with another request 422; while the first is under way 409. Answers that a
retry may improve on (408, 429, 5xx) are not kept, nor are secrets (`Cache-Control: no-store`).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from bascule.control.problems import KeyReused, problem_of
from bascule.core import BasculeError, Conflict, Invalid

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
"""Header of an answer that is the first one again."""

KEPT_FOR = timedelta(hours=24)
MAX_KEPT = 1_000
MAX_KEPT_BYTES = 8 << 20
_KEY = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x2b\x2d-\x7e]{1,255})')
_RETRYABLE = (408, 429)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that can be given again."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Requests(Protocol):
    """Where keys and answers are kept. `caller` keeps the keys of callers apart."""

    def begin(self, key: str, caller: str, digest: str, *, now: datetime) -> Reply | None:
        """The kept answer; None where this is the first request, which then is under way.

        Raises:
            Invalid: The key came with another request, whose digest differs.
            Conflict: The first request is still under way.
        """

    def finish(self, key: str, caller: str, reply: Reply) -> None:
        """Keep the answer."""

    def forget(self, key: str, caller: str) -> None:
        """The request ended without an answer to keep: the key is free again."""


class RecentRequests:
    """Keeps them in memory, for 24 hours; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[str, datetime, Reply | None]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def begin(self, key: str, caller: str, digest: str, *, now: datetime) -> Reply | None:
        with self._lock:
            self._drop_old(now)
            found = self._kept.get((caller, key))
            if found is None:
                self._kept[caller, key] = (digest, now, None)
                return None
        first, _, reply = found
        if first != digest:
            raise Invalid(
                f"{HEADER} {key!r} came before with another request",
                hint="use a new key for each request, and the same key only to repeat one",
            )
        if reply is None:
            raise Conflict(
                f"the first request with {HEADER} {key!r} is still under way",
                hint="wait, then send the same request again",
            )
        return reply

    def finish(self, key: str, caller: str, reply: Reply) -> None:
        with self._lock:
            found = self._kept.get((caller, key))
            if found is not None:
                self._kept[caller, key] = (*found[:2], reply)
                self._bytes += len(reply.body)

    def forget(self, key: str, caller: str) -> None:
        with self._lock:
            self._remove((caller, key))

    def _drop_old(self, now: datetime) -> None:
        while self._kept:
            oldest = next(iter(self._kept))
            is_full = len(self._kept) >= MAX_KEPT or self._bytes > MAX_KEPT_BYTES
            if not is_full and now - self._kept[oldest][1] < KEPT_FOR:
                return
            self._remove(oldest)

    def _remove(self, entry: tuple[str, str]) -> None:
        found = self._kept.pop(entry, None)
        if found is not None and found[2] is not None:
            self._bytes -= len(found[2].body)


async def once(
    requests: Requests,
    request: Request,
    caller: str,
    handle: Callable[[Request], Awaitable[Response]],
) -> Response:
    """The answer to a request that changes something; the first one again for a known key.

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
    return is_final and response.headers.get("cache-control") != "no-store"


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
