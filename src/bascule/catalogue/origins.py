"""Where the acts of this thread or task come from: set once for a request or a command.

Rooms know the name of the actor; the key, the session and the address are known where the request
comes in, and are not passed through every room.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass


@dataclass(slots=True)
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
        has_recorded: Whether an act was recorded meanwhile.
    """

    via: str = ""
    key: str = ""
    session: str = ""
    role: str = ""
    address: str = ""
    request: str = ""
    approval: str = ""
    has_recorded: bool = False

    def known(self) -> dict[str, str]:
        """What is not empty, by name."""
        texts = asdict(self)
        del texts["has_recorded"]
        return {name: value for name, value in texts.items() if value}


_current: ContextVar[Origin] = ContextVar("origin")


def current() -> Origin:
    """Of this context; without one, an act is the process's own: rollouts, jobs, alerts."""
    return _current.get(None) or Origin("process")


@contextmanager
def acting(origin: Origin) -> Iterator[Origin]:
    """Have the acts of the block come from there; threads that it hands work to included."""
    token = _current.set(origin)
    try:
        yield origin
    finally:
        _current.reset(token)


def act(origin: Origin) -> None:
    """Have all acts of this process from now on come from there."""
    _current.set(origin)
