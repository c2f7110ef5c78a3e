"""Looks from beside the event loop at what it runs, and ends a run of a model that holds it up.

Runs on the loop take microseconds to milliseconds, as measured with the example rows. The rows of a
caller may take longer, without end where a graph loops as often as a row says. Such a run is ended,
and its model runs on its own thread from then on. Where its program cannot be interrupted, the
supervisor kills the worker.
"""

from __future__ import annotations

import logging
import sys
import threading
import time

from bascule.serving.execution.engine import Engine

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.02
_MAX_RUN_CPU_S = 0.02
"""Of processor time: a run that waits for its turn on a busy machine is not too long."""


def watch_loop() -> None:
    """Start the thread that looks, which ends with the process. On the thread of the event loop."""
    loop = threading.get_ident()
    threading.Thread(target=_watch, args=(loop,), name="bascule-watchdog", daemon=True).start()


def _watch(loop: int) -> None:
    clock = time.pthread_getcpuclockid(loop)
    seen, cpu_s = None, 0.0
    while True:
        time.sleep(_LOOK_EVERY_S)
        run = _run_of(loop)
        now_s = time.clock_gettime(clock)
        if run is None or run != seen:
            seen, cpu_s = run, now_s
        elif now_s - cpu_s > _MAX_RUN_CPU_S:
            engine, _ = run
            log.error(
                "%s holds up the event loop, and runs on its thread from now on", engine.by.name
            )
            engine.interrupt_inline()


def _run_of(loop: int) -> tuple[Engine, float] | None:
    """Whose run the loop is in, and since when. Its stack says so: runs need not."""
    frame = sys._current_frames().get(loop)
    while frame is not None:
        if frame.f_code is Engine.run_inline.__code__:
            found = frame.f_locals
            return found["self"], found.get("started_s", 0.0)
        frame = frame.f_back
    return None
