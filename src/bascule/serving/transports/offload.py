"""One thread for what would hold up the event loop: the reading of large and of compressed bodies.

The work of one request at a time, oldest first: so the memory that decoding takes is that of one
body, and what waits is counted as held (`BufferBudget`). Python gives the interpreter to the loop
between two steps of it; a step that is one call of a library keeps it, so what such a call may be
given is bounded (`json_values.MAX_VALUES`).
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar, cast

from bascule.serving.execution import (
    BESIDE_CALL_BYTES,
    BufferBudget,
    Waiting,
    switching_within,
)

FROM_BYTES = 1 << 20
"""Numbers of JSON are read on the loop below it, in a few milliseconds."""
ROWS_FROM_BYTES = 64 << 10
"""Other forms become Python objects, at a tenth of the speed; and what is compressed may become a
thousand times as much."""

_SWITCH_S = 1e-3
_switching = switching_within(_SWITCH_S)  # from the first body on, for good
_thread = ThreadPoolExecutor(1, "bascule-aside", _switching.__enter__)
_Made = TypeVar("_Made")


class Offloaded(Waiting, Protocol):
    """A request whose body is read on the thread."""

    def run(self, go_on: Callable[[], None]) -> None:
        """Go on with it, and answer it with what that raises."""


def run(
    request: Offloaded,
    held: BufferBudget,
    make: Callable[[], _Made],
    go_on: Callable[[_Made, float], None],
    allowed_s: float,
) -> None:
    """Call `make` on the thread, then `go_on` on the loop, unless it is answered or late by then.

    Args:
        request: For which it is done.
        held: Where its body is counted until then.
        make: Must not use what the loop uses.
        go_on: Takes what was made, and how long its caller still waits.
        allowed_s: How long its caller waits.

    Raises:
        Overloaded: It would be more than may be held.
    """
    size_bytes = BESIDE_CALL_BYTES + len(request.body)
    held.check_room(size_bytes, "a thread")
    held.bytes += size_bytes
    loop = asyncio.get_running_loop()
    until_s = time.monotonic() + allowed_s

    def work() -> _Made | None:
        if request.answered or time.monotonic() > until_s:
            return None
        # What is made here has no rings, and to look for them takes longer than to make it.
        gc.disable()
        try:
            return make()
        finally:
            gc.enable()

    def done(future: Future[_Made | None]) -> None:
        held.bytes -= size_bytes
        left_s = until_s - time.monotonic()
        request.waited_s += allowed_s - left_s
        if request.answered:
            return
        if left_s < 0:
            request.fail_late()
        else:
            request.run(lambda: go_on(cast(_Made, future.result()), left_s))

    def back(future: Future[_Made | None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(done, future)

    _thread.submit(work).add_done_callback(back)
