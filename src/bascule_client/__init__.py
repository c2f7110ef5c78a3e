"""Asks a server: `Client`, and `AsyncClient` for asyncio.

A distribution of its own, `bascule-client`, that needs numpy and nothing else; `bascule` has the
same package inside, and `bascule.Client` is this one. What both sides of the wire must agree on
lies here for that reason: the kinds of error, fields, tables and answers.

What to send, what an answer means, what may be asked again and when is decided in `conversation`
without any I/O; `blocking` and `aio` carry it out, around plain sockets.

Names are imported when they are first used: a blocking client needs no asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bascule_client.aio import AsyncClient
    from bascule_client.answer import Answer
    from bascule_client.blocking import Client
    from bascule_client.errors import BasculeError, Invalid

_HOMES = {
    "Answer": "bascule_client.answer",
    "AsyncClient": "bascule_client.aio",
    "BasculeError": "bascule_client.errors",
    "Client": "bascule_client.blocking",
    "Invalid": "bascule_client.errors",
}
__all__ = ["Answer", "AsyncClient", "BasculeError", "Client", "Invalid"]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'bascule_client' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
