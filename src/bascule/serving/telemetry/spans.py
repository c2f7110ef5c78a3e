"""Spans of requests, sent by OpenTelemetry to a collector, as OTLP over HTTP.

The caller decides what is sampled: a request outside of a trace has no span. The SDK gathers and
sends spans on its own thread. If the collector is unreachable, the spans are lost and the log has
one line about it.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from bascule.core import VERSION, MissingExtra
from bascule.serving.telemetry.request_log import FAILED_FROM, LogRecord
from bascule.serving.telemetry.texts import attributes_of
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

        Further headers, for example with a key, are set in OpenTelemetry's environment variables.
        """
        described = {"service.version": VERSION, "service.instance.id": str(os.getpid())}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            described["service.name"] = "bascule"
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_OFF),
            resource=Resource.create(described),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_TIMEOUT_S),
                schedule_delay_millis=_SEND_EVERY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("bascule", VERSION)

    def add(self, record: LogRecord, context: TraceContext) -> None:
        """Take the span of a request. It is sent later, and lost if no collector takes it."""
        parent = trace.SpanContext(
            context.trace_id,
            context.parent_id,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
            trace_state=trace.TraceState.from_header([context.state]),
        )
        label = record.label
        attributes: dict[str, Any] = {"http.response.status_code": record.status}
        if label.model:
            attributes |= {
                "bascule.model": label.model,
                "bascule.version": label.version,
                "bascule.rows": record.rows,
            }
        text = attributes_of(record.original)
        if text:
            attributes |= text | {"gen_ai.request.model": label.endpoint or label.model}
        if record.request_id:
            attributes["bascule.request_id"] = record.request_id.decode()
        if record.prediction_id:
            attributes["bascule.prediction_id"] = record.prediction_id
        if record.kind:
            attributes["error.type"] = record.kind
        ended_ns = int(record.at_s * 1e9)
        span = self._tracer.start_span(
            f"{'chat' if text else 'infer'} {label.model}" if label.model else "request",
            context=trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=ended_ns - record.duration_ns,
        )
        if record.status >= FAILED_FROM:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended_ns)

    def close(self) -> None:
        """Send the remaining spans, for `_LAST_S` seconds at most, even if no collector answers."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_LAST_S)
