"""How soon a thread lets the event loop go on, in seconds: the shortest of what is asked for.

`sys.setswitchinterval` is of the whole process. A part that restores what it found there takes
away what another has set meanwhile, for good.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_changing = threading.Lock()
_intervals_s: list[float] = []
_usual_s = 0.0


@contextmanager
def switching_within(interval_s: float) -> Iterator[None]:
    """Have threads switch at least so often while the block runs."""
    global _usual_s
    with _changing:
        if not _intervals_s:
            _usual_s = sys.getswitchinterval()
        _intervals_s.append(interval_s)
        sys.setswitchinterval(min(_intervals_s))
    try:
        yield
    finally:
        with _changing:
            _intervals_s.remove(interval_s)
            sys.setswitchinterval(min(_intervals_s, default=_usual_s))
