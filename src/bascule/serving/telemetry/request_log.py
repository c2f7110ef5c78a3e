"""Tells of requests after they were answered: lines of the log, and spans of traces.

The event loop leaves a note and goes on; a thread makes lines and spans of notes. A failed request
is always told, the others where an access log is asked for. What is told is who asked for what and
what became of it, never what was sent.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bascule.serving.telemetry import logs
from bascule.serving.telemetry.counters import MetricLabels
from bascule.serving.telemetry.trace_context import TraceContext, read_context

log = logging.getLogger(__name__)

FAILED_FROM = 500
"""Answers with this status and above are told in any case."""
_NO_FAILURES = frozenset((501, 505))
"""What no HTTP/1.1 client sends: nothing failed here, and nobody may fill the log so."""
NEVER = 1_000
"""A status that no answer reaches."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_MAX_WAITING = 20_000
_GATHER_S = 0.05
_LONGEST_WRITE_BYTES = 4096
"""Pipes keep writes of up to so many bytes together, and all workers write to the same one."""
_LAST_S = 2.0


def request_id_of(said: bytes) -> bytes:
    """A caller's id of a request, if it can stand in a header and a log; else none."""
    return said if _REQUEST_ID.fullmatch(said) else b""


@dataclass(frozen=True, slots=True)
class RequestLogConfig:
    """What is told, and how.

    Attributes:
        form: The log's: "text" or "json".
        access_log: Whether to tell of every request.
        trace_endpoint: The address that takes spans (OTLP over HTTP); empty for none.
        exception_texts: Whether the log of workers has what exceptions say, which may quote rows.
    """

    form: logs.Form = "text"
    access_log: bool = False
    trace_endpoint: str = ""
    exception_texts: bool = False


FAILURES_ALONE = RequestLogConfig()


class LogRecord(NamedTuple):
    """One request that was answered.

    Attributes:
        at_s: When, in seconds since 1970.
        status: Of the answer, or its HTTP equivalent.
        duration_ns: From its last byte to its answer.
        rows: Rows answered.
        label: The version that was asked; empty for what is no inference.
        request_id: The caller's or ours; empty for none.
        kind: Of the error; empty for none.
        traceparent: The header.
        tracestate: The header.
        reason: Why the model failed, without what its exception said; empty for none.
    """

    at_s: float
    status: int
    duration_ns: int
    rows: int
    label: MetricLabels
    request_id: bytes = b""
    kind: str = ""
    traceparent: bytes = b""
    tracestate: bytes = b""
    reason: str = ""


class Spans(Protocol):
    """Where spans go."""

    def add(self, note: LogRecord, context: TraceContext) -> None:
        """Take the span of a request; sent later, and lost if nobody takes it."""

    def close(self) -> None:
        """Send what is left, for a moment at most."""


def write_to_stderr(data: bytes) -> None:
    """Whole lines, however long a reader of the log takes."""
    while data:
        data = data[os.write(2, data) :]


class RequestLog:
    """Takes notes on the event loop, and tells them on a thread.

    Attributes:
        least_status: Notes of answers with less are not wanted.
    """

    def __init__(
        self,
        config: RequestLogConfig,
        worker: int,
        spans: Spans | None = None,
        write: Callable[[bytes], None] = write_to_stderr,
    ) -> None:
        self.least_status = 0 if config.access_log or spans is not None else FAILED_FROM
        self._config = config
        self._worker = worker
        self._spans = spans
        self._write = write
        self._notes: deque[LogRecord] = deque()
        self._lost = 0
        self._has_notes = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="bascule-journal", daemon=True)
        self._thread.start()

    def add(
        self,
        status: int,
        duration_ns: int,
        rows: int,
        label: MetricLabels,
        request_id: bytes,
        kind: str,
        traceparent: bytes,
        tracestate: bytes,
        reason: str = "",
    ) -> None:
        """Note a request; see `LogRecord`. A reader of the log that is too slow loses records."""
        if not traceparent and status < FAILED_FROM and not self._config.access_log:
            return
        if len(self._notes) >= _MAX_WAITING:
            self._lost += 1
            return
        self._notes.append(
            LogRecord(
                time.time(), status, duration_ns, rows, label, request_id, kind,
                traceparent, tracestate, reason,
            )
        )  # fmt: skip
        if not self._has_notes.is_set():
            self._has_notes.set()

    def close(self) -> None:
        """Tell what was noted. Nothing may be noted any more."""
        self._closing.set()
        self._has_notes.set()
        self._thread.join(_LAST_S)
        if self._spans is not None:
            self._spans.close()

    def _tell(self) -> None:
        while not self._closing.is_set():
            self._has_notes.wait()
            # One turn for many: waking up for each would take the loop's time after all.
            self._closing.wait(_GATHER_S)
            self._has_notes.clear()
            try:
                self._tell_notes()
            except Exception:
                log.exception("requests could not be told")
        self._tell_notes()

    def _tell_notes(self) -> None:
        out = b""
        for made in self._lines():
            if len(out) + len(made) > _LONGEST_WRITE_BYTES:
                self._write(out)
                out = b""
            out += made
        if out:
            self._write(out)

    def _lines(self) -> Iterator[bytes]:
        with suppress(IndexError):
            while True:
                note = self._notes.popleft()
                context = read_context(note.traceparent, note.tracestate)
                if self._spans is not None and context is not None and context.is_sampled:
                    self._spans.add(note, context)
                if self._config.access_log or _has_failed(note.status):
                    yield line_of(note, context, self._config.form, self._worker)
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("%d requests are not in this log: it is read too slowly", lost)


def _has_failed(status: int) -> bool:
    return status >= FAILED_FROM and status not in _NO_FAILURES


def line_of(note: LogRecord, context: TraceContext | None, form: logs.Form, worker: int) -> bytes:
    """The line about a request, with its end."""
    level = logging.INFO
    if _has_failed(note.status):
        level = logging.ERROR if note.status == FAILED_FROM else logging.WARNING
    fields = {
        "worker": worker,
        "request_id": note.request_id.decode(),
        "model": note.label.model,
        "version": note.label.version,
        "status": note.status,
        "duration_ms": round(note.duration_ns / 1e6, 3),
        "rows": note.rows or None,
        "error": note.kind,
        "reason": note.reason,
        "trace_id": None if context is None else f"{context.trace_id:032x}",
    }
    return (logs.line(form, note.at_s, level, "request", fields) + "\n").encode()
