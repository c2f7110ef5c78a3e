"""The kinds of error that Bascule raises.

A kind says what the caller can do about it, not where it happened. Each protocol of the system (a
protocol, the command line) maps the kinds to its own words in one table; a test says that every
kind is in every table. The message is one sentence in the caller's words; the facts are kept
apart from the prose, so that a log or a machine need not parse it.
"""

from __future__ import annotations


class BasculeError(Exception):
    """What went wrong, the next step as `hint`, and the facts.

    Errors are raised in worker processes, so they pickle.
    """

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts
        if hint:
            self.add_note(f"hint: {hint}")  # which a traceback shows

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.facts))

    def __str__(self) -> str:
        return self.message


def _rebuild(
    kind: type[BasculeError], message: str, hint: str, facts: dict[str, object]
) -> BasculeError:
    return kind(message, hint=hint, **facts)


class BasculeWarning(UserWarning):
    """What was accepted, and is probably a mistake."""


class Invalid(BasculeError):
    """The caller sent something malformed. Retrying will not help."""


class Unconvertible(Invalid):
    """The model cannot be compiled into a program."""


class TooLarge(Invalid):
    """The input is over a limit; `facts["limit"]` says which."""


class NotFound(BasculeError):
    """The named thing does not exist, or the caller may not know that it does."""


class Gone(NotFound):
    """It was there, and its sunset has passed. The hint names what to use instead."""


class Conflict(BasculeError):
    """It is taken, or somebody else changed it first. Read again, then retry."""


class Refused(BasculeError):
    """A rule of the system says no: a failed gate, a policy. The rule must be met first."""


class NoRoom(Refused):
    """It does not fit into the memory that it may take. Something else must go first."""


class Unauthenticated(BasculeError):
    """The caller did not say who it is, or not credibly. With a good key it may be allowed."""


class Untrusted(BasculeError):
    """A signature, digest or format said no. Never caught to continue."""


class Overloaded(BasculeError):
    """We are full. Retry after `facts["retry_after_s"]` seconds."""


class Unavailable(BasculeError):
    """Not ready, draining, or a part that is needed is away. Retrying later may help."""


class TimedOut(BasculeError):
    """The deadline passed before there was an answer."""


class ModelFailed(BasculeError):
    """The model's own code raised. The details are in the server's log, not in the answer."""


class MissingExtra(BasculeError):
    """An optional package is not installed; the hint is the line that installs it."""


KINDS: tuple[type[BasculeError], ...] = (
    Invalid,
    Unconvertible,
    TooLarge,
    NotFound,
    Gone,
    Conflict,
    Refused,
    NoRoom,
    Unauthenticated,
    Untrusted,
    Overloaded,
    Unavailable,
    TimedOut,
    ModelFailed,
    MissingExtra,
)
"""Every kind, for the tables that must be complete."""
