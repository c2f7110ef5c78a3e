"""Keys of callers, without a catalogue."""

import dataclasses
from datetime import datetime

from bascule.security.keys import Key


class InMemory:
    """A store of keys."""

    def __init__(self) -> None:
        self.kept: list[Key] = []

    def stored(self) -> list[Key]:
        return list(self.kept)

    def add(self, key: Key) -> None:
        self.kept.append(key)

    def revoke(self, key_id: str, *, at: datetime, by: str) -> None:
        self.kept = [
            dataclasses.replace(key, revoked_at=at, revoked_by=by)
            if key.id == key_id and key.revoked_at is None
            else key
            for key in self.kept
        ]
