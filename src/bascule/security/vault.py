"""Secrets of OpenBao or Vault: `vault:PATH#FIELD`, such as `vault:secret/data/bascule#password`.

A value is read again `FRESH_S` after it was read, when it is needed then, so a rotation is picked
up without a restart. Leased secrets, such as users of a database, are kept for two thirds of their
lease. While the server is away the last value goes on, for `STALE_S`.

The environment says where and as whom: VAULT_ADDR, and VAULT_TOKEN, VAULT_TOKEN_FILE (of an agent),
or VAULT_ROLE_ID with VAULT_SECRET_ID (AppRole); VAULT_CACERT, VAULT_NAMESPACE. BAO_... counts too.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bascule.core import Invalid, NotFound, Unavailable, library, secret_in

log = logging.getLogger(__name__)

FRESH_S = 2.0
"""After so long a value is read again; rotation is picked up within it and one answer."""
STALE_S = 3_600.0
"""How long the last value goes on while the server is away."""
_TIMEOUT_S, _AGAIN_S = 2.0, 1.0
_SHARE_OF_LEASE = 2 / 3


class Kept(NamedTuple):
    """What was read at a path, by field; times are of the monotonic clock."""

    data: Mapping[str, Any]
    read_s: float
    fresh_until_s: float


class Vault:
    """The secrets of one server, for all threads of this process."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is read yet."""
        self._environ, self._now_s = environ, now_s
        self._kept: dict[str, Kept] = {}
        self._client: Any = None
        self._sign_in_at_s = self._again_s = 0.0
        self._lock = threading.Lock()
        self.problem = ""
        """Why the server did not answer at last; empty if it did."""

    def read(self, place: str) -> str:
        """The value at `PATH#FIELD`.

        Raises:
            Invalid: It names no field, or the environment no server.
            NotFound: There is no such path or field.
            Unavailable: The server is away, and no value is younger than `STALE_S`.
        """
        path, _, field = place.partition("#")
        if not path or not field:
            raise Invalid(f"vault:{place} names no field", hint="write vault:PATH#FIELD")
        kept = self._kept.get(path)
        is_due = kept is None or self._now_s() >= max(kept.fresh_until_s, self._again_s)
        # While one thread asks, others go on with what is known.
        if is_due and self._lock.acquire(blocking=kept is None):
            try:
                kept = self._refreshed(path, kept)
            finally:
                self._lock.release()
        assert kept is not None
        if self._now_s() - kept.read_s > STALE_S:
            raise Unavailable(
                f"vault:{path} was last read over {STALE_S:g} s ago: {self.problem}",
                hint="bring the server back",
            )
        if field not in kept.data:
            raise NotFound(f"vault:{path} has no field {field!r}", hint="bao kv get")
        return str(kept.data[field])

    def _refreshed(self, path: str, kept: Kept | None) -> Kept:
        began_s = self._now_s()
        try:
            answer = self._ask(lambda client: client.read(path))
        except Unavailable as error:
            self._again_s = began_s + _AGAIN_S
            if error.message != self.problem:
                log.warning("%s; the last values of secrets go on for %g s", error, STALE_S)
            self.problem = error.message
            if kept is None:
                raise
            return kept
        self.problem = ""
        if answer is None:
            raise NotFound(f"vault:{path} is not there", hint="bao read PATH")
        lease_s = float(answer.get("lease_duration") or 0) if answer.get("lease_id") else 0.0
        data = answer["data"] or {}
        if isinstance(data.get("data"), dict) and "metadata" in data:  # version 2 of KV
            data = data["data"]
        fresh_s = max(FRESH_S, lease_s * _SHARE_OF_LEASE)
        self._kept[path] = Kept(data, began_s, began_s + fresh_s)
        return self._kept[path]

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What a client of `hvac` answers that is signed in. Raises as `read` does."""
        with self._lock:
            return self._ask(question)

    def check(self) -> str:
        """The address of the server, which knows the token; empty where there is none.

        Raises as `read` does.
        """
        if address := self._variable("ADDR"):
            self.ask(lambda client: client.auth.token.lookup_self())
        return address

    def _ask(self, ask: Callable[[Any], Any]) -> Any:
        hvac, requests = library("hvac", "vault"), library("requests", "vault")
        try:
            if self._client is None or self._now_s() >= self._sign_in_at_s:
                self._sign_in()
            try:
                return ask(self._client)
            except hvac.exceptions.Forbidden:  # the token has ended, or an agent wrote another
                self._sign_in()
                return ask(self._client)
        except hvac.exceptions.Forbidden:
            raise Invalid(
                "the server refuses the token, or its policy the path", hint="bao token lookup"
            ) from None
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            # Without its text, which may quote what was sent.
            kind = type(error).__name__
            raise Unavailable(
                f"{self._variable('ADDR')} does not give out secrets: {kind}",
                hint="it is asked again",
            ) from None

    def _sign_in(self) -> None:
        """Again after two thirds of the life of the token, which is renewed or another."""
        import hvac

        address = self._variable("ADDR")
        if not address:
            raise Invalid(
                "a setting says vault:, and VAULT_ADDR is not set", hint="export VAULT_ADDR"
            )
        client = hvac.Client(
            address, timeout=_TIMEOUT_S, verify=self._variable("CACERT") or True,
            namespace=self._variable("NAMESPACE") or None,
        )  # fmt: skip
        role, file = self._variable("ROLE_ID"), self._variable("TOKEN_FILE")
        life_s = 0.0
        if role:
            secret_id = secret_in(self._variable("SECRET_ID"))
            life_s = client.auth.approle.login(role, secret_id)["auth"]["lease_duration"]
        else:
            token = Path(file).read_text(encoding="ascii") if file else self._variable("TOKEN")
            client.token = token.strip()
            if client.auth.token.lookup_self()["data"].get("renewable"):
                life_s = client.auth.token.renew_self()["auth"]["lease_duration"]
        self._client = client
        self._sign_in_at_s = self._now_s() + (life_s * _SHARE_OF_LEASE or math.inf)

    def _variable(self, name: str) -> str:
        return self._environ.get(f"VAULT_{name}") or self._environ.get(f"BAO_{name}") or ""


_vault = Vault()


def read(place: str) -> str:
    """See `Vault.read`: of the server of this process's environment."""
    return _vault.read(place)


def ask_vault(question: Callable[[Any], Any]) -> Any:
    """What a client of `hvac` answers, signed in to that server; raises as `Vault.read` does."""
    return _vault.ask(question)


def problem() -> str:
    """Why secrets are not fresh; empty where they are, or none was read."""
    return _vault.problem
