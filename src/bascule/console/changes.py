"""Tells open pages that the catalogue has changed, by server-sent events (HTML standard, 9.2).

One thread watches the catalogue while a page is open, however many pages are. An event says only
that something has changed: the page asks again for what it shows, with the rights of its session.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from anyio import to_thread

from bascule.core import BasculeError

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue

MAX_STREAMS = 32
"""Each holds a connection of the control API, which has 128."""
LEAST_S = 5.0
"""Between two events of a stream: a rollout changes the catalogue twice a second."""
_LOOK_S = 0.5
_QUIET_S = 15.0
_LASTS_S = 600.0
"""Then the browser connects again."""
_CHECK_S = 0.75
"""Between two looks at whether the session of a stream still holds."""


class Changes:
    """See the module. Streams run on the event loop, and the watch on a thread."""

    def __init__(self, open_catalogue: Callable[[], Catalogue] | None) -> None:
        self._open_catalogue = open_catalogue
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._streams = 0
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    @property
    def has_room(self) -> bool:
        """Whether one more stream may open."""
        return self._streams < MAX_STREAMS and self._open_catalogue is not None

    def end(self) -> None:
        """Have all streams end, so that the process can."""
        self._ended.set()

    async def stream(
        self, seen: str, holds: Callable[[], bool], *, least_s: float = LEAST_S
    ) -> AsyncIterator[str]:
        """The events of one page.

        Args:
            seen: The id of the last event that the page has; empty for a page that is new.
            holds: Whether the session still holds; asked on a thread.
            least_s: Between two events.
        """
        self._streams += 1
        try:
            self._watch()
            began_s = said_s = checked_s = time.monotonic()
            told_s, seen = 0.0, seen or self._id
            yield f"retry: 2000\nid: {seen}\n\n"
            while not self._ended.is_set() and time.monotonic() - began_s < _LASTS_S:
                now_s, newest = time.monotonic(), self._id
                if now_s - checked_s >= _CHECK_S:
                    checked_s = now_s
                    if not await to_thread.run_sync(holds):
                        return
                if newest != seen and now_s - told_s >= least_s:
                    seen, told_s = newest, now_s
                    yield f"id: {seen}\nevent: changed\ndata:\n\n"
                    said_s = now_s
                elif now_s - said_s >= _QUIET_S:
                    yield ":\n\n"  # a proxy between keeps the connection
                    said_s = now_s
                await asyncio.sleep(_LOOK_S / 2)
        finally:
            self._streams -= 1

    @property
    def _id(self) -> str:
        return f"{self._epoch}-{self._number}"

    def _watch(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._run, name="bascule-console-changes", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        assert self._open_catalogue is not None
        while self._streams and not self._ended.is_set():
            with suppress(BasculeError), self._open_catalogue().watch() as watch:
                watch.wait(0.0)  # the first call only tells that there is a catalogue
                while self._streams and not self._ended.is_set():
                    if watch.wait(_LOOK_S):
                        self._number += 1
            self._ended.wait(_LOOK_S)
