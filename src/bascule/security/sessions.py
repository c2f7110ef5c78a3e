"""Sessions of people in a browser, and the one-time links that begin them. Pure.

A session has permissions as a key has, and lives in a cookie. The catalogue keeps the hash of its
token alone, as it does of keys (see `keys` for why one round of SHA-256 is enough).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from urllib.parse import urlsplit

from bascule.core import Refused
from bascule.security.keys import Action, Key, Permission, permits
from bascule.security.projects import Projects, in_force

MAX_TOKEN = 64
"""Tokens have 43 characters; what is longer is not looked up."""
SHORT_ID = 12
"""Characters of a session's id that tell it from others."""


@dataclass(frozen=True, slots=True)
class Session:
    """A person that has signed in.

    Attributes:
        id: The hash of the token, which is not kept.
        user: The name of the person.
        permissions: What the session allows, within what its key allows.
        source: How the person signed in: by a link of `bascule sign-in`, or at a provider.
        began_at: When.
        ends_at: When it ends by itself.
        key: The key that made the link, as it is now; None for a link of a user that can write the
            catalogue, and for a provider.
    """

    id: str
    user: str
    permissions: tuple[Permission, ...]
    source: Literal["link", "oidc"]
    began_at: datetime
    ends_at: datetime
    key: Key | None = None

    @property
    def short_id(self) -> str:
        """The id as lists and histories show it."""
        return self.id[:SHORT_ID]

    @property
    def subject(self) -> str:
        """The name for histories: the person, and the key whose right it is."""
        if self.key is None or self.key.name == self.user:
            return self.user
        return f"{self.user} (key {self.key.name})"

    def in_force(self, projects: Projects) -> Session:
        """The same with the models of projects in their place."""
        key = self.key
        if key is not None:
            key = replace(key, permissions=in_force(key.permissions, projects))
        return replace(self, permissions=in_force(self.permissions, projects), key=key)

    def allows(self, action: Action, model: str) -> bool:
        """Whether a permission covers the action, and one of the key does."""
        is_bounded = self.key is not None and not self.key.allows(action, model)
        return permits(self.permissions, action, model) and not is_bounded

    def check(self, action: Action, model: str) -> None:
        """Raise `Refused` unless it allows the action."""
        if not self.allows(action, model):
            raise Refused(
                f"{self.user} may not do this: {action} {model}".rstrip(),
                hint=f"ask an administrator for {action}:{model}" if model
                else f"ask an administrator for the right {action}",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """What a one-time link begins.

    Attributes:
        user: The name of the session's person.
        permissions: The permissions of the session.
        ends_at: When the link ends unused.
        key: As of the session.
    """

    user: str
    permissions: tuple[Permission, ...]
    ends_at: datetime
    key: Key | None = None


def new_token() -> str:
    """A secret of 256 bits, for a session or for a link."""
    return secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """The hash by which a token is found again."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_of(cookie: str) -> str:
    """The token that forms of a page carry: known only where the cookie is, and no use as one."""
    return hashlib.sha256(b"bascule csrf\0" + cookie.encode()).hexdigest()


def is_csrf_of(cookie: str, said: str) -> bool:
    """Whether a form or a header carries the token of the cookie."""
    return hmac.compare_digest(csrf_of(cookie).encode(), said.encode())


def local_path(wanted: str) -> str:
    """`wanted` if it is a path of this site, to return to after signing in; else `/`.

    Browsers read `//host`, the same with a backslash, and a path with a line break as other sites.
    """
    is_plain = wanted.isascii() and wanted.isprintable() and "\\" not in wanted
    if not is_plain or not wanted.startswith("/") or wanted.startswith("//"):
        return "/"
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else wanted
