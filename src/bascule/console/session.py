"""Who uses the console: the session of a request, its rights, and the token of its forms."""

from __future__ import annotations

import getpass
import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from fastapi import Request

from bascule.control import Authorise, FindSession, cookie_of
from bascule.core import Refused
from bascule.security import Action, Permission, csrf_of
from bascule.serving.transports import is_loopback

CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
_FORM_KEY_BYTES = 32

Rights = Callable[[Action, str], None]
"""Raises `Refused` unless the person may do this to a model: `*` for all, empty for any."""


@dataclass(frozen=True, slots=True)
class Session:
    """A person at a browser.

    Attributes:
        subject: The name for histories.
        rights: Asked before anything is shown or changed.
        csrf: The token that forms of this session carry.
        is_signed_in: Whether the person signed in, and so can sign out.
        short_id: The id as histories show it; empty for a person that has not signed in.
        permissions: What the person that signed in may do.
    """

    subject: str
    rights: Rights
    csrf: str
    is_signed_in: bool = False
    short_id: str = ""
    permissions: tuple[Permission, ...] = ()

    def check(self, action: Action, model: str) -> None:
        """Raise `Refused` unless the person may do this; see `control.api.rights.RIGHTS`."""
        self.rights(action, model)

    def allows(self, action: Action, model: str) -> bool:
        """Whether the person may do this."""
        try:
            self.rights(action, model)
        except Refused:
            return False
        return True

    def check_form(self, token: str) -> None:
        """Raise `Refused` for a form that is not from a page of this session."""
        if not hmac.compare_digest(token.encode(), self.csrf.encode()):
            raise Refused(
                "the form is not from a page of this session, or the server was started again",
                hint="load the page again, and send the form once more",
            )


class Sessions:
    """Finds the session of a request.

    A caller that did not sign in has the rights that the control API gives the same request.
    """

    def __init__(self, authorise: Authorise, find: FindSession | None) -> None:
        """`find` reads the catalogue; None on a server without sessions."""
        self._authorise = authorise
        self._find = find
        self._csrf = secrets.token_urlsafe(_FORM_KEY_BYTES)

    def find(self, request: Request) -> Session:
        """The session of a request; raises `Unauthenticated` where the person must sign in."""
        cookie = cookie_of(request)
        found = self._find(cookie) if self._find is not None and cookie else None
        if found is not None:
            return Session(
                found.subject, found.check, csrf_of(cookie), is_signed_in=True,
                short_id=found.short_id, permissions=found.permissions,
            )  # fmt: skip
        subject = self._authorise(request, "read", "").user

        def rights(action: Action, model: str) -> None:
            self._authorise(request, action, model)

        if subject in ("", "unknown") and request.client and is_loopback(request.client.host):
            with suppress(OSError, KeyError):  # the user may have no name
                subject = getpass.getuser()
        return Session(subject or "unknown", rights, self._csrf)


def current(request: Request) -> Session:
    """The session of a request that a page handles."""
    found: Session = request.state.session
    return found
