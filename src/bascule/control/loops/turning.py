"""What a control process does beside its requests, on a thread that no failure ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bascule.core import NotFound, masked_text

log = logging.getLogger(__name__)


@contextmanager
def turning(
    what: str, run: Callable[[threading.Event], None], *, after: threading.Event, pause_s: float
) -> Iterator[None]:
    """Call `run` on a thread while the block runs, and again after each failure.

    Args:
        what: The name of the work, for the log.
        run: Works until the event is set that it is given.
        after: Set once the work delays nothing else.
        pause_s: Between a failure and the next call.
    """
    ended = threading.Event()

    def again() -> None:
        after.wait()
        told = ""
        while not ended.is_set():
            try:
                run(ended)
            except Exception as error:
                # Any failure may be temporary, and the thread must go on.
                said = masked_text(str(error))
                if said != told and not isinstance(error, NotFound):
                    log.warning("%s wait: %s", what, said)
                told = said
            ended.wait(pause_s)

    threading.Thread(target=again, name=f"bascule-runs-{what}", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
