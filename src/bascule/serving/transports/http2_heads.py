"""The heads of gRPC calls: what a header block says, read once for all that are alike."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from hpack import Decoder, HPACKError

from bascule.core import BasculeError, TimedOut
from bascule.serving.telemetry import request_id_of
from bascule.serving.transports import frames as h2
from bascule.serving.transports.frames import Broken
from bascule.serving.transports.hosts import HostPolicy
from bascule.serving.transports.rpc import Method, Methods
from bascule.serving.transports.statuses import UNIMPLEMENTED, HttpError

_MAX_KNOWN_HEADS = 64
_MAX_KNOWN_HEAD_BYTES = 1024
_READ_HEADERS = (
    b":method", b":path", b"content-type", b"grpc-timeout", b"grpc-encoding", b"authorization",
)  # fmt: skip
_VARYING_HEADERS = (b"x-request-id", b"traceparent", b"tracestate")
"""Heads with one of these headers are never the same twice, and are not cached."""


class Head(NamedTuple):
    """What the headers of a call said, of what matters here.

    Attributes:
        method: None with a problem.
        timeout_s: How long the client waits; 0 for as long as the server.
        encoding: How its messages are compressed.
        problem: What is wrong with the headers.
        authorization: By what key the caller asks; empty for none.
        request_id: What the caller calls the call; empty for nothing, or nothing that is safe.
        traceparent: Of which trace it is part; see `tracing`.
        tracestate: The same.
        asked: The headers that predictors ask for, of those that were sent.
    """

    method: Method | None
    timeout_s: float = 0.0
    encoding: bytes = b""
    problem: BasculeError | None = None
    authorization: bytes = b""
    request_id: bytes = b""
    traceparent: bytes = b""
    tracestate: bytes = b""
    asked: tuple[tuple[bytes, bytes], ...] = ()


MALFORMED = Head(None)
"""Of a call that is reset, and not answered: its headers break the rules of HTTP/2."""


class Heads:
    """By what the heads of a worker's calls are read."""

    def __init__(self, methods: Methods, hosts: HostPolicy | None) -> None:
        self.methods = methods
        self.hosts = hosts
        self.asked: frozenset[bytes] = frozenset()
        """The headers that predictors ask for."""
        self.read = lru_cache(_MAX_KNOWN_HEADS)(self._read)

    def _read(
        self,
        verb: bytes,
        path: bytes,
        kind: bytes,
        timeout: bytes,
        encoding: bytes,
        authorization: bytes,
    ) -> Head:
        if verb != b"POST" or not kind.startswith(b"application/grpc"):
            problem: BasculeError = HttpError(
                "this is no gRPC call: it is not a POST of application/grpc",
                status=415,
                code=UNIMPLEMENTED,
            )
            return Head(None, problem=problem, authorization=authorization)
        method = self.methods.get(path)
        if method is None:
            problem = HttpError(
                f"no method {path[:128].decode('latin-1')} here",
                hint="ask the server by reflection, or read grpc_predict_v2.proto",
                status=404,
                code=UNIMPLEMENTED,
            )
            return Head(None, problem=problem, authorization=authorization)
        try:
            waits_s = h2.timeout_s(timeout) if timeout else 0.0
        except BasculeError as problem:
            return Head(method, problem=problem, authorization=authorization)
        if timeout and not waits_s:
            late = TimedOut("no answer within 0 ms", hint="allow more time")
            return Head(method, problem=late, authorization=authorization)
        return Head(method, waits_s, encoding, authorization=authorization)


class HeadReader:
    """Reads the header blocks of one connection."""

    def __init__(self, heads: Heads, max_bytes: int) -> None:
        self._heads = heads
        self._decoder = Decoder(max_header_list_size=max_bytes)
        self.known: dict[bytes, Head] = {}
        """What blocks say that mean the same whenever they come; empty it to read them again."""

    def decode(self, block: bytes, *, of_trailers: bool = False) -> Head:
        """What a header block says; what cannot change what later blocks mean is remembered."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (entries[0] if entries else None, len(entries), table.maxsize)
        try:
            headers = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise Broken(h2.COMPRESSION_ERROR, f"the headers cannot be read: {error}") from None
        pairs = [(bytes(name), bytes(value)) for name, value in headers]
        named = dict(pairs)
        if sum(name == b"authorization" for name, _ in pairs) > 1:
            named[b"authorization"] = b"two of them"  # which is no key
        if h2.fault_of(pairs, of_trailers=of_trailers):
            head = MALFORMED
        else:
            head = self._heads.read(*(named.get(name, b"") for name in _READ_HEADERS))
            head = self._with_names(head, named, pairs)
        wanted = self._heads.asked
        varies = of_trailers or not named.keys().isdisjoint((*_VARYING_HEADERS, *wanted))
        if varies and head is not MALFORMED:
            head = head._replace(
                request_id=request_id_of(named.get(b"x-request-id", b"")),
                traceparent=named.get(b"traceparent", b""),
                tracestate=named.get(b"tracestate", b""),
                asked=tuple((name, named[name]) for name in wanted if name in named),
            )
        first = entries[0] if entries else None
        if first is not before[0] or (len(entries), table.maxsize) != before[1:]:
            self.known.clear()
        elif (
            len(self.known) < _MAX_KNOWN_HEADS
            and len(block) <= _MAX_KNOWN_HEAD_BYTES
            and not varies
        ):
            self.known[block] = head
        return head

    def _with_names(
        self, head: Head, named: dict[bytes, bytes], pairs: list[tuple[bytes, bytes]]
    ) -> Head:
        """The head, refused where the names that it uses for the server are not to be answered."""
        hosts = self._heads.hosts
        if hosts is None or (
            named.get(b":authority") in hosts.answered
            and named.keys().isdisjoint((b"host", b"origin"))
        ):
            return head
        authorities = [value for name, value in pairs if name in (b":authority", b"host")]
        origins = [value for name, value in pairs if name == b"origin"]
        return head._replace(problem=hosts.refusal(authorities, origins) or head.problem)
