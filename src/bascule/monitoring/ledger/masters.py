"""Master keys: they wrap the data keys of private fields, and never leave their place.

A line of `PROVIDERS` and a class with `wrap`, `unwrap` and `rotate` add a provider, such as a KMS.
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bascule.core import Invalid, MissingExtra, Unavailable, Untrusted, load_named, synced

_HERE = "bascule.monitoring.ledger.masters"
PROVIDERS = {"file": f"{_HERE}:FileMaster", "vault": f"{_HERE}:VaultMaster"}
"""By the word before the colon of an address."""
MASTER_FILE = "master.key"
_NONCE_BYTES = 12


class Master(Protocol):
    """A master key, which may have several versions."""

    def wrap(self, key: bytes) -> str:
        """Wrap a data key with the newest version."""

    def unwrap(self, wrapped: str) -> bytes:
        """The data key. Raises `Untrusted` where it was wrapped with another master key."""

    def rotate(self) -> None:
        """Make a new version, with which keys are wrapped from now on."""

    def forget(self) -> None:
        """Remove the versions before the newest, where this is the place to do that."""


def master_of(home: Path, address: str) -> Master:
    """The master key at `file`, or at `vault:https://HOST:PORT/MOUNT/KEY`. Raises `Invalid`."""
    kind, _, rest = address.partition(":")
    if kind not in PROVIDERS:
        raise Invalid(
            f"privacy.master: there is no provider {kind!r}", hint=f"use {', '.join(PROVIDERS)}"
        )
    made: Master = load_named(PROVIDERS[kind])(home, rest)
    return made


def write_secret(file: Path, content: bytes) -> None:
    """Replace a file that its owner alone may read; on the disk when this returns."""
    draft = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with synced(draft) as opened:
        opened.write(content)
    draft.replace(file)


class FileMaster:
    """A file of the home, with mode 0600: the versions of the key, the newest last."""

    def __init__(self, home: Path, _rest: str = "") -> None:
        self._file = home / MASTER_FILE

    def _keys(self) -> dict[str, bytes]:
        if not self._file.exists():
            self.rotate()
        return msgspec.json.decode(self._file.read_bytes(), type=dict[str, bytes])

    def rotate(self) -> None:
        known = self._keys() if self._file.exists() else {}
        known[secrets.token_hex(4)] = secrets.token_bytes(32)
        write_secret(self._file, msgspec.json.encode(known))

    def forget(self) -> None:
        write_secret(self._file, msgspec.json.encode(dict(list(self._keys().items())[-1:])))

    def wrap(self, key: bytes) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        version, master = list(self._keys().items())[-1]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(master).encrypt(nonce, key, version.encode())
        return f"{version}:{base64.b64encode(sealed).decode()}"

    def unwrap(self, wrapped: str) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        version, _, text = wrapped.partition(":")
        sealed = base64.b64decode(text)
        try:
            master = AESGCM(self._keys()[version])
            return master.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], version.encode())
        except (KeyError, InvalidTag):
            raise Untrusted(
                f"{self._file} is not the master key of this data key",
                hint="put the master key back from a backup: values are lost without it",
            ) from None


class VaultMaster:
    """A key of the transit engine of HashiCorp Vault or OpenBao; it wraps there.

    The token is that of `VAULT_TOKEN`. Vault's own policy says who may unwrap.
    """

    def __init__(self, _home: Path, address: str) -> None:
        self._url, self._mount, self._name = address.rsplit("/", 2)

    def _transit(self) -> Any:
        try:
            import hvac
        except ImportError:
            raise MissingExtra(
                "hvac is not installed", hint="pip install 'bascule[vault]'"
            ) from None
        token = os.environ.get("VAULT_TOKEN", "")
        return hvac.Client(url=self._url, token=token).secrets.transit

    def _ask(self, question: str, **given: Any) -> Any:
        import requests

        transit = self._transit()
        from hvac.exceptions import VaultError

        try:
            return getattr(transit, question)(name=self._name, mount_point=self._mount, **given)
        except VaultError as problem:
            raise Untrusted(
                f"{self._url} refuses {question} of {self._name}: {type(problem).__name__}",
                hint="check VAULT_TOKEN and the policy of the key",
            ) from None
        except requests.RequestException:
            raise Unavailable(f"{self._url} is away", hint="start Vault or OpenBao") from None

    def wrap(self, key: bytes) -> str:
        found = self._ask("encrypt_data", plaintext=base64.b64encode(key).decode())
        return str(found["data"]["ciphertext"])

    def unwrap(self, wrapped: str) -> bytes:
        found = self._ask("decrypt_data", ciphertext=wrapped)
        return base64.b64decode(found["data"]["plaintext"])

    def rotate(self) -> None:
        self._ask("rotate_key")

    def forget(self) -> None:
        """Nothing: Vault keeps versions until its own `min_decryption_version` says otherwise."""
