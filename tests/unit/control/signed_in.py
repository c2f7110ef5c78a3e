"""A control API with keys, and clients that are signed in, without a process of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fastapi.testclient import TestClient
from tests.controls import control_app

from bascule.control.link import ServerLink
from bascule.control.people.sessions import Sessions
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records
from bascule.security import Permission, csrf_of, permissions_of_roles
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
    keys: CatalogueKeys

    def client(self, address: str = "127.0.0.1", **headers: str) -> TestClient:
        """A caller, on this machine by default, with neither key nor session."""
        return TestClient(
            _complete(self.app), base_url=BASE, headers=headers, client=(address, 50_000),
            raise_server_exceptions=False, follow_redirects=False,
        )  # fmt: skip

    def signed_in(self, *roles: str, user: str = "ada", with_token: bool = True) -> TestClient:
        """A browser with a session; it sends the token of its pages unless told otherwise."""
        token, _ = self.sessions.begin(user, permissions_of_roles(roles), "oidc")
        return self.browser(token, with_token=with_token)

    def browser(self, token: str, *, with_token: bool = True) -> TestClient:
        """A browser with the cookie of a session."""
        sent = {"X-CSRF-Token": csrf_of(token)} if with_token else {}
        made = self.client(**sent)
        made.cookies.set(COOKIE, token, domain="127.0.0.1")
        return made

    def with_key(self, *permissions: str) -> TestClient:
        """A program with a key."""
        name = f"k{len(self.keys.stored())}"
        _, token = self.keys.create(name, list(map(Permission.parse, permissions)), by="root")
        self.tell_keys()
        return self.client(Authorization=f"Bearer {token}")

    def tell_keys(self) -> None:
        """Have the server know the keys as the catalogue has them."""
        self.keys_file.write_text(json.dumps([one.to_json() for one in self.keys.in_force()]))

    def by_link(self, maker: TestClient, **asked: object) -> TestClient:
        """A browser that has used a link that a caller made."""
        made = maker.post("/api/v1/sign-in-links", json=asked)
        assert made.status_code == 201, made.text
        token, _ = self.sessions.redeem(made.json()["path"].partition("=")[2])
        return self.browser(token)


def _complete(app):
    """The application under the scope of a real server, which names the version of ASGI."""

    async def answer(scope, receive, send) -> None:
        scope.setdefault("asgi", {"version": "3.0"})
        await app(scope, receive, send)

    return answer


def site_of(tmp_path, registry, catalogue, *, with_keys: bool = True, projects=(), **more) -> Site:
    """A site over a registry and its catalogue."""
    counters = tmp_path / "counters"
    counters.touch()
    keys_file = tmp_path / "keys.json"
    keys_file.write_text("[]")
    sessions = Sessions(lambda: catalogue, projects=dict(projects))
    app = control_app(
        ServerLink(Counters(counters, workers=0)), lambda: registry, _no_find,
        Authenticator(keys_file) if with_keys else None,
        open_catalogue=lambda: catalogue, sessions=sessions, **more,
    )  # fmt: skip
    return Site(app, sessions, keys_file, CatalogueKeys(Records(catalogue), dict(projects)))


def _no_find(reference: str):
    raise AssertionError(reference)
