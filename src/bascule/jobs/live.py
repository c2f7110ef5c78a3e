"""What the code of a kind tells while it runs, and hears."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol


class Live(Protocol):
    """What the code of a kind tells while it runs."""

    def begin(self, subject: str, facts: Mapping[str, Any]) -> None:
        """What the job is about; raises `Conflict` where another one is about the same."""

    def tell(self, progress: Mapping[str, Any]) -> None:
        """How far it is: `done` and `of` are counts, the rest is the kind's own."""

    @property
    def stopped(self) -> str:
        """Why it must stop; empty while it may go on."""


class Unrecorded:
    """Work that is no job in a catalogue."""

    stopped = ""

    def begin(self, subject: str, facts: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Nothing is kept."""


@contextmanager
def noting(logger: str, note: Callable[[str], None]) -> Iterator[None]:
    """Have what a logger says at INFO noted in the block."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(self.format(record))

    handler, room = Notes(), logging.getLogger(logger)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = room.level
    room.addHandler(handler)
    room.setLevel(logging.INFO)
    try:
        yield
    finally:
        room.removeHandler(handler)
        room.setLevel(level)
