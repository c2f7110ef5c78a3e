"""Keeps what took long to compute; the oldest makes room for the newest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

_MAX_KEPT = 128


class Kept:
    """A small mapping that several threads use."""

    def __init__(self, most: int = _MAX_KEPT) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value; None if it is not kept, or no longer."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> Any:
        """Keep a value, and return it."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value
