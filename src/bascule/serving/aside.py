"""One thread for what would hold up the event loop: the reading of large and of compressed bodies.

The work of one request at a time, oldest first: so the memory that decoding takes is that of one
body, and what waits is counted as held (`backlog.Held`). Python gives the interpreter to the loop
between two steps of it; a step that is one call of a library keeps it, so what such a call may be
given is bounded (`json_values.MAX_VALUES`).
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from bascule.serving.backlog import Held

FROM_BYTES = 1 << 20
"""Numbers of JSON are read on the loop below it, in a few milliseconds."""
ROWS_FROM_BYTES = 64 << 10
"""Other forms become Python objects, at a tenth of the speed; and what is compressed may become a
thousand times as much."""

_SWITCH_S = 1e-3
_Made = TypeVar("_Made")


class Requester(Protocol):
    """A request as it is seen here.

    Attributes:
        answered: It has its answer, or its client has gone.
        waited_s: How long it was here, added to how long it had waited before.
    """

    answered: bool
    waited_s: float

    def fail_late(self) -> None:
        """Answer that it has waited here until its deadline."""


_thread = ThreadPoolExecutor(1, "bascule-aside", partial(sys.setswitchinterval, _SWITCH_S))


def run(
    request: Requester,
    held: Held,
    size_bytes: int,
    make: Callable[[], _Made],
    go_on: Callable[[Future[_Made], float], None],
    allowed_s: float,
) -> None:
    """Call `make` on the thread, then `go_on` with what became of it on the event loop.

    Neither is called for a request that was answered meanwhile, or is late.

    Args:
        request: For which it is done.
        held: Where it is counted until then.
        size_bytes: What is kept of it until then.
        make: Must not use what the loop uses.
        go_on: Takes what was made, or raised, and how long its caller still waits.
        allowed_s: How long its caller waits.

    Raises:
        Overloaded: It would be more than may be held.
    """
    held.check_room(size_bytes, "a thread")
    held.bytes += size_bytes
    loop = asyncio.get_running_loop()
    since_s = time.monotonic()

    def work() -> _Made:
        if request.answered or time.monotonic() - since_s > allowed_s:
            raise _NotMade
        # What is made here has no rings, and to look for them takes longer than to make it.
        gc.disable()
        try:
            return make()
        finally:
            gc.enable()

    def done(future: Future[_Made]) -> None:
        held.bytes -= size_bytes
        if request.answered:
            return
        here_s = time.monotonic() - since_s
        request.waited_s += here_s
        if here_s > allowed_s:
            request.fail_late()
        else:
            go_on(future, allowed_s - here_s)

    def tell(future: Future[_Made]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(done, future)

    _thread.submit(work).add_done_callback(tell)


class _NotMade(Exception):
    """The request was answered, or late, before its turn came."""
