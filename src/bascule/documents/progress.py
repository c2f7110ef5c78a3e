"""One line for people while work takes long, for a caller who passes no `progress`."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

QUIET_S = 2.0
"""What takes less shows nothing."""


@contextmanager
def progress_line(what: str, stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """A `progress` that draws one line on a terminal or in a notebook once work takes `QUIET_S`.

    Args:
        what: What takes long, in a word: `pack`.
        stream: Where it draws; None is standard error, or standard output in a notebook, which
            shows standard error as a failure. Nothing is drawn on a pipe or into a file.

    At its end a terminal is clear again, and a notebook, which keeps its outputs, says how long the
    work took.
    """
    stream = _default_stream() if stream is None else stream
    is_notebook = stream is not None and _is_of_notebook(stream)
    if stream is None or not (is_notebook or stream.isatty()):
        yield lambda _: None
        return
    line = _Line(what, stream, is_notebook=is_notebook)
    try:
        yield line
    finally:
        line.close()


def _default_stream() -> TextIO | None:
    return sys.stdout if sys.stdout is not None and _is_of_notebook(sys.stdout) else sys.stderr


def _is_of_notebook(stream: TextIO) -> bool:
    """Whether a Jupyter kernel shows it: the kernel's own streams are no terminals."""
    return type(stream).__module__ == "ipykernel.iostream"


class _Line:
    def __init__(self, what: str, stream: TextIO, *, is_notebook: bool) -> None:
        self._what, self._stream, self._is_notebook = what, stream, is_notebook
        self._text = "starts"
        self._is_shown = self._is_closed = False
        self._lock = threading.Lock()
        self._began_s = time.monotonic()
        self._timer = threading.Timer(QUIET_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, stage: str) -> None:
        """A stage is done, or one that has no parts begins."""
        self._draw(stage)

    def step(self, what: str, done: int, of: int) -> None:
        """`done` of `of` parts of the stage under way are done."""
        self._draw(f"{what} ({done} of {of})")

    def close(self) -> None:
        self._timer.cancel()
        took_s = time.monotonic() - self._began_s
        with self._lock:
            self._is_closed = True
            if self._is_shown:
                self._write(f"{self._what} took {took_s:.0f} s\n" if self._is_notebook else "")

    def _show(self) -> None:
        self._is_shown = True
        self._draw(self._text)

    def _draw(self, text: str) -> None:
        with self._lock:
            self._text = text
            if self._is_shown and not self._is_closed:
                self._write(f"{self._what}: {text}")

    def _write(self, text: str) -> None:
        """Put `text` in the place of the line; notebooks know no sequence that clears it."""
        room = shutil.get_terminal_size().columns - 1
        clear = "\r" + " " * room + "\r" if self._is_notebook else "\r\x1b[K"
        self._stream.write(clear + text[:room])
        self._stream.flush()
