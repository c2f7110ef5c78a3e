"""Keyed hashes in place of private values: equal values stay equal. And draws by an id.

The key is in the home, and in no segment. Without it, a list of likely values finds nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b, sha256
from pathlib import Path

KEY_FILE = "private.key"
_KEY_BYTES, _HASH_BYTES = 32, 16
DRAW_DIGITS, DRAW_BITS = 13, 52
"""Of the SHA-256 of an id, in hexadecimal; see `outcome_draw`."""


def hash_key(home: Path) -> bytes:
    """The key of a home; made where there is none. Raises `OSError`.

    Hosts that share a ledger need the same file, or their hashes differ.
    """
    file = home / KEY_FILE
    if not file.exists():
        draft = home / f".{KEY_FILE}-{secrets.token_hex(4)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_BYTES))
            opened.flush()
            os.fsync(opened.fileno())
        with suppress(FileExistsError):  # of workers that start together, the first one's counts
            os.link(draft, file)
        draft.unlink()
    key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{file} has {len(key)} bytes, and a key has {_KEY_BYTES}")
    return key


def hashed(values: Iterable[object], key: bytes) -> list[str | None]:
    """The hash of each value's text; None for what is missing."""
    return [
        None
        if value is None or value != value
        else blake2b(
            str(value).encode("utf-8", "replace"), digest_size=_HASH_BYTES, key=key
        ).hexdigest()
        for value in values
    ]


def outcome_draw(prediction_id: str) -> float:
    """A number from 0 to below 1 that depends on the id alone, as `outcome_draw` of SQL has it.

    The ids below a rollout's `outcomes_sample` are those whose outcomes it waits for: the first
    52 bits of the SHA-256 of the id.
    """
    digits = sha256(prediction_id.encode()).hexdigest()[:DRAW_DIGITS]
    return int(digits, 16) / 2.0**DRAW_BITS
