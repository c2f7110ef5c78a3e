"""The streams of one connection of HTTP/2: calls, their messages, and the flow of both.

What is kept of messages that are not whole counts in the account of the worker (`BufferBudget`). An
answer is written within the windows of its stream and of the connection; what does not fit waits
here, and is counted (`Unread`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

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
from bascule.serving.execution import AdmissionQueue, Client
from bascule.serving.telemetry import FAILED_FROM
from bascule.serving.transports import frames as h2, offload
from bascule.serving.transports.frames import HEAD, frame, number_frame
from bascule.serving.transports.http2_heads import Head
from bascule.serving.transports.parts import PartForm, PartSender
from bascule.serving.transports.rpc import (
    InParts,
    ModelOf,
    Read,
    Rpc,
    RpcInParts,
    Unary,
    Watch,
    pushback_ms,
)
from bascule.serving.transports.sites import Shared, Taking, address_of, unacknowledged_bytes
from bascule.serving.transports.statuses import OK, UNAVAILABLE, code_of, error_text, status_of

MAX_WATCHES = 16
MAX_WATCHES_OF_ALL = 1_000
"""How many watches one connection may have open, and all connections of a worker. Nothing ends a
watch but its client, and it needs no key."""
_LATE_SHARE = 0.5
"""A call that is given up after this share of its deadline is taken to have been given up for it.

