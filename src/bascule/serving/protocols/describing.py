"""What every protocol says alike: the health, bodies that do not change, and who answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from bascule.core import NotFound
from bascule.serving.calls import AnsweredBy
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.transports import Exchange, Handler

_JSON = b"application/json"
_MAX_KNOWN = 1_024


def health(
    plane: DataPlane, *, name: str = "bascule", is_live_enough: bool = False, **more: str
) -> Handler:
    """Tells the health, always with a body: some clients decode it without looking.

    `more` are members of the body beside its own.

    503 while the worker drains, unless being alive is all that was asked for; another worker may be
    there to be asked a second later.
    """

    def handle(exchange: Exchange) -> None:
        ready = plane.is_ready()
        body = msgspec.json.encode({"live": True, "ready": ready, "name": name, **more})
        if ready or is_live_enough:
            exchange.answer(body)
        else:
            exchange.answer(body, 503, extra=b"Retry-After: 1\r\n")

    return handle


def fixed(value: Any, content_type: bytes = _JSON) -> Handler:
    """Answers always the same: bytes as they are, anything else as JSON."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)

    def handle(exchange: Exchange) -> None:
        exchange.answer(body, content_type=content_type)

    return handle


def fresh(make: Callable[[], Any]) -> Handler:
    """Answers what `make` returns at that moment, as JSON."""

    def handle(exchange: Exchange) -> None:
        exchange.answer(msgspec.json.encode(make()))

    return handle


def openapi(plane: DataPlane) -> Handler:
    """Answers the OpenAPI document of what is served."""

    def handle(exchange: Exchange) -> None:
        exchange.answer(plane.described())

    return handle


def answered_by(by: AnsweredBy, asked: AnsweredBy) -> bytes:
    """The header lines that name the version and the arm of an endpoint's answer.

    Of another answer, the header that names the version if another was asked; else nothing. With
    the notice of a deprecated version.
    """
    if by is asked and not by.notice:
        return b""
    if by.endpoint:
        return _lines_of_arm(by)
    other = () if by.name == asked.name else (("X-Answered-By", by.name),)
    return _lines_of(*other, *by.notice)


@lru_cache(_MAX_KNOWN)
def _lines_of_arm(by: AnsweredBy) -> bytes:
    return _lines_of(("Bascule-Version", by.name), ("Bascule-Arm", by.arm), *by.notice)


@lru_cache(_MAX_KNOWN)
def _lines_of(*fields: tuple[str, str]) -> bytes:
    return "".join(f"{field}: {value}\r\n" for field, value in fields).encode()


def missing(plane: DataPlane, name: str, version: str | None = None) -> NotFound | None:
    """Which model or version is not there; None if both are."""
    try:
        plane.find(name, version)
    except NotFound as told:
        return told
    return None
