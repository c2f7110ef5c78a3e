"""Asks a server: `Client`, and `AsyncClient` for asyncio.

What to send, what an answer means, what may be asked again and when is decided in `conversation`
without any I/O; `blocking` and `aio` carry it out. Their HTTP is llhttp's, as in the server, around
plain sockets: nothing needs to be installed, and both read an answer by the same few lines.

Names are imported when they are first used: who waits needs no asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bascule.client.aio import AsyncClient
    from bascule.client.blocking import Client

_HOMES = {"AsyncClient": "bascule.client.aio", "Client": "bascule.client.blocking"}
__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'bascule.client' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
