"""What callers of one worker want to have changed in all of them: it is put to the supervisor.

The supervisor alone knows all workers, so a worker that is asked to load a model asks in its turn,
by the pipe on which it reports, and answers its caller when it is told what became of that (see
`channel`). A wish is settled once, and only so many wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from bascule.core import BasculeError, Overloaded

MAX_WAITING = 64
"""Changes are made one by one, and each may take as long as it takes to load a model."""

Settle = Callable[[BasculeError | None], None]
"""Takes what kept a wish from being granted; None where it was, in every worker."""


class LoadRequests:
    """The wishes of one worker that are not settled yet. On the event loop only."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Settle] = {}

    def load(self, name: str, place: str, settle: Settle) -> None:
        """Have the bundle in a folder served under a name that is not served yet."""
        self._put({"load": name, "place": place}, settle)

    def unload(self, name: str, settle: Settle) -> None:
        """Have a model served no more; what it has under way is answered."""
        self._put({"unload": name}, settle)

    def settle(self, number: int, problem: BasculeError | None) -> None:
        """Tell whoever waits under a number."""
        self._waiting.pop(number)(problem)

    def _put(self, wish: dict[str, Any], settle: Settle) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(
                f"{MAX_WAITING} changes wait already, as many as may",
                hint="retry later",
                retry_after_s=1,
            )
        number = next(self._numbers)
        self._waiting[number] = settle
        self._report({"wish": number, **wish})
