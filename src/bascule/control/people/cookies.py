"""People at a browser: the session in the cookie of a request, and what may send such a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from anyio import to_thread
from fastapi import Request

from bascule.core import Refused
from bascule.security import Action, Permission, Session, is_csrf_of

FindSession = Callable[[str], Session | None]
"""The session of a token, if it holds; reads the catalogue."""

CSRF_HEADER = "X-CSRF-Token"
"""Carries the token of a session with each request to the API that changes something."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class SignedIn(Protocol):
    """The session of a person: `security.Session`, or that of a page of the console."""

    @property
    def subject(self) -> str:
        """The name for histories."""

    @property
    def short_id(self) -> str:
        """The id as histories show it; empty for a person that has not signed in."""

    @property
    def permissions(self) -> tuple[Permission, ...]:
        """What the session of a person that signed in allows, within what its key allows."""

    def check(self, action: Action, model: str) -> None:
        """Raise `Refused` unless the person may do this to a model; see `rights.RIGHTS`."""


def is_encrypted(request: Request) -> bool:
    """Whether browsers reach this server over TLS: its own, or that of a proxy in front."""
    is_behind = getattr(request.app.state, "is_public_https", False)
    return request.url.scheme == "https" or is_behind


def cookie_name(request: Request) -> str:
    """The name of the session's cookie: of this port, because cookies ignore ports.

    Over TLS browsers take a cookie with the prefix `__Host-` from this very host alone.
    """
    port = (request.scope.get("server") or ("", 0))[1]
    return ("__Host-" if is_encrypted(request) else "") + f"bascule-{port}"


def cookie_of(request: Request) -> str:
    """The token in the session's cookie; empty without one."""
    return request.cookies.get(cookie_name(request), "")


def signed_in(request: Request) -> Session | None:
    """The session by which a request to the API is made; None with a key, and without a session."""
    found: Session | None = getattr(request.state, "signed_in", None)
    return found


async def find_signed_in(request: Request, find: FindSession | None) -> None:
    """Look for the session of a request to the API, for `signed_in`.

    Raises:
        Refused: It would change something by a session, and does not come from a page of it.
    """
    cookie = cookie_of(request)
    if find is None or not cookie or "authorization" in request.headers:
        return
    found = await to_thread.run_sync(find, cookie)
    if found is not None and request.method not in SAFE_METHODS:
        check_same_origin(request)
        check_token(request)
    request.state.signed_in = found


def check_token(request: Request) -> None:
    """Raise `Refused` unless the request's header has the token of its session."""
    if not is_csrf_of(cookie_of(request), request.headers.get(CSRF_HEADER, "")):
        raise Refused(
            "the request does not carry the token of its session",
            hint=f"send csrf_token of GET /api/v1/session as {CSRF_HEADER}; a program sends a key "
            "in place of a session",
        )


def check_same_origin(request: Request) -> None:
    """Raise `Refused` where a browser says that a page of another site makes the request.

    `Sec-Fetch-Site` cannot be set by pages. Another port is another origin, though its cookies are
    the same.
    """
    site, origin = (request.headers.get(name) for name in ("sec-fetch-site", "origin"))
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:
        host = request.headers.get("host", "")
        is_ours = origin is None or origin.partition("://")[2].lower() == host.lower()
    if not is_ours:
        raise Refused(
            f"a page of {origin or 'another site'} may not do this", hint="use the console itself"
        )
