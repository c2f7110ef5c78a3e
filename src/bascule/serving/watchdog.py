"""Looks from beside the event loop whether it turns, and ends a run of a model that holds it up.

Only runs of microseconds to milliseconds are made on the loop, as measured with the example rows.
Rows of a caller may take longer, without end where a graph loops as often as a row says. Nothing
else is answered meanwhile, so such a run is ended where its program can be interrupted, and its
model runs on its own thread from then on. Otherwise the supervisor kills the worker.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

from bascule.serving.engine import Engine

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_STANDS_STILL_S = 2.5
"""More than twice the time between two beats of the loop."""


class Watchdog:
    """The thread that looks. It ends with the process."""

    def __init__(self, last_beat_ns: Callable[[], int]) -> None:
        """Start it. On the thread of the event loop.

        Args:
            last_beat_ns: When the loop last turned, by the monotonic clock.
        """
        self._last_beat_ns = last_beat_ns
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="bascule-watchdog", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic_ns() - self._last_beat_ns() > _STANDS_STILL_S * 1e9:
                engine = self._running()
                if engine is not None:
                    log.error("%s holds up the event loop; its run is ended", engine.name)
                    engine.interrupt_inline()

    def _running(self) -> Engine | None:
        """Whose run the loop is in. Read from its stack, so that runs need not say so."""
        frame = sys._current_frames().get(self._loop_thread)
        while frame is not None:
            if frame.f_code is Engine.run_inline.__code__:
                engine = frame.f_locals["self"]
                return engine if isinstance(engine, Engine) else None
            frame = frame.f_back
        return None