HTTP/2 does not say which it was, and a client's deadline is over before it is here, where it starts
when the request is read: a server that is busy reads late."""
_MIN_COMPRESSED_BYTES = 256
_BEGINNING_BYTES = 512
"""The start of a message, which names its model in two texts of up to 128 characters."""
_BESIDE_PIECE_BYTES = 64
"""The approximate memory of a piece of a message beside its bytes: it may have only one byte."""
_BESIDE_STREAM_BYTES = 1024
"""The approximate memory of a stream whose answer waits, beside the answer."""
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


class Http2Call(Rpc):
    """One call on a connection, or one message of it: what was asked, and by which head."""

    __slots__ = ("answered", "encoding", "flow", "head", "opened_s", "waited_s")

    flow: Flow
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
        guard = self.flow.server.guard
        if guard is not None:
            self.caller = guard.check(self.head.authorization, action, model) or self.caller

    @property
    def address(self) -> str:
        """See `Context`."""
        return address_of(self.flow.transport)

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
        if self.flow.server.recorder is not None:
            self.call = call
        self.on_gone = model.answer(call, self, allowed_s, deliver)

    def read_aside(self, read: Callable[[], Read], go_on: Callable[[Read, float], None]) -> None:
        server = self.flow.server
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
        self.tell(self.flow.server, status)

    def is_late(self) -> bool:
        """Whether a call that is given up now is taken to be given up for its own deadline."""
        asked_s = self.head.timeout_s
        return bool(asked_s) and time.monotonic() - self.opened_s >= asked_s * _LATE_SHARE

    def take(self, data: bytes) -> None:
        """Answer a message, now or in its turn."""
        self.started_ns = time.perf_counter_ns()
        method = cast(Unary, self.head.method)
        server = self.flow.server
        try:
            self.allow_method()
            if method.model_of is not None and server.backlog.is_behind(self.started_ns):
                self._wait(method, method.model_of, data)
                return
        except BasculeError as error:
            self.fail(error)
            return
        self._handle(method, data)

    def _wait(self, method: Unary, model_of: ModelOf, data: bytes) -> None:
        """Have a call wait for its turn, counted under its model whether it succeeds or not."""
        backlog, limits = self.flow.server.backlog, self.flow.server.limits
        model = model_of(h2.beginning_of(data, self.head.encoding, _BEGINNING_BYTES))
        if model is not None:
            self.allow(model.needs, model.name)
            self.series = model.series
        self.body = data
        allowed_s = self.allowed_s(limits.deadline_s)
        refusal = backlog.add(self, allowed_s, partial(self._handle, method, data))
        if refusal is not None:
            self.fail(refusal)

    def _handle(self, method: Unary, data: bytes) -> None:
        if data[:1] == b"\1":
            self.run(partial(self._unpack, method, data))
            return
        try:
            self.body = h2.message_of(data, b"", self.flow.server.limits.max_body_bytes)
            method.handle(self)
        except Exception as problem:
            self.fail_with(problem)

    def _unpack(self, method: Unary, data: bytes) -> None:
        """Handle a call whose message is compressed; on a thread, if it becomes a long one."""

        def handle(body: bytes, _: float) -> None:
            self.body = body
            method.handle(self)

        self.encoding = encoding = self.head.encoding
        most = self.flow.server.limits.max_body_bytes
        try:
            body = h2.message_of(data, encoding, min(most, offload.ROWS_FROM_BYTES))
        except TooLarge:
            self.body = data
            self.read_aside(lambda: h2.message_of(data, encoding, most), handle)
        else:
            handle(body, 0.0)


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

    def __init__(self, flow: Flow, id_: int, head: Head, opened_s: float) -> None:
        super().__init__(b"", flow.server.other_series)
        self.flow = flow
        self.id = id_
        self.head = head
        self.request_id = head.request_id
        self.window = flow.first_window
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
        self.opened_s = opened_s
        self.since = flow.server.now

    def show(self, by: AnsweredBy) -> None:
        self.need_request_id()  # such answers get a head of their own
        arm = (("bascule-version", by.name), ("bascule-arm", by.arm)) if by.endpoint else ()
        self.shown = tuple(
            (field.lower().encode(), value.encode()) for field, value in (*arm, *by.notice)
        )

    def answer(self, message: bytes) -> None:
        if not self.answered:
            self.answered = True
            self.flow.answer(self, message)

    def fail(self, error: BasculeError) -> None:
        if not self.answered:
            self.answered = True
            self.flow.refuse(self, self.fails(error))

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

    # -- what is kept of messages that are not whole, or wait for their turn --

    def keep(self, piece: bytes | memoryview) -> None:
        flow = self.flow
        self.parts.append(piece)
        self.received += len(piece)
        flow.buffered += len(piece)
        flow.server.held.bytes += len(piece) + _BESIDE_PIECE_BYTES

    def drop_parts(self) -> None:
        flow = self.flow
        flow.buffered -= self.received
        flow.server.held.bytes -= self.received + _BESIDE_PIECE_BYTES * len(self.parts)
        self.parts.clear()
        self.received = 0

    def take_parts(self) -> bytes:
        data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.drop_parts()
        return cast(bytes, data)

    def _take_front(self, size: int) -> bytes:
        """The first bytes of what is kept; to join all of it for each would take too long."""
        flow, data, left, whole = self.flow, _front(self.parts, size), size, 0
        for piece in self.parts:
            if len(piece) > left:
                break
            left -= len(piece)
            whole += 1
        del self.parts[:whole]
        if left:
            self.parts[0] = memoryview(self.parts[0])[left:]
        self.received -= size
        flow.buffered -= size
        flow.server.held.bytes -= size + _BESIDE_PIECE_BYTES * whole
        return data

    # -- methods of several messages --

    def take_messages(self) -> None:
        """Answer the next message, if there is one whole and none is being answered.

        What comes meanwhile is kept, within the window of the stream, which grows by what is taken.
        """
        if self.on_gone is not None or self.answered or self.out:
            return
        try:
            message = self._next_message()
            if message is None:
                return
            if isinstance(self.head.method, Watch):
                self._watch(self.head.method, message)
                return
        except BasculeError as error:
            self.fail(error)
            return
        turn = self.turn = Turn(self)
        self.on_gone = turn.gone
        turn.take(message)

    def _next_message(self) -> bytes | None:
        """A whole message in its frame; None where there is none, and at the end of the stream."""
        server, most = self.flow.server, self.flow.server.limits.max_body_bytes
        if self.ended and not self.received:
            if not isinstance(self.head.method, Watch):
                self.answered = True
                self.count(200)
                self.flow.finish(self, OK)
            elif self.look is None:
                raise Invalid("the request is not exactly one message")
            return None
        if server.draining:
            raise Unavailable("the server is stopping", hint="retry", retry_after_s=1)
        beginning = _front(self.parts, 5)
        stop = 5 + int.from_bytes(beginning[1:])
        if len(beginning) == 5 and stop > most + 5:
            raise TooLarge(f"the message is over {most} bytes", limit=most)
        if len(beginning) == 5 and stop <= self.received:
            message = self._take_front(stop)
            self.since = server.now
            if not self.ended:
                self.flow.write(number_frame(h2.WINDOW_UPDATE, self.id, stop))
            return message
        if self.ended:
            raise Invalid("the stream ends within a message")
        return None

    def _watch(self, method: Watch, data: bytes) -> None:
        """Answer now, and when that changes."""
        self.allow_method()
        if self.look is not None:
            raise Invalid("the request is not exactly one message")
        most = self.flow.server.limits.max_body_bytes
        look = method.look(h2.message_of(data, self.head.encoding, most))
        self._check_watches()
        self.look = look
        self.flow.watches += 1
        self.flow.server.watches += 1
        self._look()

    def _check_watches(self) -> None:
        if self.flow.watches >= MAX_WATCHES or self.flow.server.watches >= MAX_WATCHES_OF_ALL:
            raise Overloaded(
                f"{MAX_WATCHES} watches are open on the connection, or {MAX_WATCHES_OF_ALL} here",
                hint="watch once, or ask Health/Check now and then",
            )

    def _look(self) -> None:
        assert self.look is not None
        state = self.look()
        # The first state is sent even if it has no bytes.
        if not self.started or state != self.told:
            self.told = state
            self.flow.send(self, state)

    def look_again(self) -> None:
        try:
            self.allow_method()
        except BasculeError as problem:
            self.fail(problem)
        else:
            self._look()

    def end_turn(self, data: bytes, error: BasculeError | None) -> None:
        """A message is answered: go on with the next, unless its error ends the stream."""
        turn, self.on_gone = self.turn, None
        del self.turn  # a hundred thousand streams may wait until their answers are read
        self.since = self.flow.server.now
        if error is not None and not data:
            if turn.series is not self.series:  # else it is counted as the stream
                turn.count(status_of(error))
            self.fail(error)
            return
        if cast(InParts, self.head.method).failed is not None:
            turn.count(200 if error is None else status_of(error))
        if data:
            self.send_part(data)
        # Not at once: thousands may wait that are wrong.
        asyncio.get_running_loop().call_soon(self.take_messages)

    def send_part(self, data: bytes) -> bool:
        """Write a part of an answer; whether all of it could be written."""
        if self.id in self.flow.streams:
            self.flow.send(self, data)
        return not self.out

    def has_room(self) -> None:
        """All that was to be written of a part is: go on with the next, or the next message."""
        if self.on_gone is None:
            self.take_messages()
        else:
            self.turn.resume()

    def drain(self) -> None:
        """End what would not end by itself: the worker stops."""
        if self.look is not None and not self.answered:
            self.look_again()
        if self.look is not None and not self.answered:
            self.answered = True
            self.count(200)
            self.flow.finish(self, UNAVAILABLE, "the server is stopping")
        if type(self.head.method) is InParts:
            self.take_messages()


class Turn(Http2Call, RpcInParts):
    """One message of a stream, answered in parts on it before the next message has its turn."""

    __slots__ = ("resume", "stream")

    resume: Callable[[], None]

    def __init__(self, stream: Stream) -> None:
        super().__init__(b"", stream.flow.server.other_series)
        self.flow = stream.flow
        self.head = stream.head
        self.request_id = stream.request_id
        self.opened_s = stream.opened_s
        self.waited_s = 0.0
        self.answered = False
        self.encoding = b""
        self.stream = stream

    @property
    def backlog(self) -> AdmissionQueue:
        return self.flow.server.backlog

    def show(self, by: AnsweredBy) -> None:
        """Nothing: each message names the version."""

    def ask_in_parts(self, call: Call, form: PartForm) -> None:
        model = self.model
        assert model is not None, "the caller's right was not checked"
        if self.flow.server.recorder is not None:
            self.call = call
        PartSender(self, self, model, form).ask(call, self.allowed_s(model.limits.deadline_s))

    def begin(self, content_type: bytes, extra: bytes, resume: Callable[[], None]) -> None:  # noqa: ARG002
        """See `PartWire`."""
        self.resume = resume

    def send(self, data: bytes) -> bool:
        """See `PartWire`."""
        return self.stream.send_part(data)

    def end(self, data: bytes, error: BasculeError | None) -> None:
        """See `PartWire`."""
        if not self.answered:
            self.answered = True
            ends_stream = isinstance(error, Unauthenticated | Refused)
            self.stream.end_turn(b"" if ends_stream else data, error)

    def answer(self, message: bytes) -> None:
        self.end(message, None)

    def fail(self, error: BasculeError) -> None:
        error = self.fails(error)
        failed = cast(InParts, self.head.method).failed
        self.end(b"" if failed is None else failed(self, error), error)

    def gone(self) -> None:
        """The client has given the stream up."""
        if not self.answered:
            self.answered = True
            if self.on_gone is not None:
                self.on_gone()
            self.count(504 if self.is_late() else 499)


class Flow:
    """What one connection has under way, and what waits for the client to make room."""

    transport: asyncio.Transport

    def __init__(self, server: Shared[Any], client: Client) -> None:
        self.server = server
        self._client = client
        self.streams: dict[int, Stream] = {}
        self.buffered = self.watches = 0
        self._out: list[bytes] = []
        self.corked = False
        self.writable = True
        self.send_window = h2.DEFAULT_WINDOW
        self.first_window = h2.DEFAULT_WINDOW
        self.frame_bytes = h2.LEAST_FRAME
        self.blocked: dict[int, Stream] = {}
        # Of answers, what waits for the client to make room; and how much of it has been noted.
        self._unread = self._unread_noted = 0
        # Answers of this second, with each of which a reset of its call may cross.
        self.crossing = 0
        self._written = 0
        self._taking: Taking | None = None
        self._owed_s = 0.0

    def end(self) -> None:
        """Give up all that is under way: the connection ends."""
        streams, self.streams = self.streams, {}
        self.blocked.clear()
        for stream in streams.values():
            self.drop(stream)
            stream.gone()
        self.note_unread()

    def answer(self, stream: Stream, message: bytes) -> None:
        """Write the whole answer of a call, or what of it the client has room for."""
        if stream.id not in self.streams or self.transport.is_closing():
            stream.count(499)
            return
        # Counted first: a client with its answer finds it counted, in any worker's metrics.
        stream.count(200)
        encoding = stream.encoding if len(message) >= _MIN_COMPRESSED_BYTES else b""
        data = h2.compressed(message, encoding) if encoding else h2.enclosed(message)
        length = len(data)
        if (
            length <= self.frame_bytes
            and length <= self.send_window
            and length <= stream.window
            and self.writable
            and stream.ended
            and not stream.request_id
        ):
            self.send_window -= length
            id_ = stream.id.to_bytes(4)
            del self.streams[stream.id]
            self.crossing += 1
            self.write(
                _HEADERS_STARTS[encoding], id_, _ANSWER_HEADS[encoding],
                length.to_bytes(3), b"\0\0", id_, data,
                _TRAILERS_START, id_, _OK_TRAILERS,
            )  # fmt: skip
            return
        self._start(stream, encoding)
        self._add_out(stream, data)
        self.finish(stream, OK)

    def refuse(self, stream: Stream, error: BasculeError) -> None:
        """Answer with an error."""
        if stream.id not in self.streams or self.transport.is_closing():
            stream.count(499)
            return
        status = status_of(error)
        if status >= FAILED_FROM:
            stream.need_request_id()
        stream.count(status)
        head = _NO_CALL_HEAD if status == 415 else _ANSWER_HEAD
        self.finish(stream, code_of(error), error_text(error), pushback_ms(error), head)

    def send(self, stream: Stream, message: bytes) -> None:
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
            self.write(frame(h2.HEADERS, h2.END_HEADERS, stream.id, block))

    def finish(
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

    def pump(self) -> None:
        for stream in tuple(self.blocked.values()):
            if self.send_window <= 0 or not self.writable:
                return
            self.unblock(stream)

    def unblock(self, stream: Stream) -> None:
        """Write what there is room for now, and have an answer in parts go on."""
        self._pump_one(stream)
        if type(stream.head.method) is InParts and not stream.out:
            stream.has_room()

    def _pump_one(self, stream: Stream) -> None:
        """Write what of a stream there is room for."""
        out = stream.out
        while out:
            room = min(len(out[0]), self.frame_bytes, self.send_window, stream.window)
            if room <= 0 or not self.writable:
                if stream.id not in self.blocked:
                    stream.taking = Taking(stream.sent, 0.0)
                    stream.shut_s = 0.0
                    self.blocked[stream.id] = stream
                self.note_unread()
                return
            piece = out[0]
            self._unread -= room
            self.send_window -= room
            stream.window -= room
            stream.sent += room
            stream.since = self.server.now
            self.write(frame(h2.DATA, 0, stream.id, bytes(piece[:room])))
            if room < len(piece):
                out[0] = piece[room:]
                self.flush()  # or nothing could say that there is no more room
            else:
                del out[0]
        self.blocked.pop(stream.id, None)
        if stream.trailers is not None and stream.id in self.streams:
            flags = h2.END_HEADERS | h2.END_STREAM
            self.write(frame(h2.HEADERS, flags, stream.id, stream.trailers))
            if not stream.ended:
                # It is answered before it has all been said: the rest is not wanted.
                self.write(number_frame(h2.RST_STREAM, stream.id, h2.NO_ERROR))
            self.crossing += 1
            self.forget(stream)

    def note_unread(self) -> None:
        unread = self._unread + _BESIDE_STREAM_BYTES * len(self.blocked)
        if unread != self._unread_noted:
            self._unread_noted = unread
            self.server.backlog.unread.note(self._client, unread)

    def write(self, *pieces: bytes) -> None:
        self._out += pieces
        if not self.corked:
            self.flush()

    def flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            if not self.transport.is_closing():
                data = b"".join(out)
                self._written += len(data)
                self.transport.write(data)

    def check_room_of(self, stream: Stream, passed_s: float) -> None:
        """Give up an answer for which its client leaves no room, or next to none.

        It is the client's doing only where the stream itself has no room. Where the connection has
        none, the answers before it are being taken, or the connection itself is too slow.
        """
        server = self.server
        if stream.window > 0:
            return
        stream.shut_s += min(passed_s, server.now - stream.since)
        among = len(self.blocked)
        if stream.taking.is_too_slow(stream.sent, stream.shut_s, server.limits, among=among):
            server.other_series.count(499, 0, 0)
            self.write(number_frame(h2.RST_STREAM, stream.id, h2.CANCEL))
            self.forget(stream)
            stream.gone()

    def check_taking(self, passed_s: float) -> None:
        """End the connection of a client that takes next to nothing of what there is for it."""
        unsent = self.transport.get_write_buffer_size()
        is_owed = unsent or (self.blocked and self.send_window <= 0)
        if not is_owed:
            if not self.blocked:
                self._taking = None
            return
        taken = self._written - unsent - unacknowledged_bytes(self.transport)
        if self._taking is None:
            self._taking = Taking(taken, 0.0)
            self._owed_s = 0.0
            return
        self._owed_s += passed_s
        if self._taking.is_too_slow(taken, self._owed_s, self.server.limits):
            self.server.other_series.count(499, 0, 0)
            self.transport.abort()

    def forget(self, stream: Stream) -> None:
        self.drop(stream)
        self.streams.pop(stream.id, None)
        self.blocked.pop(stream.id, None)
        self.note_unread()

    def drop(self, stream: Stream) -> None:
        """Count nothing of a stream any more, which is open no longer."""
        stream.drop_parts()
        self._unread -= sum(map(len, stream.out))
        stream.out.clear()
        if stream.look is not None:
            self.watches -= 1
            self.server.watches -= 1


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
