"""Where the acts of this thread or task come from: set once for a request or a command.

Rooms know the name of the actor; the key, the session and the address are known where the request
comes in, and are not passed through every room.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an act comes from; an empty value is not known, or there is none.

    Attributes:
        via: The operation of the control API, `PUT /api/v1/...`, or the command, `bascule alias`.
        key: The id of the key.
        session: The hash of the session.
        role: What the key or the session may do, in words.
        address: The network address, or the name of the host where a command runs.
        request: The id of the request.
        approval: The request for approval that it carries out.
    """

    via: str = ""
    key: str = ""
    session: str = ""
    role: str = ""
    address: str = ""
    request: str = ""
    approval: str = ""

    def known(self) -> dict[str, str]:
        """What is not empty, by name."""
        return {name: value for name, value in asdict(self).items() if value}


class Acting:
    """One request or command; notes whether an act was recorded meanwhile."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.has_recorded = False


_acting: ContextVar[Acting | None] = ContextVar("acting", default=None)


def current() -> Acting | None:
    """The request or command of this context; None for what the process does by itself."""
    return _acting.get()


@contextmanager
def acting(origin: Origin) -> Iterator[Acting]:
    """Have the acts of the block come from there; threads that it hands work to included."""
    own = Acting(origin)
    token = _acting.set(own)
    try:
        yield own
    finally:
        _acting.reset(token)


def act(origin: Origin) -> None:
    """Have all acts of this process from now on come from there."""
    _acting.set(Acting(origin))
