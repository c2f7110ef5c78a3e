"""Waiting for what is to come, at little cost for the processes that are to bring it about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    """What the condition gives once that is true; looks a quarter of the time at most.

    A look that runs a command takes a third of a second: without pauses of that order the test
    would take the processor from the server that it waits for.
    """
    give_up = time.monotonic() + within_s
    while True:
        before = time.monotonic()
        if met := condition():
            return met
        now = time.monotonic()
        assert now < give_up, "it did not come to be"
        time.sleep(max(0.005, min(3 * (now - before), give_up - now)))
