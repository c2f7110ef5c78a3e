"""gRPC over HTTP/2 at the cost of a socket: one `asyncio.Protocol` on the worker's event loop.

Calls run where those of HTTP/1.1 run, so there are no threads to hand over to, every answer is
counted by the one writer of the worker's counters, waiting callers run together, and a call that
is given up leaves the queue. What is kept:

- heads, messages, streams, connections and times are bounded, what is kept of requests that have
  not ended over all connections (`admission.BufferBudget`), and so is how many frames a second
  that ask for nothing (resets, pings, empty pieces...) a client may send;
- header blocks that mean the same as before are not decoded again;
- both windows of flow control; a client that does not read is not read from, and what it takes next
  to nothing of is given up: one answer, or the connection where that is what it does not read;
- a call is counted once: where its answer is written, or where its client gives it up;
- when the worker stops, clients receive GOAWAY, sent requests are answered, and none is lost.

Clear text with prior knowledge (h2c), as gRPC clients speak it to an insecure port; or within TLS,
where the listener (`workers.worker`) has a context that offers `h2`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, cast

from hpack import Decoder, HPACKError

from bascule.core import (
    BasculeError,
    Invalid,
    Overloaded,
    Refused,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from bascule.security import Action
from bascule.serving.calls import AnsweredBy, Call, Deliver
from bascule.serving.execution import SHORT_BYTES, TURN_S, AdmissionQueue, BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.telemetry import (
    FAILED_FROM,
    NEVER,
    MetricSeries,
    Recorder,
    RequestLog,
    request_id_of,
)
from bascule.serving.transports import frames as h2, offload
from bascule.serving.transports.authenticator import Authenticator
from bascule.serving.transports.frames import HEAD, HEAD_BYTES, frame, number_frame
from bascule.serving.transports.hosts import HostPolicy
from bascule.serving.transports.http1 import Taking, unacknowledged_bytes
from bascule.serving.transports.parts import PartForm, PartSender, stop_all
from bascule.serving.transports.rpc import (
    Each,
    InParts,
    Method,
    Methods,
    ModelOf,
    Read,
    Rpc,
    RpcInParts,
    Unary,
    Watch,
    pushback_ms,
)
from bascule.serving.transports.statuses import (
    OK,
    UNAVAILABLE,
    UNIMPLEMENTED,
    HttpError,
    code_of,
    error_text,
    status_of,
)

log = logging.getLogger(__name__)

MAX_STREAMS = 256
"""How many calls a client may have under way on one connection; it waits before it makes more."""

MAX_IDLE_FRAMES = 2_000
"""How many frames that ask for nothing a connection may bring in a second.

A call that is given up is one (CVE-2023-44487), unless it is for its deadline, or its answer was
on the way: that is what every honest client does, as often as it makes calls.
"""

_FRAMES_BY_CLOCK = 8
"""After how many frames of one read the clock is looked at."""
MAX_WATCHES = 16
MAX_WATCHES_OF_ALL = 1_000
"""How many watches one connection may have open, and all connections of a worker. Nothing ends a
watch but its client, and it needs no key."""
_MAX_MESSAGES_AT_ONCE = 16
"""How many messages of a stream may come in one piece; tools that ask so wait for every answer."""
_FRAME_BYTES = 128 << 10
_WINDOW = 1 << 30
_LINGER_S = 1.0
_DRAIN_WITHIN_S = 1.0
"""How long a client may take to acknowledge that the server stops."""
_AFTER_HEARD_S = 0.05
"""How long new streams of a client are accepted after its acknowledgement: it may have begun some
before, and grpcio writes the acknowledgement ahead of them."""
_DRAIN_PING = b"draining"
_LATE_SHARE = 0.5
"""A call that is given up after this share of its deadline is taken to have been given up for it.

HTTP/2 does not say which it was, and a client's deadline is over before it is here, where it starts
when the request is read: a server that is busy reads late."""
_MAX_KNOWN_HEADS = 64
_MAX_KNOWN_HEAD_BYTES = 1024
_MIN_COMPRESSED_BYTES = 256
_BEGINNING_BYTES = 512
"""The start of a message, which names its model in two texts of up to 128 characters."""
_MAX_STREAMED_MESSAGE_BYTES = 1 << 16
_BESIDE_PIECE_BYTES = 64
"""The approximate memory of a piece of a message beside its bytes: it may have only one byte."""
_BESIDE_STREAM_BYTES = 1024
"""The approximate memory of a stream whose answer waits, beside the answer."""
_NOT_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 41\r\n\r\nthis port speaks gRPC, over HTTP/2 alone\n"
)

_READ_HEADERS = (
    b":method", b":path", b"content-type", b"grpc-timeout", b"grpc-encoding", b"authorization",
)  # fmt: skip
_VARYING_HEADERS = (b"x-request-id", b"traceparent", b"tracestate")
"""Heads with one of these headers are never the same twice, and are not cached."""
_TYPE = (b"content-type", b"application/grpc")
_STATUS_200 = b"\x88"
_STATUS_415 = b"\x08\x03415"  # another value of entry 8 of the static table (RFC 7541)
_ANSWER_HEAD = _STATUS_200 + h2.header_block([_TYPE])
_ANSWER_HEADS = {
    b"": _ANSWER_HEAD,
    **{
        encoding: _STATUS_200 + h2.header_block([_TYPE, (b"grpc-encoding", encoding)])
        for encoding in h2.ENCODINGS
    },
}
_NO_CALL_HEAD = _STATUS_415 + h2.header_block([_TYPE])
"""For clients of HTTP/2 that do not speak gRPC and would take 200 for success; gRPC requires it."""
_OK_TRAILERS = h2.header_block([(b"grpc-status", b"0")])


def _frame_start(kind: int, flags: int, length: int) -> bytes:
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, 0)[:5]


_HEADERS_STARTS = {
    encoding: _frame_start(h2.HEADERS, h2.END_HEADERS, len(block))
    for encoding, block in _ANSWER_HEADS.items()
}
_TRAILERS_START = _frame_start(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, len(_OK_TRAILERS))


class Broken(Exception):
    """The client broke the rules of the connection, which ends; `code` is HTTP/2's."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


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


_MALFORMED = Head(None)
"""Of a call that is reset, and not answered: its headers break the rules of HTTP/2."""


