"""The kinds of error that Bascule raises, from where every room takes them.

They are defined in `bascule_client.errors`: a client that is installed alone raises the same kinds,
and `except Invalid` must catch both. Two sets of kinds, one derived from the other, would do so in
one direction only.
"""

from __future__ import annotations

from bascule_client.errors import (
    KINDS as KINDS,
    BasculeError as BasculeError,
    BasculeWarning as BasculeWarning,
    Conflict as Conflict,
    Gone as Gone,
    Invalid as Invalid,
    MissingExtra as MissingExtra,
    ModelFailed as ModelFailed,
    NoRoom as NoRoom,
    NotFound as NotFound,
    Overloaded as Overloaded,
    Refused as Refused,
    TimedOut as TimedOut,
    TooLarge as TooLarge,
    Unauthenticated as Unauthenticated,
    Unavailable as Unavailable,
    Unconvertible as Unconvertible,
    Untrusted as Untrusted,
)


def first_line(problem: object) -> str:
    """The first line, cut to 500 characters, of what an error of a library says; or its type."""
    lines = str(problem).strip().splitlines()
    return lines[0][:500] if lines else type(problem).__name__
