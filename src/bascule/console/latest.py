"""The latest value of what is slow to read: pages show it, and a thread renews it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from bascule.core import BasculeError

Value = TypeVar("Value")
_EVERY_S = 30.0
_PATIENCE_S = 1.0


class Latest(Generic[Value]):
    """A value that is read at most every 30 s, by one thread, and only while it is asked for."""

    def __init__(
        self, read: Callable[[], Value], *, every_s: float = _EVERY_S,
        patience_s: float = _PATIENCE_S,
    ) -> None:  # fmt: skip
        """Reads nothing yet.

        Args:
            read: May raise `BasculeError`: the value before stays.
            every_s: Between two readings.
            patience_s: How long `get` waits for a reading; then it gives the value before.
        """
        self._read, self._every_s, self._patience_s = read, every_s, patience_s
        self._value: Value | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._read_s = float("-inf")

    def get(self) -> Value | None:
        """The value; None before it could be read."""
        with self._lock:
            thread = self._thread
            is_old = time.monotonic() - self._read_s > self._every_s
            if is_old and (thread is None or not thread.is_alive()):
                thread = threading.Thread(target=self._renew, name="bascule-latest", daemon=True)
                self._thread = thread
                thread.start()
        if thread is not None:
            thread.join(self._patience_s)
        return self._value

    def _renew(self) -> None:
        with suppress(BasculeError):
            self._value = self._read()
        self._read_s = time.monotonic()
