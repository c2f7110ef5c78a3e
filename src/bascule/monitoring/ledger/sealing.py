"""Private fields that can be read again: encrypted, or tokenised so that equal values stay equal.

A value is sealed by the scribe with a data key of its day (AES-256-GCM), a token with one key for
all days (AES-SIV, RFC 5297, which is deterministic). Data keys are in `field-keys.json`, wrapped by
a master key (`masters`).
"""

from __future__ import annotations

import base64
import fcntl
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from bascule.core import Untrusted
from bascule.monitoring.ledger.masters import master_of, write_secret
from bascule.monitoring.ledger.subjects import text_of

KEYS_FILE = "field-keys.json"
MASTER_NOTE = "field-master"
"""The address of what wraps new keys, as `note_master` has noted it; keys that are there know what
has wrapped them."""
ENCRYPTED, TOKEN = ".encrypted", ".token"
PRIVATE = "(private)"
"""What is shown of a value to readers without the right."""
_TOKENS = "tokens"
_NONCE_BYTES = 12


class DataKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept.

    Attributes:
        id: Every value that is sealed with it begins with this.
        purpose: A UTC day as `2026-11-26`, or `tokens`.
        master: The address of what has wrapped it.
        wrapped: What that made of it.
    """

    id: str
    purpose: str
    master: str
    wrapped: str


class _Cipher(NamedTuple):
    seal: Callable[[bytes], bytes]
    open: Callable[[bytes], bytes]


class FieldKeys:
    """Seals values, and opens them. Keys are read and unwrapped when they are first needed."""

    def __init__(self, home: Path) -> None:
        """Read nothing yet."""
        self._home = home
        self._file = home / KEYS_FILE
        self._plain: dict[str, bytes] = {}

    def seal(self, name: str, values: Sequence[object]) -> list[str | None]:
        """What is kept in place of values; None for those that are missing.

        Args:
            name: Of the column, with the kind of its seal at the end.
            values: Numbers or texts.
        """
        texts = [None if value is None or value != value else text_of(value) for value in values]
        if name.endswith(TOKEN):
            return self.tokens(texts)
        key = self._key_for(datetime.now(UTC).strftime("%Y-%m-%d"))
        cipher = self._cipher(key)
        return [
            None if text is None else _written(key, cipher.seal(text.encode())) for text in texts
        ]

    def tokens(self, texts: Sequence[str | None], *, is_made: bool = True) -> list[str | None]:
        """The token of each text; None where there is no key yet and none is made."""
        if not is_made and not any(key.purpose == _TOKENS for key in self._keys()):
            return [None for _ in texts]
        key = self._key_for(_TOKENS)
        cipher = self._cipher(key)
        known = {
            text: text and _written(key, cipher.seal(text.encode())) for text in {*texts} - {None}
        }
        return [text and known[text] for text in texts]

    def open(self, sealed: Sequence[str | None]) -> list[str | None]:
        """The texts of sealed values and tokens.

        Raises:
            Untrusted: A value was altered, or its key is not there.
        """
        by_id = {key.id: key for key in self._keys()} if any(sealed) else {}
        ciphers: dict[str, _Cipher] = {}
        return [value and self._text(value, by_id, ciphers) for value in sealed]

    def _text(self, value: str, keys: Mapping[str, DataKey], ciphers: dict[str, _Cipher]) -> str:
        from cryptography.exceptions import InvalidTag

        key_id, _, text = value.partition(".")
        if key_id not in keys:
            raise Untrusted(
                f"{self._file} has no key {key_id[:16]}",
                hint="hosts that share a ledger need the same file",
            )
        if key_id not in ciphers:
            ciphers[key_id] = self._cipher(keys[key_id])
        try:
            return ciphers[key_id].open(base64.urlsafe_b64decode(text)).decode()
        except (InvalidTag, ValueError):
            raise Untrusted(
                f"a value sealed with key {key_id[:16]} was altered",
                hint="restore the ledger from a backup",
            ) from None

    def _cipher(self, key: DataKey) -> _Cipher:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

        about = key.id.encode()
        if key.purpose == _TOKENS:
            siv = AESSIV(self._opened(key))
            return _Cipher(
                lambda data: siv.encrypt(data, [about]), lambda data: siv.decrypt(data, [about])
            )
        gcm = AESGCM(self._opened(key))

        def seal(data: bytes) -> bytes:
            nonce = secrets.token_bytes(_NONCE_BYTES)
            return nonce + gcm.encrypt(nonce, data, about)

        return _Cipher(
            seal, lambda data: gcm.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], about)
        )

    def _opened(self, key: DataKey) -> bytes:
        if key.id not in self._plain:
            self._plain[key.id] = master_of(self._home, key.master).unwrap(key.wrapped)
        return self._plain[key.id]

    def _key_for(self, purpose: str) -> DataKey:
        """The key of a purpose; made where there is none."""
        with self._alone():
            keys = self._keys()
            for key in keys:
                if key.purpose == purpose:
                    return key
            plain = secrets.token_bytes(64 if purpose == _TOKENS else 32)
            note = self._home / MASTER_NOTE
            master = note.read_text() if note.exists() else "file"
            wrapped = master_of(self._home, master).wrap(plain)
            key = DataKey(id=secrets.token_hex(6), purpose=purpose, master=master, wrapped=wrapped)
            self._keep([*keys, key])
            self._plain[key.id] = plain
            return key

    def _keys(self) -> list[DataKey]:
        if not self._file.exists():
            return []
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=list[DataKey])
        except msgspec.MsgspecError as problem:
            raise Untrusted(
                f"{self._file} has no keys: {problem}", hint="put it back from a backup"
            ) from None

    def _keep(self, keys: Sequence[DataKey]) -> None:
        write_secret(self._file, msgspec.json.encode(keys))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._home / f".{KEYS_FILE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def note_master(home: Path, address: str) -> None:
    """Have every process that seals values in a home wrap its keys there. Raises `Invalid`."""
    master_of(home, address)
    file = home / MASTER_NOTE
    if address != (file.read_text() if file.exists() else "file"):
        home.mkdir(parents=True, exist_ok=True)
        write_secret(file, address.encode())


def _written(key: DataKey, data: bytes) -> str:
    return f"{key.id}.{base64.urlsafe_b64encode(data).decode()}"


def veiled(_name: str, values: Sequence[object]) -> list[str | None]:
    """In place of values that no scribe has sealed yet."""
    return [None if value is None else PRIVATE for value in values]
