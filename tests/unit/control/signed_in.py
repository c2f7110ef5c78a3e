"""A control API with keys, and clients that are signed in, without a process of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi.testclient import TestClient

from bascule.control.api import control_app
from bascule.control.link import ServerLink
from bascule.control.sessions import Sessions
from bascule.security import Permission, create_key, csrf_of, permissions_of_roles
from bascule.serving.telemetry import Counters
from bascule.serving.transports import Authenticator

BASE = "http://127.0.0.1:8082"
COOKIE = "bascule-8082"


@dataclass
class Site:
    """A control API, the sessions that it knows, and makers of callers."""

    app: object
    sessions: Sessions
    keys_file: object
    kept: list

    def client(self, **headers: str) -> TestClient:
        """A caller on this machine with neither key nor session."""
        return TestClient(
            self.app, base_url=BASE, headers=headers, client=("127.0.0.1", 50_000),
            raise_server_exceptions=False, follow_redirects=False,
        )  # fmt: skip

    def signed_in(self, *roles: str, user: str = "ada", with_token: bool = True) -> TestClient:
        """A browser with a session; it sends the token of its pages unless told otherwise."""
        token, _ = self.sessions.begin(user, permissions_of_roles(roles), "oidc")
        sent = {"X-CSRF-Token": csrf_of(token)} if with_token else {}
        made = self.client(**sent)
        made.cookies.set(COOKIE, token, domain="127.0.0.1")
        return made

    def with_key(self, *permissions: str) -> TestClient:
        """A program with a key."""
        name = f"k{len(self.kept)}"
        wanted = list(map(Permission.parse, permissions))
        _, token = create_key(_Kept(self.kept), name, wanted, now=datetime.now(UTC), by="root")
        self.keys_file.write_text(json.dumps([one.to_json() for one in self.kept]))
        return self.client(Authorization=f"Bearer {token}")


class _Kept:
    def __init__(self, kept: list) -> None:
        self.stored = lambda: kept
        self.add = kept.append


def site_of(tmp_path, registry, catalogue, *, with_keys: bool = True, **more) -> Site:
    """A site over a registry and its catalogue."""
    counters = tmp_path / "counters"
    counters.touch()
    keys_file = tmp_path / "keys.json"
    keys_file.write_text("[]")
    sessions = Sessions(lambda: catalogue)
    app = control_app(
        ServerLink(Counters(counters, workers=0)), lambda: registry, _no_find,
        Authenticator(keys_file) if with_keys else None,
        open_catalogue=lambda: catalogue, sessions=sessions, **more,
    )  # fmt: skip
    return Site(app, sessions, keys_file, [])


def _no_find(reference: str):
    raise AssertionError(reference)
