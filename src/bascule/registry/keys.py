"""The keys of callers, kept in the registry's catalogue: one folder, or one database, holds all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bascule.core import NotFound
from bascule.registry.stores import Records
from bascule.security import Key


class CatalogueKeys:
    """See `security.keys.KeyStore`."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def stored(self) -> Sequence[Key]:
        try:
            with self._records.read() as book:
                return book.keys()
        except NotFound:
            return []  # nothing was ever written, so no key was made

    def add(self, key: Key) -> None:
        self._records.create()
        with self._records.write() as book:
            book.add_key(key)

    def revoke(self, key_id: str, *, at: datetime, by: str) -> None:
        with self._records.write() as book:
            book.end_key(key_id, at=at, by=by)
