"""Requests to load or unload a model, which a worker passes on to the supervisor.

A change applies to all workers, and only the supervisor knows all of them. So a worker sends the
request by the socket to it, and answers its caller when the supervisor replies (see
`workers.worker`). Each request is settled once, and at most `MAX_WAITING` wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from bascule.core import BasculeError, Overloaded

MAX_WAITING = 64
"""Changes are made one by one, and each may take as long as loading a model."""

Settle = Callable[[BasculeError | None], None]
"""Takes why a request failed; None if it was carried out in every worker."""


class LoadRequests:
    """The load requests of one worker that are not settled yet. On the event loop only."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Settle] = {}

    def load(self, name: str, place: str, settle: Settle) -> None:
        """Serve the bundle in the folder `place` as `name`, which is not served yet."""
        self._put({"what": "load", "model": name, "place": place}, settle)

    def unload(self, name: str, settle: Settle) -> None:
        """Stop serving a model; its current calls are answered."""
        self._put({"what": "unload", "model": name}, settle)

    def settle(self, number: int, problem: BasculeError | None) -> None:
        """Answer the caller whose request has this number."""
        self._waiting.pop(number)(problem)

    def _put(self, request: dict[str, Any], settle: Settle) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(
                f"{MAX_WAITING} changes of models wait already, the limit",
                hint="retry later",
                retry_after_s=1,
            )
        number = next(self._numbers)
        self._waiting[number] = settle
        self._report({"ask": number, **request})
