"""Content codings: bodies that were compressed for the way, and answers that are to be.

What a compressed body may become is bounded before it is made: a few kilobytes can stand for
gigabytes. Nothing here does I/O.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from bascule.core import Invalid, TooLarge

_WINDOWS = {b"gzip": (31,), b"x-gzip": (31,), b"deflate": (15, -15)}
"""What zlib calls each coding. Deflate is meant to be in zlib's frame, and some send it bare."""

_PIECE_BYTES = 256 << 10

_LEVEL = 1
"""Most of what can be saved of numbers is saved by the quickest level, at a third of the time."""


def decoded(body: bytes, coding: bytes, max_bytes: int) -> bytes:
    """The body as it was before `coding` (the header `Content-Encoding`) was applied.

    Raises:
        Invalid: The coding is not known, or the body is not in it.
        TooLarge: It would be over `max_bytes`; no more than that is ever made of it.
    """
    name = coding.strip().lower()
    if name == b"identity":
        return body
    if name not in _WINDOWS:
        raise Invalid(
            f"Content-Encoding {coding.decode('latin-1')[:64]!r} is not supported",
            hint="send gzip, deflate, or the body as it is",
        )
    problem = ""
    for window in _WINDOWS[name]:
        try:
            return inflated(body, window, max_bytes)
        except zlib.error as error:
            problem = problem or str(error)
    raise Invalid(f"the body is not {name.decode()}: {problem}")


def inflated(body: bytes, window: int, max_bytes: int) -> bytes:
    """The one stream that is in `body`, by what zlib calls its frame.

    Raises:
        Invalid: It is not one whole stream.
        TooLarge: It would be over `max_bytes`.
        zlib.error: It is in no such frame.
    """
    stream = zlib.decompressobj(window)
    made: list[bytes] = []
    size = 0
    # In pieces that are joined at the end: one call for all would copy what it made, and keep the
    # interpreter from all other threads meanwhile.
    for start in range(0, len(body), _PIECE_BYTES):
        rest = body[start : start + _PIECE_BYTES]
        is_last = start + _PIECE_BYTES >= len(body)
        while not stream.eof:
            made.append(stream.decompress(rest, min(_PIECE_BYTES, max_bytes - size + 1)))
            size += len(made[-1])
            rest = stream.unconsumed_tail
            if size > max_bytes:
                raise TooLarge(
                    f"the body is over {max_bytes} bytes once it is decompressed",
                    hint="send fewer rows a request",
                    limit=max_bytes,
                )
            if not (rest or (is_last and made[-1])):
                break
        if stream.eof and (stream.unused_data or not is_last):
            # Several members may follow one another in a file. In a request each would cost a copy
            # of what is left, and a body can hold millions of empty ones.
            raise Invalid("the body goes on after the end of what was compressed")
    if not stream.eof:
        raise Invalid("the body ends before the end of what was compressed")
    return b"".join(made)


@lru_cache(64)
def wanted(accept: bytes) -> bytes:
    """The coding to answer in, by the header `Accept-Encoding`; empty for none."""
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        name, _, parameter = (piece.strip() for piece in part.partition(";"))
        weights[name] = _weight(parameter)
    others = weights.get("*", 0.0)
    gzip, deflate = (weights.get(name, others) for name in ("gzip", "deflate"))
    if max(gzip, deflate) <= 0:
        return b""
    return b"gzip" if gzip >= deflate else b"deflate"


def _weight(parameter: str) -> float:
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0


def encoded(body: bytes, coding: bytes) -> bytes:
    """The body in a coding that `wanted` named."""
    return zlib.compress(body, _LEVEL, _WINDOWS[coding][0])
