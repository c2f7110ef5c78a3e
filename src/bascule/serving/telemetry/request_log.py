"""Records requests after their answers: lines of the log, and spans of traces.

The event loop adds a `LogRecord` and goes on; a thread makes lines and spans of the records. Failed
requests are always logged, the others only in an access log. A line has the caller's id, the model
and the outcome of a request, never its data.
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

from bascule.core import Columns
from bascule.serving.telemetry import logs
from bascule.serving.telemetry.counters import MetricLabels
from bascule.serving.telemetry.trace_context import TraceContext, read_context

log = logging.getLogger(__name__)

FAILED_FROM = 500
"""Answers with this status and above are always logged."""
_NO_FAILURES = frozenset((501, 505))
"""Answers to requests that no HTTP/1.1 client sends: no failure, and no way to fill the log."""
NEVER = 1_000
"""A status that no answer reaches."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_MAX_WAITING = 20_000
_GATHER_S = 0.05
_LONGEST_WRITE_BYTES = 4096
"""All workers write to one pipe, and a pipe does not split writes of up to so many bytes."""
_LAST_S = 2.0


def request_id_of(said: bytes) -> bytes:
    """A caller's id of a request, if it is safe in a header and a log; else empty."""
    return said if _REQUEST_ID.fullmatch(said) else b""


@dataclass(frozen=True, slots=True)
class RequestLogConfig:
    """The request log of a server.

    Attributes:
        form: The log's: "text" or "json".
        access_log: Whether to log every request.
        trace_endpoint: The address that takes spans (OTLP over HTTP); empty for none.
        exception_texts: Whether the workers' log has exceptions' messages, which may quote rows.
    """

    form: logs.Form = "text"
    access_log: bool = False
    trace_endpoint: str = ""
    exception_texts: bool = False


FAILURES_ALONE = RequestLogConfig()


class LogRecord(NamedTuple):
    """One answered request.

    Attributes:
        at_s: When, in seconds since 1970.
        status: Of the answer, or its HTTP equivalent.
        duration_ns: From its last byte to its answer.
        rows: Rows answered.
        label: The version that was called; empty for a request that is no inference.
        request_id: The caller's, or the server's; empty for none.
        kind: Of the error; empty for none.
        traceparent: The header.
        tracestate: The header.
        reason: Why the model failed, without the message of its exception; empty for none.
        prediction_id: Under which the ledger has the answer; empty for a request that is no
            inference.
        original: See `Answer.original`; of texts it has what spans tell of them.
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
    prediction_id: str = ""
    original: Columns | None = None


class Spans(Protocol):
    """Where spans go."""

    def add(self, record: LogRecord, context: TraceContext) -> None:
        """Take the span of a request. It is sent later, and lost if no collector takes it."""

    def close(self) -> None:
        """Send the remaining spans, for `_LAST_S` seconds at most."""


def write_to_stderr(data: bytes) -> None:
    """Write whole lines, however slow the reader of the log is."""
    while data:
        data = data[os.write(2, data) :]


class RequestLog:
    """Takes records on the event loop, and writes them on a thread.

    Attributes:
        least_status: Answers with a lower status need no record.
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
        self._records: deque[LogRecord] = deque()
        self._lost = 0
        self._has_records = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bascule-request-log", daemon=True)
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
        prediction_id: str = "",
        original: Columns | None = None,
    ) -> None:
        """Add a record; see `LogRecord`. If the reader of the log is too slow, records are lost."""
        if not traceparent and status < FAILED_FROM and not self._config.access_log:
            return
        if len(self._records) >= _MAX_WAITING:
            self._lost += 1
            return
        self._records.append(
            LogRecord(
                time.time(), status, duration_ns, rows, label, request_id, kind,
                traceparent, tracestate, reason, prediction_id, original,
            )
        )  # fmt: skip
        if not self._has_records.is_set():
            self._has_records.set()

    def close(self) -> None:
        """Write the remaining records. No record may be added any more."""
        self._closing.set()
        self._has_records.set()
        self._thread.join(_LAST_S)
        if self._spans is not None:
            self._spans.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_records.wait()
            # One turn for many records: a turn for each would take the event loop's time.
            self._closing.wait(_GATHER_S)
            self._has_records.clear()
            try:
                self._write_records()
            except Exception:
                log.exception("requests could not be logged")
        self._write_records()

    def _write_records(self) -> None:
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
                record = self._records.popleft()
                context = read_context(record.traceparent, record.tracestate)
                if self._spans is not None and context is not None and context.is_sampled:
                    self._spans.add(record, context)
                if self._config.access_log or _has_failed(record.status):
                    yield line_of(record, context, self._config.form, self._worker)
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("%d requests are not in this log: it is read too slowly", lost)


def _has_failed(status: int) -> bool:
    return status >= FAILED_FROM and status not in _NO_FAILURES


def line_of(record: LogRecord, context: TraceContext | None, form: logs.Form, worker: int) -> bytes:
    """The line about a request, with its end."""
    level = logging.INFO
    if _has_failed(record.status):
        level = logging.ERROR if record.status == FAILED_FROM else logging.WARNING
    fields = {
        "worker": worker,
        "request_id": record.request_id.decode(),
        "model": record.label.model,
        "version": record.label.version,
        "status": record.status,
        "duration_ms": round(record.duration_ns / 1e6, 3),
        "rows": record.rows or None,
        "error": record.kind,
        "reason": record.reason,
        "trace_id": None if context is None else f"{context.trace_id:032x}",
    }
    return (logs.line(form, record.at_s, level, "request", fields) + "\n").encode()
