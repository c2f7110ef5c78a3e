"""The exit code of each kind of error; `bascule.cli` says what each code means."""

from __future__ import annotations

from collections.abc import Mapping

from bascule.core import (
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
    Unconvertible,
    Untrusted,
)

EXIT_CODES: Mapping[type[BasculeError], int] = {
    Refused: 1,
    NoRoom: 1,
    Unauthenticated: 1,
    Invalid: 2,
    Unconvertible: 2,
    TooLarge: 2,
    MissingExtra: 2,
    NotFound: 3,
    Gone: 3,
    Conflict: 4,
    Untrusted: 5,
    Overloaded: 6,
    Unavailable: 6,
    TimedOut: 6,
    ModelFailed: 7,
}
"""The exit code of each kind of error."""


def exit_code(error: BasculeError) -> int:
    """The exit code of an error: that of its nearest kind."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 2)
