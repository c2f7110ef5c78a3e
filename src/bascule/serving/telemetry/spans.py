"""Spans of requests, sent by OpenTelemetry to whoever takes OTLP over HTTP.

Sampled is what the caller samples: of a request outside of a trace there is no span. The SDK
gathers and sends on a thread of its own. A collector that is away costs the spans, and a line in
the log.
"""

from __future__ import annotations

import os
import threading

from bascule.core import VERSION, MissingExtra
from bascule.serving.telemetry.request_log import FAILED_FROM, LogRecord
from bascule.serving.telemetry.trace_context import TraceContext

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
except ImportError:
    raise MissingExtra(
        "sending spans needs OpenTelemetry", hint="pip install 'bascule[otel]'"
    ) from None

_SEND_EVERY_MS = 1_000
_SEND_TIMEOUT_S = 5
_LAST_S = 2.0


class OtlpSpans:
    """Makes and sends the spans of one worker; see `request_log.Spans`."""

    def __init__(self, endpoint: str) -> None:
        """Send to `endpoint`, the whole address: `http://collector:4318/v1/traces`.

        What is sent along, for example a key, OpenTelemetry reads from its own variables.
        """
        told = {"service.version": VERSION, "service.instance.id": str(os.getpid())}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            told["service.name"] = "bascule"
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_OFF),
            resource=Resource.create(told),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_TIMEOUT_S),
                schedule_delay_millis=_SEND_EVERY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("bascule", VERSION)

    def add(self, note: LogRecord, context: TraceContext) -> None:
        """Take the span of a request; sent later, and lost if nobody takes it."""
        parent = trace.SpanContext(
            context.trace_id,
            context.parent_id,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
            trace_state=trace.TraceState.from_header([context.state]),
        )
        label = note.label
        attributes: dict[str, str | int] = {"http.response.status_code": note.status}
        if label.model:
            attributes |= {
                "bascule.model": label.model,
                "bascule.version": label.version,
                "bascule.rows": note.rows,
            }
        if note.request_id:
            attributes["bascule.request_id"] = note.request_id.decode()
        if note.kind:
            attributes["error.type"] = note.kind
        ended_ns = int(note.at_s * 1e9)
        span = self._tracer.start_span(
            f"infer {label.model}" if label.model else "request",
            context=trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=ended_ns - note.duration_ns,
        )
        if note.status >= FAILED_FROM:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is left, for a moment at most: a collector that is away is not waited for."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_LAST_S)
