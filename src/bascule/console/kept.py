"""Keeps what took long to compute; the oldest makes room for the newest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

_MAX_KEPT = 128


class Kept:
    """A small mapping that several threads use. One value is computed at a time."""

    def __init__(self, most: int = _MAX_KEPT) -> None:
        self._most = most
        self._values: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value that is kept, or a new one, which is not None."""
        found = self._values.get(key)
        if found is None:
            with self._lock:
                found = self._values.get(key)
                if found is None:
                    found = self._values[key] = make()
                    while len(self._values) > self._most:
                        self._values.pop(next(iter(self._values)))
        return found
