"""Master keys: they wrap the data keys of private fields, and never leave their place.

A line of `PROVIDERS` and a class with `wrap` and `unwrap` add a provider, such as a KMS.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any, Protocol

from bascule.core import Invalid, Untrusted, load_named, replacing, synced
from bascule.security import ask_vault

_HERE = "bascule.monitoring.ledger.masters"
PROVIDERS = {"file": f"{_HERE}:FileMaster", "vault": f"{_HERE}:VaultMaster"}
"""By the word before the colon of an address."""
MASTER_FILE = "master.key"


class Master(Protocol):
    """A master key, which may have several versions."""

    def wrap(self, key: bytes) -> str:
        """Wrap a data key with the newest version."""

    def unwrap(self, wrapped: str) -> bytes:
        """The data key. Raises `Untrusted` where it was wrapped with another master key."""


def master_of(home: Path, address: str) -> Master:
    """The master key at `file`, or at `vault:MOUNT/KEY`. Raises `Invalid`."""
    kind, _, rest = address.partition(":")
    if kind not in PROVIDERS:
        raise Invalid(
            f"privacy.master: there is no provider {kind!r}", hint=f"use {', '.join(PROVIDERS)}"
        )
    master: Master = load_named(PROVIDERS[kind])(home, rest)
    return master


def write_secret(file: Path, content: bytes) -> None:
    """Replace a file that its owner alone may read; on the disk when this returns."""
    with replacing(file) as draft:
        with synced(draft) as opened:
            opened.write(content)
        draft.chmod(0o600)


class FileMaster:
    """A key in a file of the home, with mode 0600; it wraps by AES-256 (RFC 3394)."""

    def __init__(self, home: Path, _rest: str = "") -> None:
        self._file = home / MASTER_FILE

    def wrap(self, key: bytes) -> str:
        from cryptography.hazmat.primitives.keywrap import aes_key_wrap

        if not self._file.exists():
            write_secret(self._file, secrets.token_bytes(32))
        return base64.b64encode(aes_key_wrap(self._file.read_bytes(), key)).decode()

    def unwrap(self, wrapped: str) -> bytes:
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        try:
            return aes_key_unwrap(self._file.read_bytes(), base64.b64decode(wrapped))
        except (OSError, ValueError, InvalidUnwrap):
            raise Untrusted(
                f"{self._file} is not the master key of this data key",
                hint="put the master key back from a backup: values are lost without it",
            ) from None


class VaultMaster:
    """A key of the transit engine of HashiCorp Vault or OpenBao; it wraps there.

    The environment says where and as whom, as for secrets of settings. Vault's own policy says who
    may unwrap, and its own command rotates the key: earlier versions open what they have wrapped.
    """

    def __init__(self, _home: Path, address: str) -> None:
        mount, _, name = address.rpartition("/")
        self._key = {"mount_point": mount, "name": name}

    def _ask(self, question: str, **values: Any) -> Any:
        return ask_vault(
            lambda client: getattr(client.secrets.transit, question)(**self._key, **values)
        )

    def wrap(self, key: bytes) -> str:
        answer = self._ask("encrypt_data", plaintext=base64.b64encode(key).decode())
        return str(answer["data"]["ciphertext"])

    def unwrap(self, wrapped: str) -> bytes:
        answer = self._ask("decrypt_data", ciphertext=wrapped)
        return base64.b64decode(answer["data"]["plaintext"])
