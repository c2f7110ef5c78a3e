"""Secrets of OpenBao or Vault: `vault:PATH#FIELD`, such as `vault:secret/data/bascule#password`.

A value is read again `FRESH_S` after it was read, when it is needed then, so a rotation is picked
up without a restart. Leased secrets, such as users of a database, are kept for two thirds of their
lease. While the server is away the last value goes on, for `STALE_S`.

The environment says where and as whom: VAULT_ADDR, and VAULT_TOKEN, VAULT_TOKEN_FILE (of an agent),
or VAULT_ROLE_ID with VAULT_SECRET_ID (AppRole); VAULT_CACERT, VAULT_NAMESPACE. BAO_... counts too.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bascule.core import Invalid, MissingExtra, NotFound, Unavailable, secret_in

log = logging.getLogger(__name__)

FRESH_S = 2.0
"""After so long a value is read again; rotation is picked up within it and one answer."""
STALE_S = 3_600.0
"""How long the last value goes on while the server is away."""
_TIMEOUT_S, _AGAIN_S = 2.0, 1.0
_SHARE_OF_LEASE = 2 / 3


@dataclass(frozen=True, slots=True)
class Kept:
    """What was read at a path; times are of the monotonic clock.

    Attributes:
        data: By field.
        read_s: When it was read.
        fresh_until_s: When it is to be read again.
    """

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
        self._renew_at_s = self._again_s = 0.0
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
        data = self._data(path)
        if field not in data:
            raise NotFound(f"vault:{path} has no field {field!r}", hint="bao kv get")
        return str(data[field])

    def _data(self, path: str) -> Mapping[str, Any]:
        kept, now_s = self._kept.get(path), self._now_s()
        if kept is not None and now_s < max(kept.fresh_until_s, self._again_s):
            return self._usable(kept, path)
        # While one thread asks, others go on with what is known.
        if not self._lock.acquire(blocking=kept is None):
            assert kept is not None
            return self._usable(kept, path)
        try:
            fresh = self._fetched(path)
            self._kept[path], self.problem = fresh, ""
        except Unavailable as error:
            self._again_s = now_s + _AGAIN_S
            if error.message != self.problem:
                log.warning("%s; the last values of secrets go on for %g s", error, STALE_S)
            self.problem = error.message
            if kept is None:
                raise
            return self._usable(kept, path)
        else:
            return fresh.data
        finally:
            self._lock.release()

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What a client of `hvac` answers that is signed in."""
        with self._lock:
            return self._asking(question)

    def _usable(self, kept: Kept, path: str) -> Mapping[str, Any]:
        if self._now_s() - kept.read_s > STALE_S:
            raise Unavailable(
                f"vault:{path} was last read over {STALE_S:g} s ago: {self.problem}",
                hint="bring the server back",
            )
        return kept.data

    def _fetched(self, path: str) -> Kept:
        began_s = self._now_s()
        answer = self._asking(lambda client: client.read(path))
        if answer is None:
            raise NotFound(f"vault:{path} is not there", hint="bao read PATH")
        lease_s = float(answer.get("lease_duration") or 0) if answer.get("lease_id") else 0.0
        data = answer["data"] or {}
        if isinstance(data.get("data"), dict) and "metadata" in data:  # version 2 of KV
            data = data["data"]
        return Kept(data, began_s, began_s + max(FRESH_S, lease_s * _SHARE_OF_LEASE))

    def _asking(self, ask: Callable[[Any], Any]) -> Any:
        try:
            import hvac

            import requests
        except ImportError:
            raise MissingExtra(
                "secrets of Vault need hvac", hint="pip install 'bascule[vault]'"
            ) from None
        try:
            try:
                return ask(self._signed_in())
            except hvac.exceptions.Forbidden:  # the token has ended, or an agent wrote another
                self._client = None
                return ask(self._signed_in())
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

    def _signed_in(self) -> Any:
        """The client, its token renewed after two thirds of its life."""
        import hvac

        if self._client is not None and self._now_s() < self._renew_at_s:
            return self._client
        if self._client is not None:
            self._note_life(self._client.auth.token.renew_self()["auth"])
            return self._client
        address = self._variable("ADDR")
        if not address:
            raise Invalid(
                "a setting says vault:, and VAULT_ADDR is not set", hint="export VAULT_ADDR"
            )
        client = hvac.Client(
            address, timeout=_TIMEOUT_S, verify=self._variable("CACERT") or True,
            namespace=self._variable("NAMESPACE") or None,
        )  # fmt: skip
        role = self._variable("ROLE_ID")
        self._renew_at_s = float("inf")
        if role:
            secret_id = secret_in(self._variable("SECRET_ID"))
            self._note_life(client.auth.approle.login(role, secret_id)["auth"])
        else:
            file = self._variable("TOKEN_FILE")
            client.token = (
                Path(file).read_text(encoding="ascii").strip() if file else self._variable("TOKEN")
            )
            life = client.auth.token.lookup_self()["data"]
            self._note_life({"lease_duration": life["ttl"], "renewable": life.get("renewable")})
        self._client = client
        return client

    def _note_life(self, life: Mapping[str, Any]) -> None:
        lasts_s = float(life.get("lease_duration") or 0)
        ends = bool(lasts_s and life.get("renewable"))
        self._renew_at_s = self._now_s() + lasts_s * _SHARE_OF_LEASE if ends else float("inf")

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
