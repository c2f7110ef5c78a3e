"""The form of the log, in lines for people or for programs.

A line for programs is one JSON object: `time` (UTC), `level`, `event`, `worker` where one wrote it,
and what else is known. No line holds what callers sent: of a request it has an id, names and
numbers. What exceptions say may quote rows, so a worker writes their types and places alone, unless
`serving.log_exception_texts` is set.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from bascule.core import masked_text, printable, write_without_waiting

Form = Literal["text", "json"]

_TRACEBACK = "Traceback (most recent call last):\n"

Fields = Mapping[str, object]
"""What a line tells beside its time, level and event. What is None or empty is left out."""


def line(form: Form, at_s: float, level: int, event: str, fields: Fields) -> str:
    """One line, without its end.

    Args:
        form: For people or for programs.
        at_s: Seconds since 1970.
        level: Of `logging`.
        event: What happened.
        fields: What is known of it, safe to be written.
    """
    told = {name: value for name, value in fields.items() if value not in (None, "")}
    if form == "json":
        at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
        said = {"time": at.replace("+00:00", "Z"), "level": _level(level).lower(), "event": event}
        return json.dumps(said | told)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
    words = "".join(f" {name}={value}" for name, value in told.items())
    text = printable(f"{event}{words}").replace("\n", "\n  ")  # looks like no line of its own
    return f"{at},{int(at_s % 1 * 1e3):03d} {_level(level)} {text}"


def _level(level: int) -> str:
    return logging.getLevelName(level)


class _Formatter(logging.Formatter):
    """Writes what libraries and Bascule log in the same form."""

    def __init__(self, form: Form, worker: int | None, *, exception_texts: bool) -> None:
        super().__init__()
        self._form = form
        self._worker = worker
        self._exception_texts = exception_texts

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- the name in `logging`
        problem = ei[1]
        if self._exception_texts or problem is None:
            return super().formatException(ei)
        told = []
        while problem is not None:
            # What the operating system says holds no rows; what code says of a value may.
            said = f": {problem.strerror}" if isinstance(problem, OSError) else ""
            frames = "".join(traceback.format_tb(problem.__traceback__))
            told.append(f"{_TRACEBACK}{frames}{type(problem).__qualname__}{said}")
            hidden = problem.__suppress_context__
            problem = problem.__cause__ or (None if hidden else problem.__context__)
        return "\n\n".join(reversed(told))

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {}
        trace = ""
        if record.exc_info:
            trace = self.formatException(record.exc_info)
        if self._form == "json":
            fields = {"worker": self._worker, "logger": record.name, "exception": trace}
        made = line(self._form, record.created, record.levelno, record.getMessage(), fields)
        return masked_text(
            f"{made}\n{printable(trace)}" if trace and self._form == "text" else made
        )


class _Handler(logging.StreamHandler[Any]):
    """Writes lines without waiting, where standard error could make a writer wait."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream is not sys.stderr or not write_without_waiting(
            f"{self.format(record)}\n".encode(errors="backslashreplace")
        ):
            super().emit(record)


def start_logging(
    form: Form,
    *,
    worker: int | None = None,
    level: int = logging.INFO,
    exception_texts: bool = True,
) -> None:
    """Write the log of this process to standard error, in that form, from now on.

    Args:
        form: For people or for programs.
        worker: The worker's number, of a worker.
        level: What is below it is not written.
        exception_texts: Whether the lines have what exceptions say, or only their types and places.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter(form, worker, exception_texts=exception_texts))
    logging.basicConfig(level=level, handlers=[handler], force=True)
