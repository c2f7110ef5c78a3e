"""W3C trace context: what a caller says of the trace that its request is part of.

https://www.w3.org/TR/trace-context/: what is malformed is as if it were not there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 0x01
_MAX_STATE_BYTES = 512


class TraceContext(NamedTuple):
    """Where in which trace a request belongs.

    Attributes:
        trace_id: 16 bytes as a number, not 0.
        parent_id: Of the caller's span; 8 bytes as a number, not 0.
        is_sampled: Whether the caller records the trace.
        state: What systems of tracing say to each other; not read here.
    """

    trace_id: int
    parent_id: int
    is_sampled: bool
    state: str = ""


def read_context(traceparent: bytes, tracestate: bytes = b"") -> TraceContext | None:
    """The context that two headers tell; None where there is none, or none that can be read.

    A version that is not known is read as far as this one goes (section 4.3), and version 00 may
    have nothing behind it.
    """
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    trace, parent = int(trace_id, 16), int(parent_id, 16)
    if not trace or not parent:
        return None
    state = tracestate.decode("latin-1") if len(tracestate) <= _MAX_STATE_BYTES else ""
    return TraceContext(trace, parent, bool(int(flags, 16) & _SAMPLED), state)
