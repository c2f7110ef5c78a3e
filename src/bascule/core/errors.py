"""The kinds of error that Bascule raises, from where every room takes them.

They are defined in `bascule_client.errors`: a client that is installed alone raises the same kinds,
and `except Invalid` must catch both. Two sets of kinds, one derived from the other, would do so in
one direction only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

_BY_NAME = {kind.__name__: kind for kind in KINDS}
_NEXT_STEPS: Mapping[type[BasculeError], str] = {
    Invalid: "send it as the documentation has it: --help, or /docs of a server",
    NotFound: "check the name",
    Conflict: "look again, then try again",
    Refused: "meet the rule first, or ask a person that may decide",
    Unauthenticated: "send a key that is live",
    Untrusted: "get it again from where it was made",
    Overloaded: "try again later",
    Unavailable: "try again later",
    TimedOut: "allow more time",
    ModelFailed: "the log has more",
    MissingExtra: "install the package",
}


def next_step(error: BasculeError) -> str:
    """The hint of an error; without one, what can be done about an error of its kind."""
    steps = (text for kind, text in _NEXT_STEPS.items() if isinstance(error, kind))
    return error.hint or next(steps, "see the log")


def error_to_json(error: BasculeError) -> dict[str, Any]:
    """An error for another process or a catalogue: `error`, `hint`, `kind`, and `facts` if any."""
    kind = next(kind for kind in type(error).__mro__ if kind in KINDS or kind is BasculeError)
    content: dict[str, Any] = {"error": error.message, "hint": error.hint, "kind": kind.__name__}
    facts = {
        name: fact if isinstance(fact, str | int | float | None) else str(fact)
        for name, fact in error.facts.items()
    }
    return content | ({"facts": facts} if facts else {})


def error_from_json(
    content: Mapping[str, Any], otherwise: type[BasculeError] = Unavailable
) -> BasculeError:
    """The error that `error_to_json` wrote; of a kind that is not known, `otherwise`."""
    kind = _BY_NAME.get(content.get("kind", ""), otherwise)
    return kind(content["error"], hint=content.get("hint", ""), **content.get("facts", {}))


def first_line(problem: object) -> str:
    """The first line, cut to 500 characters, of what an error of a library says; or its type."""
    lines = str(problem).strip().splitlines()
    return lines[0][:500] if lines else type(problem).__name__
