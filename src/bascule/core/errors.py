"""The kinds of error that Bascule raises, from where every room takes them.

They are defined in `bascule_client.errors`: a client that is installed alone raises the same kinds,
and `except Invalid` must catch both. Two sets of kinds, one derived from the other, would do so in
one direction only.
"""

from __future__ import annotations

from bascule_client.errors import (
    KINDS,
    BasculeError,
    Conflict,
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

__all__ = [
    "KINDS",
    "BasculeError",
    "Conflict",
    "Invalid",
    "MissingExtra",
    "ModelFailed",
    "NoRoom",
    "NotFound",
    "Overloaded",
    "Refused",
    "TimedOut",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unconvertible",
    "Untrusted",
]
