"""One line on the terminal while `pack` takes long, for a caller who passes no `progress`."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

QUIET_S = 2.0
"""What takes less shows nothing."""
_CLEAR = "\r\x1b[K"


@contextmanager
def progress_line(stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """A `progress` for `pack` that draws on a terminal, and clears its line at the end.

    Args:
        stream: Where it draws; standard error if None. Nothing is drawn unless it is a terminal.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None or not stream.isatty():
        yield lambda _: None
        return
    line = _Line(stream)
    try:
        yield line
    finally:
        line.close()


class _Line:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = "starts"
        self._is_shown = self._is_closed = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(QUIET_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, stage: str) -> None:
        """A stage is done."""
        self._draw(stage)

    def step(self, what: str, done: int, of: int) -> None:
        """`done` of `of` parts of the stage under way are done."""
        self._draw(f"{what} ({done} of {of})")

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_closed = True
            if self._is_shown:
                self._stream.write(_CLEAR)
                self._stream.flush()

    def _show(self) -> None:
        self._is_shown = True
        self._draw(self._text)

    def _draw(self, text: str) -> None:
        with self._lock:
            self._text = text
            if self._is_shown and not self._is_closed:
                room = shutil.get_terminal_size().columns - 1
                self._stream.write(_CLEAR + f"pack: {text}"[:room])
                self._stream.flush()
