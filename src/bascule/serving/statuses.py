"""How HTTP says each kind of error: one status, and one shape of words, for every face."""

from __future__ import annotations

from collections.abc import Mapping

from bascule.core.errors import (
    BasculeError,
    Conflict,
    Invalid,
    MissingExtra,
    ModelFailed,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    TooLarge,
    Unavailable,
    Unconvertible,
    Untrusted,
)

STATUS_OF: Mapping[type[BasculeError], int] = {
    Invalid: 400,
    Unconvertible: 400,
    TooLarge: 413,
    NotFound: 404,
    Conflict: 409,
    Refused: 403,
    Untrusted: 403,
    Overloaded: 429,
    Unavailable: 503,
    TimedOut: 504,
    ModelFailed: 500,
    MissingExtra: 501,
}


class HttpError(BasculeError):
    """The request was refused by the transport itself; `facts["status"]` says how."""


def status_of(error: BasculeError) -> int:
    """The HTTP status of an error: that of its nearest kind."""
    if isinstance(error, HttpError):
        return int(str(error.facts["status"]))
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)


def error_text(error: BasculeError) -> str:
    """What went wrong and the next step, in one line."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def error_of(status: int, text: str) -> BasculeError:
    """The error that another server answered: of the first kind with that status."""
    kind = next((kind for kind, one in STATUS_OF.items() if one == status), None)
    if kind is None:
        return ModelFailed(text) if status >= 500 else Invalid(text)
    return kind(text)
