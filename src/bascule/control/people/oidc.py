"""Signing in at an OpenID Connect provider: the code flow with PKCE, state and nonce.

What a browser must bring back (`Flow`) is kept in its own cookie, so that any control process of
the catalogue can finish what another has begun.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from bascule.control.people.sessions import check_user
from bascule.core import Invalid, Overloaded, Refused, Unauthenticated, Unavailable, secret_in
from bascule.security import Permission, local_path, new_token, permissions_of_roles, roles_of_claim

TIMEOUT_S = 10.0
"""For all that one step of a sign-in asks the provider, from the connection to the last byte."""
MAX_STEPS = 8
"""Steps of sign-ins that ask the provider at a time, each on a thread that answers requests."""
FLOW_LASTS_S = 600
_METADATA_HOLDS_S = 3_600.0
_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Of ID tokens. With a secret that both sides have (`HS256`) the provider proves nothing."""
_MAX_BYTES = 1 << 20
_MAX_COOKIE = 4_000


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A provider, as the settings name it; see `ConsoleSettings`."""

    issuer: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    roles_claim: str = "roles"
    user_claim: str = "email"
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flow:
    """What a browser brings back from the provider.

    Attributes:
        state: Ties the provider's redirect to this browser.
        nonce: Ties the ID token to this sign-in.
        verifier: Proves that the caller that redeems the code has begun the flow (PKCE).
        returns_to: The path to show afterwards.
    """

    state: str
    nonce: str
    verifier: str
    returns_to: str

    def to_cookie(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def from_cookie(cls, said: str) -> Flow:
        """Raises `Unauthenticated` for what `to_cookie` has not made."""
        try:
            if len(said) > _MAX_COOKIE:
                raise ValueError(said)
            read = json.loads(base64.urlsafe_b64decode(said.encode()))
            names = ("state", "nonce", "verifier", "returns_to")
            values = [read[name] for name in names]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _begin_again("the browser has not begun a sign-in, or it took too long") from None
        if not all(isinstance(value, str) and value for value in values):
            raise _begin_again("the cookie of the sign-in is damaged")
        return cls(values[0], values[1], values[2], local_path(values[3]))


@dataclass(frozen=True, slots=True)
class Identity:
    """A person, as the provider tells it: the name for histories and the permissions."""

    user: str
    permissions: tuple[Permission, ...]


class Provider:
    """One OpenID Connect provider. Safe for threads."""

    def __init__(self, config: ProviderConfig) -> None:
        """Asks nothing yet."""
        self._config = config
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_STEPS)
        self._metadata: dict[str, Any] = {}
        self._keys: Any = None
        self._read_s = -_METADATA_HOLDS_S

    @property
    def name(self) -> str:
        """The provider's host, for a button."""
        return self._config.issuer.partition("://")[2].partition("/")[0]

    def begin(self, redirect_uri: str, returns_to: str) -> tuple[str, Flow]:
        """The address to send the browser to, and what it must bring back."""
        flow = Flow(new_token(), new_token(), new_token(), local_path(returns_to))
        with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(
                self._known(client)["authorization_endpoint"],
                state=flow.state, nonce=flow.nonce, code_verifier=flow.verifier,
            )  # fmt: skip
        return str(url), flow

    def finish(self, flow: Flow, redirect_uri: str, query: Mapping[str, str]) -> Identity:
        """The person that the provider has sent back with these query parameters.

        Raises:
            Unauthenticated: The provider refuses, or what it sends does not belong to this flow.
            Refused: The person has no role here.
            Unavailable: The provider does not answer.
            Overloaded: As many sign-ins as may wait for the provider.
        """
        if not query.get("state") or query["state"] != flow.state:
            raise _begin_again("the answer of the provider belongs to another sign-in")
        if "error" in query:
            raise _begin_again(f"the provider says {_short(query['error'])}")
        with self._client(redirect_uri) as client:
            known = self._known(client)
            token = client.fetch_token(
                known["token_endpoint"], grant_type="authorization_code",
                code=query.get("code", ""), code_verifier=flow.verifier, redirect_uri=redirect_uri,
            )  # fmt: skip
            claims = self._claims(client, known, token, flow.nonce)
        return self._identity(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        config = self._config
        said = _claim(claims, config.user_claim)
        # A provider may say nothing of it (Entra ID), or say it as a text (Amazon Cognito).
        is_verified = str(claims.get("email_verified", True)).lower() == "true"
        is_proven = config.user_claim != "email" or is_verified
        user = check_user(said if isinstance(said, str) and is_proven else claims["sub"])
        roles = roles_of_claim(_claim(claims, config.roles_claim), config.roles)
        if not roles:
            raise Refused(
                f"{user} has no role here",
                hint=f"an administrator gives one by the claim {config.roles_claim!r} of the "
                "provider, and [console.roles] of the settings",
            )
        return Identity(user, permissions_of_roles(roles))

    def _claims(
        self, client: Any, known: Mapping[str, Any], token: Mapping[str, Any], nonce: str
    ) -> dict[str, Any]:
        """The claims of the checked ID token, with those of the user's page that it lacks."""
        claims = self._checked(client, known, token, nonce)
        wanted = (self._config.user_claim, self._config.roles_claim)
        endpoint = known.get("userinfo_endpoint")
        if endpoint and any(_claim(claims, name) is None for name in wanted):
            more = _json(client.get(endpoint))
            if more.get("sub") != claims["sub"]:
                raise _begin_again("the provider tells of another person")
            claims = {**more, **claims}
        return claims

    def _checked(
        self, client: Any, known: Mapping[str, Any], token: Mapping[str, Any], nonce: str
    ) -> dict[str, Any]:
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError
        from joserfc.jws import JWSRegistry

        if not isinstance(token.get("id_token"), str):
            raise _begin_again("the provider sent no ID token")
        offered = known.get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(
            algorithms=[one for one in _ALGORITHMS if one in offered], strict_check_header=False
        )
        try:
            read = jwt.decode(token["id_token"], self._keys_of(client, known), registry=registry)
        except InvalidKeyIdError:  # the provider has changed its keys
            keys = self._keys_of(client, known, again=True)
            read = jwt.decode(token["id_token"], keys, registry=registry)
        claims = CodeIDToken(
            read.claims,
            read.header,
            {
                "iss": {"essential": True, "value": known["issuer"]},
                "aud": {"essential": True, "value": self._config.client_id},
                "nonce": {"essential": True, "value": nonce},
            },
            {"nonce": nonce, "client_id": self._config.client_id,
             "access_token": token.get("access_token")},
        )  # fmt: skip
        claims.validate(leeway=60)
        return dict(claims)

    def _keys_of(self, client: Any, known: Mapping[str, Any], *, again: bool = False) -> Any:
        from joserfc.jwk import KeySet

        with self._lock:
            if self._keys is None or again:
                found: Any = _json(_plain(client, known["jwks_uri"]))
                self._keys = KeySet.import_key_set(found)
            return self._keys

    def _known(self, client: Any) -> dict[str, Any]:
        """What the provider publishes of itself (OpenID Connect Discovery 1.0)."""
        with self._lock:
            if time.monotonic() - self._read_s < _METADATA_HOLDS_S:
                return self._metadata
        issuer = self._config.issuer.rstrip("/")
        found = _json(_plain(client, f"{issuer}/.well-known/openid-configuration"))
        if str(found.get("issuer", "")).rstrip("/") != issuer:
            raise Unavailable(
                f"the provider at {issuer} calls itself {_short(str(found.get('issuer')))}",
                hint="set console.oidc_issuer to its own name",
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(found.get(name), str):
                raise Unavailable(f"the provider at {issuer} publishes no {name}")
        with self._lock:
            self._metadata, self._keys, self._read_s = found, None, time.monotonic()
        return found

    @contextmanager
    def _client(self, redirect_uri: str) -> Iterator[Any]:
        import httpx2
        from authlib.common.errors import AuthlibBaseError
        from authlib.integrations.httpx_client import OAuth2Client
        from joserfc.errors import JoseError

        config = self._config
        secret = _secret(config.client_secret)
        client = OAuth2Client(
            config.client_id, secret or None, scope=" ".join(config.scopes),
            redirect_uri=redirect_uri, code_challenge_method="S256", timeout=TIMEOUT_S,
            follow_redirects=False,
        )  # fmt: skip
        if not self._places.acquire(blocking=False):
            raise Overloaded(
                f"{MAX_STEPS} sign-ins wait for the provider {self.name}",
                hint="retry", retry_after_s=TIMEOUT_S,
            )  # fmt: skip
        try:
            with client, _ended_in_time(client):
                yield client
        except httpx2.HTTPStatusError as error:
            if error.response.status_code >= 500:
                raise self._away(error) from None
            # Of the code: used, expired, or for another verifier.
            raise _begin_again(f"the provider {self.name} refuses the sign-in") from None
        except httpx2.HTTPError as error:
            raise self._away(error) from None
        except (AuthlibBaseError, JoseError, ValueError) as error:
            raise _begin_again(
                f"the provider's answer is not accepted: {_short(str(error))}"
            ) from None
        finally:
            self._places.release()

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"the provider {self.name} does not answer as it should: {_short(str(error))}",
            hint="retry; or sign in by a link of bascule sign-in",
        )


@contextmanager
def _ended_in_time(client: Any) -> Iterator[None]:
    """Shut the connections of a client down after `TIMEOUT_S`, also while bytes still come.

    The timeouts of the library begin anew at each byte.
    """
    sockets: list[socket.socket] = []
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        for connection in sockets:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS

    def note(event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            sockets.append(info["return_value"].get_extra_info("socket"))
            if is_over.is_set():
                end()

    client.event_hooks = {"request": [lambda request: request.extensions.update(trace=note)]}
    timer = threading.Timer(TIMEOUT_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_installed() -> None:
    """Raise `Invalid` unless the libraries of this flow are there."""
    try:
        import authlib.oidc.core  # noqa: F401
        import httpx2  # noqa: F401
    except ImportError as error:
        raise Invalid(
            f"console.oidc_issuer is set, and {error.name} is not installed",
            hint="pip install 'bascule[oidc]'",
        ) from None


def _secret(said: str) -> str:
    return secret_in(said, lambda why: Invalid(f"console.oidc_client_secret: {why}"))


def _plain(client: Any, url: str) -> Any:
    """The answer to a GET without the access token."""
    return client.request("GET", url, withhold_token=True)


def _json(answer: Any) -> dict[str, Any]:
    answer.raise_for_status()
    if len(answer.content) > _MAX_BYTES:
        raise ValueError("the answer is too long")
    found = answer.json()
    if not isinstance(found, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004  # not a bug of ours
    return found


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the path to a nested one: `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _begin_again(why: str) -> Unauthenticated:
    return Unauthenticated(why, hint="begin to sign in again")


def _short(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text[:200])
