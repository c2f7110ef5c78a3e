"""Who may do what through the control API. One door: every route that changes something asks here.

There are no keys yet. So what changes something is for this machine alone: the caller's address
and the name that it knows the server by must be those of the loopback, and a page of a browser
that came from elsewhere is refused, whatever its address.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from fastapi import Request

from bascule.core.errors import Refused
from bascule.serving.routes import Action

Authorise = Callable[[Request, Action, str], None]
"""Raises `Refused` unless the caller of a request may do this to a model (empty: to any)."""


def loopback_only(request: Request, action: Action, model: str) -> None:
    """Refuse whoever is not on this machine; see `Authorise`."""
    caller = request.client.host if request.client else ""
    origin = request.headers.get("origin")
    named = [request.url.hostname or ""]
    if origin is not None:
        named.append(_host_of(origin))
    if not _is_loopback(caller) or not all(map(_is_loopback, named)):
        raise Refused(
            f"{action} {model or 'models'}: only from this machine, by a loopback address",
            hint="run the command where the server runs",
        )


def _host_of(origin: str) -> str:
    return origin.partition("://")[2].rsplit(":", 1)[0].strip("[]")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
