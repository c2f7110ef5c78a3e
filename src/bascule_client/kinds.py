"""The kind of error for each HTTP status: the server's table of statuses, reversed.

Several kinds share a status. The table has the kind that a caller can act on: `Untrusted` becomes
`Refused`, and `Unconvertible` becomes its base class `Invalid`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from bascule_client.errors import (
    BasculeError,
    Conflict,
    Gone,
    Invalid,
    MissingExtra,
    ModelFailed,
    NoRoom,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from bascule_client.wire import Reply

KIND_OF: Mapping[int, type[BasculeError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Refused,
    404: NotFound,
    408: TimedOut,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    429: Overloaded,
    431: TooLarge,
    500: ModelFailed,
    501: MissingExtra,
    # A proxy that does not reach the server, or not in time.
    502: Unavailable,
    503: Unavailable,
    504: TimedOut,
    507: NoRoom,
}

_MAX_SHOWN = 200


def kind_of(status: int) -> type[BasculeError]:
    """The kind of error that a status stands for; of one that is not known, by its hundred."""
    return KIND_OF.get(status, Unavailable if status >= 500 else Invalid)


def error_of(reply: Reply) -> BasculeError:
    """The error that an answer reports."""
    kind = kind_of(reply.status)
    facts: dict[str, object] = {"status": reply.status}
    hint = ""
    if kind is Unauthenticated:
        hint = "pass key=... to the client"
    if kind in (Overloaded, Unavailable):
        facts["retry_after_s"] = retry_after_s(reply) or 1.0
    return kind(_told(reply), hint=hint, **facts)


def retry_after_s(reply: Reply) -> float | None:
    """How long an answer asks to wait; None if it does not, or does so by a date.

    No Bascule server sends a date, and a date of another clock gives no duration.
    """
    said = reply.headers.get("retry-after", "").strip()
    return float(said) if said.isdecimal() and len(said) < 9 else None


def _told(reply: Reply) -> str:
    """The server's message; of another sender, such as a proxy, the status and the text."""
    try:
        told = json.loads(reply.body)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        told = None
    if isinstance(told, str):
        return told
    text = " ".join(reply.body[:_MAX_SHOWN].decode("utf-8", "replace").split())
    return f"the answer has status {reply.status}" + (f": {text}" if text else "")