class Http2Server:
    """What the connections of one worker share: methods, limits, counters, the clock."""

    def __init__(
        self,
        methods: Methods,
        limits: Limits,
        other_series: MetricSeries,
        clock: Callable[[], float] = time.monotonic,
        *,
        backlog: AdmissionQueue,
        held: BufferBudget,
        guard: Authenticator | None = None,
        request_log: RequestLog | None = None,
        recorder: Recorder | None = None,
        hosts: HostPolicy | None = None,
    ) -> None:
        self.hosts = hosts
        self.backlog = backlog
        self.held = held
        self.recorder = recorder
        self.asked_headers: frozenset[bytes] = frozenset()
        self.methods = methods
        self.guard = guard
        self.request_log = request_log
        self.noted_from = NEVER if request_log is None else request_log.least_status
        self.limits = limits
        self.other_series = other_series
        self.clock = clock
        self.now = clock()
        self.connections: set[Http2Connection] = set()
        self.draining = False
        self.watches = 0
        self.read_head = lru_cache(_MAX_KNOWN_HEADS)(self._read_head)

    def keep_headers(self, asked: frozenset[bytes]) -> None:
        """Read the headers that predictors ask for from now on."""
        if asked != self.asked_headers:
            self.asked_headers = asked
            for connection in self.connections:
                connection.forget_heads()

    def connect(self) -> Http2Connection:
        return Http2Connection(self)

    def tick(self) -> None:
        """Once a second: the coarse clock, watchers, and connections out of time."""
        self.now = self.clock()
        for connection in tuple(self.connections):
            connection.tick()

    async def drain(self) -> None:
        """Answer what is under way, then close every connection; bounded by `drain_s`."""
        self.draining = True
        self.now = started = self.clock()
        for connection in tuple(self.connections):
            connection.drain()
        while self.connections and self.now - started < self.limits.drain_s:
            await asyncio.sleep(0.02)
            self.now = self.clock()
            for connection in tuple(self.connections):
                connection.go_on_draining()
        stop_all(self.backlog)
        for connection in tuple(self.connections):
            connection.abort()

    def _read_head(
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


class Http2Call(Rpc):
    """One call on a connection, or one message of it: what was asked, and by which head."""

    __slots__ = ("answered", "connection", "encoding", "head", "opened_s", "waited_s")

    connection: Http2Connection
    head: Head
    answered: bool
    encoding: bytes
    opened_s: float
    waited_s: float

    def allowed_s(self, deadline_s: float) -> float:
        asked_s = self.head.timeout_s
        if not asked_s:
            return deadline_s - self.waited_s
        return max(0.0, min(deadline_s, asked_s - (time.monotonic() - self.opened_s)))

    def allow(self, action: Action, model: str) -> None:
        guard = self.connection.server.guard
        if guard is not None:
            self.caller = guard.check(self.head.authorization, action, model) or self.caller

    @property
    def trace(self) -> tuple[bytes, bytes]:
        return self.head.traceparent, self.head.tracestate

    def header(self, name: bytes) -> bytes:
        return next((value for sent, value in self.head.asked if sent == name), b"")

    def allow_method(self) -> None:
        """Return if the caller may use the method at all; of which models, its handler asks.

        A key may end while a call goes on, so this is asked again whenever more is to be said.
        """
        assert self.head.method is not None
        self.allow(self.head.method.action, "")

    def ask(self, call: Call, deliver: Deliver) -> None:
        model = self.model
        assert model is not None, "the caller's right was not checked"
        allowed_s = self.allowed_s(model.limits.deadline_s)
        if self.connection.server.recorder is not None:
            self.call = call
        self.on_gone = model.answer(call, self, allowed_s, deliver)

    def read_aside(self, read: Callable[[], Read], go_on: Callable[[Read, float], None]) -> None:
        server = self.connection.server
        allowed_s = self.allowed_s(server.limits.deadline_s)
        offload.run(self, server.held, read, go_on, allowed_s)

    def fail_late(self) -> None:
        """See `admission.Waiting`."""
        self.fail(
            TimedOut(
                f"it waited for {self.waited_s:.2g} s, until its deadline",
                hint="retry later, allow more time, or serve with more workers",
            )
        )

    def count(self, status: int) -> None:
        """Note the answer, by the HTTP status of the same meaning."""
        self.tell(self.connection.server, status)

    def is_late(self) -> bool:
        """Whether a call that is given up now is taken to be given up for its own deadline."""
        asked_s = self.head.timeout_s
        return bool(asked_s) and time.monotonic() - self.opened_s >= asked_s * _LATE_SHARE


class Stream(Http2Call):
    """A call as the connection has it: what came of it, and what is to be written."""

    __slots__ = (
        "ended", "id", "look", "out", "parts", "received", "sent", "shown", "shut_s", "since",
        "started", "taking", "told", "trailers", "turn", "window",
    )  # fmt: skip

    taking: Taking
    shut_s: float
    """How long its client has left it no room while it had something to say. Both are set when it
    has to wait."""
    turn: Turn
    """The message that is being answered, of a stream of them, while `on_gone` is set."""

    def __init__(self, connection: Http2Connection, id_: int, head: Head, window: int) -> None:
        super().__init__(b"", connection.server.other_series)
        self.connection = connection
        self.id = id_
        self.head = head
        self.request_id = head.request_id
        self.window = window
        self.waited_s = 0.0
        self.ended = False
        """The client says no more."""
        self.answered = False
        self.started = False
        """The headers of the answer are on their way."""
        self.parts: list[bytes | memoryview] = []
        self.received = 0
        self.encoding = b""
        self.out: list[memoryview] = []
        self.sent = 0
        self.trailers: bytes | None = None
        self.look: Callable[[], bytes] | None = None
        self.told = b""
        self.shown: tuple[tuple[bytes, bytes], ...] = ()
        self.opened_s = connection.read_s
        self.since = connection.server.now

    def show(self, by: AnsweredBy) -> None:
        self.need_request_id()  # such answers get a head of their own
        arm = (("bascule-version", by.name), ("bascule-arm", by.arm)) if by.endpoint else ()
        self.shown = tuple(
            (field.lower().encode(), value.encode()) for field, value in (*arm, *by.notice)
        )

    def answer(self, message: bytes) -> None:
        if not self.answered:
            self.answered = True
            self.connection.answer(self, message)

    def fail(self, error: BasculeError) -> None:
        if not self.answered:
            self.answered = True
            self.connection.refuse(self, self.fails(error))

    def gone(self) -> None:
        """The client has given the call up."""
        self.out.clear()
        if self.answered:
            return
        self.answered = True
        if self.on_gone is not None:
            self.on_gone()
        # Giving it up is how a watch ends.
        self.count(200 if self.look is not None else 504 if self.is_late() else 499)


class Turn(Http2Call, RpcInParts):
    """One message of a stream, answered in parts on it before the next message has its turn."""

    __slots__ = ("resume", "stream")

    resume: Callable[[], None]

    def __init__(self, stream: Stream) -> None:
        super().__init__(b"", stream.connection.server.other_series)
        self.connection = stream.connection
        self.head = stream.head
        self.request_id = stream.request_id
        self.opened_s = stream.opened_s
        self.waited_s = 0.0
        self.answered = False
        self.encoding = b""
        self.stream = stream

    @property
    def backlog(self) -> AdmissionQueue:
        return self.connection.server.backlog

    def show(self, by: AnsweredBy) -> None:
        """Nothing: each message names the version."""

    def ask_in_parts(self, call: Call, form: PartForm) -> None:
        model = self.model
        assert model is not None, "the caller's right was not checked"
        if self.connection.server.recorder is not None:
            self.call = call
        PartSender(self, self, model, form).ask(call, self.allowed_s(model.limits.deadline_s))

    def begin(self, content_type: bytes, extra: bytes, resume: Callable[[], None]) -> None:  # noqa: ARG002
        """See `PartWire`."""
        self.resume = resume

    def send(self, data: bytes) -> bool:
        """See `PartWire`."""
        return self.connection.send_part(self.stream, data)

    def end(self, data: bytes, error: BasculeError | None) -> None:
        """See `PartWire`."""
        if not self.answered:
            self.answered = True
            self.connection.end_turn(self, data, error)

    def answer(self, message: bytes) -> None:
        self.end(message, None)

    def fail(self, error: BasculeError) -> None:
        error = self.fails(error)
        method = cast(InParts, self.head.method)
        self.end(method.failed(self, error), error)

    def gone(self) -> None:
        """The client has given the stream up."""
        if not self.answered:
            self.answered = True
            if self.on_gone is not None:
                self.on_gone()
            self.count(504 if self.is_late() else 499)


class Http2Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self._transport: asyncio.Transport
        self._decoder = Decoder(max_header_list_size=server.limits.max_head_bytes)
        self._known: dict[bytes, Head] = {}
        self._rest = b""
        # What was read is more than a turn of the loop takes, and the rest of it waits for another.
        self._is_over = self._waits = self._has_turn = False
        self._waiting_bytes = 0
        self._greeted = False
        self._introduced = False
        self._has_settings = False
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._block: list[bytes] = []
        self._block_of = (0, 0)
        self._block_bytes = 0
        self._buffered = self._watches = 0
        # Of answers, what waits for the client to make room; and how much of it has been noted.
        self._unread = self._unread_noted = 0
        self._received = 0
        self._idle_frames = 0
        # Answers of this second, with each of which a reset of its call may cross.
        self._crossing = 0
        self.read_s = self._read_before_s = time.monotonic()
        self._send_window = h2.DEFAULT_WINDOW
        self._first_window = h2.DEFAULT_WINDOW
        self._frame_bytes = h2.LEAST_FRAME
        self._blocked: dict[int, Stream] = {}
        self._out: list[bytes] = []
        self._corked = False
        self._writable = True
        self._closing = False
        self._refuses_from = h2.LARGEST_WINDOW
        self._since = self._made = server.now
        self._drained_s = 0.0
        self._heard_s = 0.0
        self._written = 0
        self._taking: Taking | None = None
        self._owed_s = 0.0
        self._ticked_s = server.now

    # -- what the transport calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self.server
        server.connections.add(self)
        if len(server.connections) > server.limits.max_connections:
            self._end(h2.ENHANCE_YOUR_CALM, "as many connections are open as may be; retry later")
        elif server.draining:
            self.drain()

    def _introduce(self) -> None:
        """Say our settings, which come before anything else: once the client speaks HTTP/2."""
        if self._introduced:
            return
        self._introduced = True
        limits = self.server.limits
        # Whole messages fit, so the windows of streams need no updates.
        window = min(h2.LARGEST_WINDOW, limits.max_body_bytes + h2.DEFAULT_WINDOW)
        self._write(
            h2.settings(
                [
                    (h2.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
                    (h2.INITIAL_WINDOW_SIZE, window),
                    (h2.MAX_FRAME_SIZE, _FRAME_BYTES),
                    (h2.MAX_HEADER_LIST_SIZE, limits.max_head_bytes),
                ]
            ),
            number_frame(h2.WINDOW_UPDATE, 0, _WINDOW - h2.DEFAULT_WINDOW),
        )

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._since = self.server.now
        if not self._has_turn:  # else it was read before
            self._read_before_s = self.read_s
            self.read_s = time.monotonic()
        if self._rest:
            data = self._rest + data
        if len(data) > SHORT_BYTES and self._must_wait(data):
            return
        self._corked = True
        try:
            self._rest = data[self._read(data) :]
        except Broken as broken:
            self._end(broken.code, str(broken))
        except Exception:
            # A bug of the server; the frames of other calls on the connection are lost as well.
            log.exception("a connection failed")
            self._end(h2.INTERNAL_ERROR, "internal error")
        finally:
            self._corked = False
            self._flush()
        if self._is_over:
            self._is_over = False
            self._wait_for_turn()

    def _must_wait(self, data: bytes) -> bool:
        """Whether what was read waits for a turn of the loop; then it is kept."""
        if self._has_turn or not (self._waits or self.server.backlog.is_crowded()):
            return False
        self._rest = data
        if not self._waits:
            self._wait_for_turn()
        return True

    def _wait_for_turn(self) -> None:
        if self._transport.is_closing():
            return  # what was written has failed
        self._waits = True
        self._waiting_bytes = len(self._rest)
        self.server.held.bytes += self._waiting_bytes
        self._transport.pause_reading()
        self.server.backlog.later(self._take_rest)

    def _drop_rest(self) -> None:
        """Count what has waited no more."""
        self._waits = False
        self.server.held.bytes -= self._waiting_bytes
        self._waiting_bytes = 0

    def _take_rest(self) -> None:
        """Go on with what was read before, as a turn of the loop was over."""
        self._drop_rest()
        if not self._transport.is_closing():
            self._has_turn = True
            self.data_received(b"")
            self._has_turn = False
            self._read_on()

    def _read_on(self) -> None:
        if self._writable and not (self._waits or self._transport.is_closing()):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._pump()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._closing = True
        self._drop_rest()
        self.server.connections.discard(self)
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        for stream in streams.values():
            self._drop(stream)
            stream.gone()
        self._note_unread()

    # -- reading frames --

    def _read(self, data: bytes) -> int:
        """Handle every whole frame, for a turn of the loop; returns where the next one starts."""
        at = frames = 0
        end = len(data)
        is_half_over = False
        since_s = time.monotonic() if self._has_turn else self.read_s
        if not self._greeted:
            if not data.startswith(h2.PREFACE):
                if h2.PREFACE.startswith(data):
                    return 0
                self._closing = True
                self._write(_NOT_HTTP2)
                self._close()
                return end
            self._greeted = True
            self._introduce()
            at = len(h2.PREFACE)
        unpack = HEAD.unpack_from
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, id_ = unpack(data, at)
            length = high << 8 | low
            if length > _FRAME_BYTES:
                raise Broken(h2.FRAME_SIZE_ERROR, f"a frame is over {_FRAME_BYTES} bytes")
            start = at + HEAD_BYTES
            stop = start + length
            if stop > end:
                break
            id_ &= h2.LARGEST_WINDOW
            if kind == h2.DATA and not self._block:
                self._on_data(id_, flags, data, start, stop)
            else:
                self._on_frame(kind, id_, flags, data[start:stop])
            at = stop
            if self._closing:
                return end
            frames += 1
            if not frames % _FRAMES_BY_CLOCK and time.monotonic() - since_s > TURN_S / 2:
                if is_half_over:
                    self._is_over = True
                    break
                # One call that ran long is no reason not to read on: the next ones only wait.
                is_half_over, since_s = True, time.monotonic()
        return at

    def _on_frame(self, kind: int, id_: int, flags: int, payload: bytes) -> None:
        if self._block:
            if kind != h2.CONTINUATION or id_ != self._block_of[0]:
                raise Broken(h2.PROTOCOL_ERROR, "a header block is not finished")
            self._on_continuation(flags, payload)
            return
        if not self._has_settings and kind != h2.SETTINGS:
            raise Broken(h2.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == h2.HEADERS:
            self._on_headers(id_, flags, payload)
        elif kind == h2.WINDOW_UPDATE:
            self._on_window_update(id_, payload)
        elif kind == h2.RST_STREAM:
            self._on_reset(id_, payload)
        else:
            self._note_idle_frame()
            if kind == h2.PING:
                self._on_ping(id_, flags, payload)
            elif kind == h2.SETTINGS:
                self._on_settings(id_, flags, payload)
            elif kind in (h2.PUSH_PROMISE, h2.CONTINUATION):
                raise Broken(h2.PROTOCOL_ERROR, "a frame that clients do not send there")
            elif kind == h2.PRIORITY and len(payload) != 5:
                raise Broken(h2.FRAME_SIZE_ERROR, "PRIORITY is not of 5 bytes")
            # GOAWAY, PRIORITY and what is not known ask for nothing.

    def _note_idle_frame(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise Broken(h2.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _on_headers(self, id_: int, flags: int, payload: bytes) -> None:
        if flags & (h2.PADDED | h2.HAS_PRIORITY):
            start = 0
            stop = len(payload)
            if flags & h2.PADDED:
                start, stop = _unpadded(payload, 0, stop)
            if flags & h2.HAS_PRIORITY:
                start += 5
            if start > stop:
                raise Broken(h2.PROTOCOL_ERROR, "HEADERS end early")
            payload = payload[start:stop]
        if id_ & 1 == 0:
            raise Broken(h2.PROTOCOL_ERROR, "a client's streams have odd numbers")
        if not flags & h2.END_HEADERS:
            self._block = [payload]
            self._block_bytes = len(payload)
            self._block_of = (id_, flags)
            return
        self._take_headers(id_, payload, ended=bool(flags & h2.END_STREAM))

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        self._note_idle_frame()
        self._block.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > self.server.limits.max_head_bytes:
            limit = self.server.limits.max_head_bytes
            raise Broken(h2.ENHANCE_YOUR_CALM, f"the headers are over {limit} bytes")
        if flags & h2.END_HEADERS:
            block, self._block = b"".join(self._block), []
            id_, first_flags = self._block_of
            self._take_headers(id_, block, ended=bool(first_flags & h2.END_STREAM))

    def _take_headers(self, id_: int, block: bytes, *, ended: bool) -> None:
        stream = self._streams.get(id_)
        if stream is not None:
            if stream.ended or not ended:
                raise Broken(h2.PROTOCOL_ERROR, "headers within a call that do not end it")
            if self._decoded(block, of_trailers=True) is _MALFORMED:
                self._reset(stream, h2.PROTOCOL_ERROR)
            else:
                self._end_of(stream)
            return
        head = self._known.get(block) or self._decoded(block)
        if id_ <= self._last_id:
            self._note_idle_frame()  # of a call that has been answered or given up
            return
        self._last_id = id_
        if len(self._streams) >= MAX_STREAMS or id_ > self._refuses_from:
            self._note_idle_frame()
            self._write(number_frame(h2.RST_STREAM, id_, h2.REFUSED_STREAM))
            return
        stream = self._streams[id_] = Stream(self, id_, head, self._first_window)
        stream.ended = ended
        if head is _MALFORMED:
            self._reset(stream, h2.PROTOCOL_ERROR)
            return
        try:
            if head.method is not None:
                stream.allow_method()
            elif self.server.guard is not None:
                self.server.guard.check_known(head.authorization)
            if head.problem is not None:
                raise head.problem
        except BasculeError as problem:
            stream.fail(problem)
            return
        if ended:
            self._end_of(stream)

    def forget_heads(self) -> None:
        """Read every header block again: more of it may matter now."""
        self._known.clear()

    def _decoded(self, block: bytes, *, of_trailers: bool = False) -> Head:
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
            head = _MALFORMED
        else:
            head = self.server.read_head(*(named.get(name, b"") for name in _READ_HEADERS))
            head = self._with_names(head, named, pairs)
        wanted = self.server.asked_headers
        varies = of_trailers or not named.keys().isdisjoint((*_VARYING_HEADERS, *wanted))
        if varies and head is not _MALFORMED:
            head = head._replace(
                request_id=request_id_of(named.get(b"x-request-id", b"")),
                traceparent=named.get(b"traceparent", b""),
                tracestate=named.get(b"tracestate", b""),
                asked=tuple((name, named[name]) for name in wanted if name in named),
            )
        first = entries[0] if entries else None
        if first is not before[0] or (len(entries), table.maxsize) != before[1:]:
            self._known.clear()
        elif (
            len(self._known) < _MAX_KNOWN_HEADS
            and len(block) <= _MAX_KNOWN_HEAD_BYTES
            and not varies
        ):
            self._known[block] = head
        return head

    def _with_names(
        self, head: Head, named: dict[bytes, bytes], pairs: list[tuple[bytes, bytes]]
    ) -> Head:
        """The head, refused where the names that it uses for the server are not to be answered."""
        hosts = self.server.hosts
        if hosts is None or (
            named.get(b":authority") in hosts.answered
            and named.keys().isdisjoint((b"host", b"origin"))
        ):
            return head
        authorities = [value for name, value in pairs if name in (b":authority", b"host")]
        origins = [value for name, value in pairs if name == b"origin"]
        return head._replace(problem=hosts.refusal(authorities, origins) or head.problem)

    def _on_data(self, id_: int, flags: int, data: bytes, start: int, stop: int) -> None:
        length = stop - start
        self._received += length
        if self._received > _WINDOW >> 1:
            self._write(number_frame(h2.WINDOW_UPDATE, 0, self._received))
            self._received = 0
        stream = self._streams.get(id_)
        if stream is None:
            if id_ > self._last_id or id_ & 1 == 0:
                raise Broken(h2.PROTOCOL_ERROR, "data of a stream that is not open")
            if not length:
                self._note_idle_frame()
            return
        if stream.ended:
            raise Broken(h2.STREAM_CLOSED, "data after the end of a stream")
        if flags & h2.PADDED:
            start, stop = _unpadded(data, start, stop)
        ended = flags & h2.END_STREAM
        if stop == start and not ended:
            self._note_idle_frame()
            return
        if ended and not stream.received and type(stream.head.method) is Unary:
            stream.ended = True
            self._call(stream, data[start:stop])
            return
        self._add_data(stream, data[start:stop])
        if ended and not stream.answered:
            self._end_of(stream)
        elif ended:
            stream.ended = True
        elif stream.parts and self.server.held.is_over():
            self._drop_parts(stream)
            if type(stream.head.method) is InParts and stream.on_gone is not None:
                stream.on_gone()
            stream.fail(self.server.held.refusal())

    def _add_data(self, stream: Stream, piece: bytes) -> None:
        if stream.answered:
            return  # it was refused while more of it was on the way
        self._keep(stream, piece)
        limit = self.server.limits.max_body_bytes
        if type(stream.head.method) is not Unary:
            self._take_messages(stream)
        elif stream.received > limit + 5:
            self._drop_parts(stream)
            stream.fail(
                TooLarge(
                    f"the message is over {limit} bytes",
                    hint="send fewer rows a request",
                    limit=limit,
                )
            )
        elif self._buffered > 2 * limit + h2.DEFAULT_WINDOW:
            self._drop_parts(stream)
            stream.fail(
                Overloaded(
                    f"over {2 * limit} bytes of unfinished requests on one connection",
                    hint="send fewer large requests at once",
                )
            )

    def _keep(self, stream: Stream, piece: bytes) -> None:
        stream.parts.append(piece)
        stream.received += len(piece)
        self._buffered += len(piece)
        self.server.held.bytes += len(piece) + _BESIDE_PIECE_BYTES

    def _drop_parts(self, stream: Stream) -> None:
        self._buffered -= stream.received
        self.server.held.bytes -= stream.received + _BESIDE_PIECE_BYTES * len(stream.parts)
        stream.parts.clear()
        stream.received = 0

    def _take_parts(self, stream: Stream) -> bytes:
        data = stream.parts[0] if len(stream.parts) == 1 else b"".join(stream.parts)
        self._drop_parts(stream)
        return cast(bytes, data)

    def _take_front(self, stream: Stream, size: int) -> bytes:
        """The first bytes of what is kept; to join all of it for each would take too long."""
        data, left, whole = _front(stream.parts, size), size, 0
        for piece in stream.parts:
            if len(piece) > left:
                break
            left -= len(piece)
            whole += 1
        del stream.parts[:whole]
        if left:
            stream.parts[0] = memoryview(stream.parts[0])[left:]
        stream.received -= size
        self._buffered -= size
        self.server.held.bytes -= size + _BESIDE_PIECE_BYTES * whole
        return data

    def _end_of(self, stream: Stream) -> None:
        """The client has said all of a call."""
        stream.ended = True
        data = self._take_parts(stream)
        if type(stream.head.method) is Unary:
            self._call(stream, data)
        elif type(stream.head.method) is Each:
            if data:
                stream.fail(Invalid("the stream ends within a message"))
            elif not stream.answered:
                stream.answered = True
                stream.count(200)
                self._finish(stream, OK)
        elif type(stream.head.method) is InParts:
            if data:
                self._keep(stream, data)
            self._take_turn(stream)
        elif stream.look is None:
            stream.fail(Invalid("the request is not exactly one message"))

    def _take_turn(self, stream: Stream) -> None:
        """Answer the next message of a stream, if there is one whole and none is being answered.

        What comes meanwhile is kept, within the window of the stream, which grows by what is taken.
        """
        if stream.on_gone is not None or stream.answered or stream.out:
            return
        most = self.server.limits.max_body_bytes
        beginning = _front(stream.parts, 5)
        stop = 5 + int.from_bytes(beginning[1:])
        if self.server.draining:
            stream.fail(Unavailable("the server is stopping", hint="retry", retry_after_s=1))
        elif len(beginning) == 5 and stop > most + 5:
            stream.fail(TooLarge(f"the message is over {most} bytes", limit=most))
        elif len(beginning) == 5 and stop <= stream.received:
            data = self._take_front(stream, stop)
            if not stream.ended:
                self._write(number_frame(h2.WINDOW_UPDATE, stream.id, stop))
            turn = stream.turn = Turn(stream)
            stream.on_gone = turn.gone
            self._call(turn, data)
        elif stream.ended and stream.received:
            stream.fail(Invalid("the stream ends within a message"))
        elif stream.ended:
            stream.answered = True
            stream.count(200)
            self._finish(stream, OK)

    def send_part(self, stream: Stream, data: bytes) -> bool:
        """Write a part of an answer; whether all of it could be written."""
        if stream.id in self._streams:
            self._send(stream, data)
        return not stream.out

    def end_turn(self, turn: Turn, data: bytes, error: BasculeError | None) -> None:
        """A message of a stream is answered: go on with the next, unless its caller may not ask."""
        stream = turn.stream
        stream.on_gone = None
        stream.since = self.server.now
        if isinstance(error, Unauthenticated | Refused):
            if turn.series is not stream.series:  # else it is counted as the stream
                turn.count(status_of(error))
            stream.fail(error)
            return
        turn.count(200 if error is None else status_of(error))
        if data:
            self.send_part(stream, data)
        # Not at once: thousands may wait that are wrong.
        asyncio.get_running_loop().call_soon(self._take_turn, stream)

    def _call(self, stream: Stream | Turn, data: bytes) -> None:
        stream.started_ns = time.perf_counter_ns()
        method = cast(Unary, stream.head.method)
        server = self.server
        try:
            stream.allow_method()
            if method.model_of is not None and server.backlog.is_behind(stream.started_ns):
                self._wait(stream, method, method.model_of, data)
                return
        except BasculeError as error:
            stream.fail(error)
            return
        self._handle(stream, method, data)

    def _wait(self, stream: Stream | Turn, method: Unary, model_of: ModelOf, data: bytes) -> None:
        """Have a call wait for its turn, counted under its model whether it succeeds or not."""
        backlog, limits = self.server.backlog, self.server.limits
        model = model_of(h2.beginning_of(data, stream.head.encoding, _BEGINNING_BYTES))
        if model is not None:
            stream.allow(model.needs, model.name)
            stream.series = model.series
        stream.body = data
        allowed_s = stream.allowed_s(limits.deadline_s)
        refusal = backlog.add(stream, allowed_s, partial(self._handle, stream, method, data))
        if refusal is not None:
            stream.fail(refusal)

    def _handle(self, stream: Stream | Turn, method: Unary, data: bytes) -> None:
        if data[:1] == b"\1":
            stream.run(partial(self._unpack, stream, method, data))
            return
        try:
            stream.body = h2.message_of(data, b"", self.server.limits.max_body_bytes)
            method.handle(stream)
        except Exception as problem:
            stream.fail_with(problem)

    def _unpack(self, stream: Stream | Turn, method: Unary, data: bytes) -> None:
        """Handle a call whose message is compressed; on a thread, if it becomes a long one."""

        def handle(body: bytes, _: float) -> None:
            stream.body = body
            method.handle(stream)

        stream.encoding = encoding = stream.head.encoding
        most = self.server.limits.max_body_bytes
        try:
            body = h2.message_of(data, encoding, min(most, offload.ROWS_FROM_BYTES))
        except TooLarge:
            stream.body = data
            stream.read_aside(lambda: h2.message_of(data, encoding, most), handle)
        else:
            handle(body, 0.0)

    def _take_messages(self, stream: Stream) -> None:
        """Answer the messages of a stream as they come."""
        if type(stream.head.method) is InParts:
            self._take_turn(stream)
            return
        data = self._take_parts(stream)
        method = stream.head.method
        taken = 0
        try:
            while len(data) >= 5:
                stop = 5 + int.from_bytes(data[1:5])
                taken += 1
                if taken > _MAX_MESSAGES_AT_ONCE:
                    raise Overloaded(
                        f"over {_MAX_MESSAGES_AT_ONCE} messages of a stream at once",
                        hint="wait for the answer to each",
                    )
                if stop > _MAX_STREAMED_MESSAGE_BYTES:
                    raise TooLarge(f"the message is over {_MAX_STREAMED_MESSAGE_BYTES} bytes")
                if stop > len(data):
                    break
                stream.allow_method()
                message = h2.message_of(
                    data[:stop], stream.head.encoding, _MAX_STREAMED_MESSAGE_BYTES
                )
                data = data[stop:]
                stream.since = self.server.now
                if isinstance(method, Each):
                    self._send(stream, method.reply(message))
                elif isinstance(method, Watch):
                    if stream.look is not None:
                        raise Invalid("the request is not exactly one message")
                    look = method.look(message)
                    self._check_watches()
                    stream.look = look
                    self._watches += 1
                    self.server.watches += 1
                    self._look(stream)
        except BasculeError as error:
            stream.fail(error)
            return
        if data:
            self._keep(stream, data)

    def _check_watches(self) -> None:
        if self._watches >= MAX_WATCHES or self.server.watches >= MAX_WATCHES_OF_ALL:
            raise Overloaded(
                f"{MAX_WATCHES} watches are open on the connection, or {MAX_WATCHES_OF_ALL} here",
                hint="watch once, or ask Health/Check now and then",
            )

    def _look(self, stream: Stream) -> None:
        assert stream.look is not None
        state = stream.look()
        # The first state is sent even if it has no bytes.
        if not stream.started or state != stream.told:
            stream.told = state
            self._send(stream, state)

    def _look_again(self, stream: Stream) -> None:
        try:
            stream.allow_method()
        except BasculeError as problem:
            stream.fail(problem)
        else:
            self._look(stream)

    # -- the other frames --

    def _on_window_update(self, id_: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(h2.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of 4 bytes")
        more = int.from_bytes(payload) & h2.LARGEST_WINDOW
        if more == 0:
            raise Broken(h2.PROTOCOL_ERROR, "a window grows by nothing")
        if id_ == 0:
            was_shut = self._send_window <= 0
            self._send_window += more
            if self._send_window > h2.LARGEST_WINDOW:
                raise Broken(h2.FLOW_CONTROL_ERROR, "a window is too large")
            if was_shut:
                self._pump()  # else the blocked streams wait for their own windows
            return
        stream = self._streams.get(id_)
        if stream is None:
            if id_ > self._last_id:
                raise Broken(h2.PROTOCOL_ERROR, "a window of a stream that is not open")
            return
        stream.window += more
        if stream.window > h2.LARGEST_WINDOW:
            raise Broken(h2.FLOW_CONTROL_ERROR, "a window is too large")
        if id_ in self._blocked:
            self._unblock(stream)

    def _on_reset(self, id_: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(h2.FRAME_SIZE_ERROR, "RST_STREAM is not of 4 bytes")
        if id_ == 0 or id_ > self._last_id:
            raise Broken(h2.PROTOCOL_ERROR, "a stream is reset that is not open")
        stream = self._streams.get(id_)
        if stream is None:
            if self._crossing:
                self._crossing -= 1
            else:
                self._note_idle_frame()
            return
        self._forget(stream)
        stream.gone()
        if not (stream.is_late() or self._may_have_come_late(stream)):
            self._note_idle_frame()

    def _may_have_come_late(self, stream: Stream) -> bool:
        """Whether a call and its end were read together, with a whole deadline between them.

        A loop that is behind reads late. How late is not known, only that nothing of it was there
        at the reading before. To make it look so wins a client nothing: it may make as many calls
        as it likes, and those that are given up are the ones that are not run.
        """
        asked_s = stream.head.timeout_s
        waited_s = self.read_s - self._read_before_s
        return 0 < asked_s <= waited_s and stream.opened_s == self.read_s

    def _on_ping(self, id_: int, flags: int, payload: bytes) -> None:
        if id_:
            raise Broken(h2.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise Broken(h2.FRAME_SIZE_ERROR, "PING is not of 8 bytes")
        if not flags & h2.ACK:
            self._write(frame(h2.PING, h2.ACK, 0, payload))
        elif payload == _DRAIN_PING and self._drained_s:
            self._heard_s = self._heard_s or self.server.now

    def _on_settings(self, id_: int, flags: int, payload: bytes) -> None:
        if id_:
            raise Broken(h2.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % 6 or (flags & h2.ACK and payload):
            raise Broken(h2.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        self._has_settings = True
        if flags & h2.ACK:
            return
        first_window = self._first_window
        for name, value in h2.read_settings(payload):
            if name == h2.INITIAL_WINDOW_SIZE:
                if value > h2.LARGEST_WINDOW:
                    raise Broken(h2.FLOW_CONTROL_ERROR, "a window is too large")
                first_window = value
            elif name == h2.MAX_FRAME_SIZE:
                if not h2.LEAST_FRAME <= value <= h2.LARGEST_FRAME:
                    raise Broken(h2.PROTOCOL_ERROR, "a size of frames that may not be")
                self._frame_bytes = value
            elif name == h2.ENABLE_PUSH and value > 1:
                raise Broken(h2.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        # Once, and not for each: a frame has room for twenty thousand.
        for stream in self._streams.values():
            stream.window += first_window - self._first_window
        self._first_window = first_window
        self._write(frame(h2.SETTINGS, h2.ACK, 0))
        self._pump()

    # -- answering --

    def answer(self, stream: Stream, message: bytes) -> None:
        """Write the whole answer of a call, or what of it the client has room for."""
        if stream.id not in self._streams or self._transport.is_closing():
            stream.count(499)
            return
        # Counted first: a client with its answer finds it counted, in any worker's metrics.
        stream.count(200)
        encoding = stream.encoding if len(message) >= _MIN_COMPRESSED_BYTES else b""
        data = h2.compressed(message, encoding) if encoding else h2.enclosed(message)
        length = len(data)
        if (
            length <= self._frame_bytes
            and length <= self._send_window
            and length <= stream.window
            and self._writable
            and stream.ended
            and not stream.request_id
        ):
            self._send_window -= length
            id_ = stream.id.to_bytes(4)
            del self._streams[stream.id]
            self._crossing += 1
            self._write(
                _HEADERS_STARTS[encoding], id_, _ANSWER_HEADS[encoding],
                length.to_bytes(3), b"\0\0", id_, data,
                _TRAILERS_START, id_, _OK_TRAILERS,
            )  # fmt: skip
            return
        self._start(stream, encoding)
        self._add_out(stream, data)
        self._finish(stream, OK)

    def refuse(self, stream: Stream, error: BasculeError) -> None:
        """Answer with an error."""
        if stream.id not in self._streams or self._transport.is_closing():
            stream.count(499)
            return
        status = status_of(error)
        if status >= FAILED_FROM:
            stream.need_request_id()
        stream.count(status)
        head = _NO_CALL_HEAD if status == 415 else _ANSWER_HEAD
        self._finish(stream, code_of(error), error_text(error), pushback_ms(error), head)

    def _reset(self, stream: Stream, code: int) -> None:
        """Give up a call without an answer."""
        self._note_idle_frame()
        self._write(number_frame(h2.RST_STREAM, stream.id, code))
        self._forget(stream)
        if not stream.answered:
            stream.answered = True
            if stream.on_gone is not None:
                stream.on_gone()
            stream.count(400)

    def _send(self, stream: Stream, message: bytes) -> None:
        """Write one message of several."""
        self._start(stream)
        self._add_out(stream, h2.enclosed(message))
        self._pump_one(stream)

    def _add_out(self, stream: Stream, data: bytes) -> None:
        stream.out.append(memoryview(data))
        self._unread += len(data)

    def _start(self, stream: Stream, encoding: bytes = b"") -> None:
        if not stream.started:
            stream.started = True
            block = _ANSWER_HEADS[encoding] + _id_block(stream)
            self._write(frame(h2.HEADERS, h2.END_HEADERS, stream.id, block))

    def _finish(
        self,
        stream: Stream,
        code: int,
        words: str = "",
        pushback: int | None = None,
        head: bytes = _ANSWER_HEAD,
    ) -> None:
        headers = [(b"grpc-status", b"%d" % code)]
        if words:
            headers.append((b"grpc-message", h2.words_of(words)))
        if pushback is not None:
            headers.append((b"grpc-retry-pushback-ms", b"%d" % pushback))
        block = h2.header_block(headers)
        stream.trailers = block if stream.started else head + _id_block(stream) + block
        self._pump_one(stream)

    def _pump(self) -> None:
        for stream in tuple(self._blocked.values()):
            if self._send_window <= 0 or not self._writable or self._closing:
                return
            self._unblock(stream)

    def _unblock(self, stream: Stream) -> None:
        """Write what there is room for now, and have an answer in parts go on."""
        self._pump_one(stream)
        if type(stream.head.method) is InParts and not stream.out:
            if stream.on_gone is None:
                self._take_turn(stream)
            else:
                stream.turn.resume()

    def _pump_one(self, stream: Stream) -> None:
        """Write what of a stream there is room for."""
        out = stream.out
        while out:
            room = min(len(out[0]), self._frame_bytes, self._send_window, stream.window)
            if room <= 0 or not self._writable:
                if stream.id not in self._blocked:
                    stream.taking = Taking(stream.sent, 0.0)
                    stream.shut_s = 0.0
                    self._blocked[stream.id] = stream
                self._note_unread()
                return
            piece = out[0]
            self._unread -= room
            self._send_window -= room
            stream.window -= room
            stream.sent += room
            stream.since = self.server.now
            self._write(frame(h2.DATA, 0, stream.id, bytes(piece[:room])))
            if room < len(piece):
                out[0] = piece[room:]
                self._flush()  # or nothing could say that there is no more room
            else:
                del out[0]
        self._blocked.pop(stream.id, None)
        if stream.trailers is not None and stream.id in self._streams:
            flags = h2.END_HEADERS | h2.END_STREAM
            self._write(frame(h2.HEADERS, flags, stream.id, stream.trailers))
            if not stream.ended:
                # It is answered before it has all been said: the rest is not wanted.
                self._write(number_frame(h2.RST_STREAM, stream.id, h2.NO_ERROR))
            self._crossing += 1
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._drop(stream)
        self._streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        self._note_unread()

    def _drop(self, stream: Stream) -> None:
        """Count nothing of a stream any more, which is open no longer."""
        self._drop_parts(stream)
        self._unread -= sum(map(len, stream.out))
        stream.out.clear()
        if stream.look is not None:
            self._watches -= 1
            self.server.watches -= 1

    def _note_unread(self) -> None:
        unread = self._unread + _BESIDE_STREAM_BYTES * len(self._blocked)
        if unread != self._unread_noted:
            self._unread_noted = unread
            self.server.backlog.unread.note(self, unread)

    def cut_off(self) -> None:
        """See `admission.Client`."""
        self._end(h2.ENHANCE_YOUR_CALM, "too much of the answers is not taken")

    def _write(self, *pieces: bytes) -> None:
        self._out += pieces
        if not self._corked:
            self._flush()

    def _flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            if not self._transport.is_closing():
                data = b"".join(out)
                self._written += len(data)
                self._transport.write(data)

    # -- times, and the end --

    def tick(self) -> None:
        """Tell watchers, and give up what takes too long."""
        server, limits = self.server, self.server.limits
        self._idle_frames = self._crossing = 0
        passed_s, self._ticked_s = server.now - self._ticked_s, server.now
        for stream in tuple(self._streams.values()):
            if stream.look is not None and not stream.answered:
                self._look_again(stream)
            if stream.id in self._blocked:
                self._check_room_of(stream, passed_s)
            elif not stream.ended and not stream.answered and stream.look is None:
                if type(stream.head.method) is not InParts:
                    allowed_s = limits.receive_timeout_s
                elif stream.on_gone is None:
                    allowed_s = limits.idle_timeout_s
                else:
                    continue
                if server.now - stream.since > allowed_s:
                    stream.fail(TimedOut(f"the request did not arrive within {allowed_s:g} s"))
        self._check_taking(passed_s)
        is_idle = server.now - self._since > limits.idle_timeout_s
        if not self._last_id:
            # Not from what was heard last: to send pings is not to make calls.
            is_idle = is_idle or server.now - self._made > limits.first_request_timeout_s
        if is_idle and not self._streams:
            self._retire()  # the client may be sending a call at this moment
        if self._drained_s or self._closing:
            self.go_on_draining()

    def _check_room_of(self, stream: Stream, passed_s: float) -> None:
        """Give up an answer for which its client leaves no room, or next to none.

        It is the client's doing only where the stream itself has no room. Where the connection has
        none, the answers before it are being taken, or the connection itself is too slow.
        """
        server = self.server
        if stream.window > 0:
            return
        stream.shut_s += min(passed_s, server.now - stream.since)
        among = len(self._blocked)
        if stream.taking.is_too_slow(stream.sent, stream.shut_s, server.limits, among=among):
            server.other_series.count(499, 0, 0)
            self._write(number_frame(h2.RST_STREAM, stream.id, h2.CANCEL))
            self._forget(stream)
            stream.gone()

    def _check_taking(self, passed_s: float) -> None:
        """End the connection of a client that takes next to nothing of what there is for it."""
        unsent = self._transport.get_write_buffer_size()
        is_owed = unsent or (self._blocked and self._send_window <= 0)
        if not is_owed:
            if not self._blocked:
                self._taking = None
            return
        taken = self._written - unsent - unacknowledged_bytes(self._transport)
        if self._taking is None:
            self._taking = Taking(taken, 0.0)
            self._owed_s = 0.0
            return
        self._owed_s += passed_s
        if self._taking.is_too_slow(taken, self._owed_s, self.server.limits):
            self.server.other_series.count(499, 0, 0)
            self.abort()

    def _retire(self) -> None:
        """Say that the connection ends, in the two steps of RFC 9113, 6.8.

        The first GOAWAY names no stream, and a PING goes after it. What the client sends before it
        acknowledges that is answered; the second GOAWAY then names the last stream that is.
        """
        if self._closing or self._drained_s:
            return
        self._drained_s = self.server.now
        self._introduce()
        self._write(h2.goaway(h2.LARGEST_WINDOW, h2.NO_ERROR), frame(h2.PING, 0, 0, _DRAIN_PING))

    def drain(self) -> None:
        """Send GOAWAY; answer watches, which would never end, that the server stops."""
        self._retire()
        for stream in tuple(self._streams.values()):
            if stream.look is not None and not stream.answered:
                self._look_again(stream)
            if stream.look is not None and not stream.answered:
                stream.answered = True
                stream.count(200)
                self._finish(stream, UNAVAILABLE, "the server is stopping")
            if type(stream.head.method) is InParts:
                self._take_turn(stream)

    def go_on_draining(self) -> None:
        """Close once everything is answered, and the client has had the time to read it."""
        now = self.server.now
        if self._closing:
            if now - self._since > _LINGER_S:
                self._leave()
            return
        has_heard = self._heard_s and now - self._heard_s > _AFTER_HEARD_S
        if has_heard or now - self._drained_s > _DRAIN_WITHIN_S:
            self._announce_the_last()
        if not self._streams and self._refuses_from != h2.LARGEST_WINDOW:
            self._closing = True
            self._since = now
            self._close()

    def _announce_the_last(self) -> None:
        """The client has heard that the server leaves; it makes what comes now elsewhere."""
        if self._refuses_from == h2.LARGEST_WINDOW:
            self._refuses_from = self._last_id
            self._write(h2.goaway(self._last_id, h2.NO_ERROR))

    def _end(self, code: int, words: str) -> None:
        """Say why, and close; what is under way here is not answered."""
        self._closing = True
        self._since = self.server.now
        self._rest = b""
        self._introduce()
        self._write(h2.goaway(min(self._last_id, self._refuses_from), code, words))
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        for stream in streams.values():
            self._drop(stream)
            stream.gone()
        self._note_unread()
        self._close()

    def _close(self) -> None:
        # To close with something unread resets the connection, and the client may lose what it was
        # answered. So it is read on, until the client closes or has had its time. TLS has no end of
        # one direction: there GOAWAY alone has the client close.
        self._flush()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _leave(self) -> None:
        """End a connection on which nothing more is to be said; at once if it is asked again."""
        if self._transport.is_closing():
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, with calls in progress."""
        self._transport.abort()


def _id_block(stream: Stream) -> bytes:
    if not stream.request_id:
        return b""
    return h2.header_block([(b"x-request-id", stream.request_id), *stream.shown])


def _front(pieces: list[bytes | memoryview], size: int) -> bytes:
    """The first bytes of pieces, `size` at most."""
    taken: list[bytes | memoryview] = []
    for piece in pieces:
        if size <= 0:
            break
        taken.append(piece[:size])
        size -= len(piece)
    return b"".join(taken)


def _unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where what is padded starts and stops."""
    if start >= stop or start + 1 + data[start] > stop:
        raise Broken(h2.PROTOCOL_ERROR, "more padding than frame")
    return start + 1, stop - data[start]
