"""The keys of callers, kept in the registry's catalogue: one folder, or one database, holds all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bascule.core import NotFound
from bascule.registry.stores import Catalogue
from bascule.security import Key


class CatalogueKeys:
    """See `security.keys.KeyStore`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def stored(self) -> Sequence[Key]:
        try:
            with self._catalogue.read() as catalogue:
                return catalogue.keys()
        except NotFound:
            return []  # nothing was ever written, so no key was made

    def add(self, key: Key) -> None:
        self._catalogue.create()
        with self._catalogue.write() as catalogue:
            catalogue.add_key(key)

    def revoke(self, key_id: str, *, at: datetime, by: str) -> None:
        with self._catalogue.write() as catalogue:
            catalogue.end_key(key_id, at=at, by=by)
