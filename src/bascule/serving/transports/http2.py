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
from typing import Unpack, cast

from bascule.core import BasculeError, Overloaded, TimedOut, TooLarge
from bascule.serving.execution import SHORT_BYTES, TURN_S
from bascule.serving.limits import Limits
from bascule.serving.telemetry import MetricSeries
from bascule.serving.transports import frames as h2
from bascule.serving.transports.frames import (
    HEAD,
    HEAD_BYTES,
    Broken,
    frame,
    number_frame,
    unpadded,
)
from bascule.serving.transports.http2_flow import Flow, Stream
from bascule.serving.transports.http2_heads import MALFORMED, HeadReader, Heads
from bascule.serving.transports.rpc import InParts, Methods, Unary
from bascule.serving.transports.sites import OfWorker, Shared

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
_FRAME_BYTES = 128 << 10
_WINDOW = 1 << 30
_LINGER_S = 1.0
_DRAIN_WITHIN_S = 1.0
"""How long a client may take to acknowledge that the server stops."""
_AFTER_HEARD_S = 0.05
"""How long new streams of a client are accepted after its acknowledgement: it may have begun some
before, and grpcio writes the acknowledgement ahead of them."""
_DRAIN_PING = b"draining"
_NOT_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 41\r\n\r\nthis port speaks gRPC, over HTTP/2 alone\n"
)


class Http2Server(Shared["Http2Connection"]):
    """What the connections of one worker share: methods, limits, counters, the clock."""

    def __init__(
        self,
        methods: Methods,
        limits: Limits,
        other_series: MetricSeries,
        **of: Unpack[OfWorker],
    ) -> None:
        super().__init__(limits, other_series, **of)
        self.methods = methods
        self.heads = Heads(methods, self.hosts)

    def keep_headers(self, asked: frozenset[bytes]) -> None:
        """Read the headers that predictors ask for from now on."""
        if asked != self.heads.asked:
            self.heads.asked = asked
            for connection in self.connections:
                connection.known_heads.clear()

    def connect(self) -> Http2Connection:
        return Http2Connection(self)

    def tick(self) -> None:
        """Once a second: the coarse clock, watchers, and connections out of time."""
        self.now = self.clock()
        for connection in tuple(self.connections):
            connection.tick()

    async def drain(self) -> None:
        """See `Shared`; clients learn of it at once."""
        self.draining = True
        self.now = self.clock()
        for connection in tuple(self.connections):
            connection.drain()
        await super().drain()


class Http2Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.flow = Flow(server, self)
        self._transport: asyncio.Transport
        self._heads = HeadReader(server.heads, server.limits.max_head_bytes)
        self.known_heads = self._heads.known
        self._rest = b""
        # What was read is more than a turn of the loop takes, and the rest of it waits for another.
        self._is_over = self._waits = self._has_turn = False
        self._waiting_bytes = 0
        self._greeted = False
        self._introduced = False
        self._has_settings = False
        self._last_id = 0
        self._block: list[bytes] = []
        self._block_of = (0, 0)
        self._block_bytes = 0
        self._received = 0
        self._idle_frames = 0
        self._read_s = self._read_before_s = time.monotonic()
        self._closing = False
        self._refuses_from = h2.LARGEST_WINDOW
        self._since = self._made = server.now
        self._drained_s = 0.0
        self._heard_s = 0.0
        self._ticked_s = server.now

    # -- what the transport calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self.flow.transport = cast(asyncio.Transport, transport)
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
        self.flow.write(
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
            self._read_before_s = self._read_s
            self._read_s = time.monotonic()
        if self._rest:
            data = self._rest + data
        if len(data) > SHORT_BYTES and self._must_wait(data):
            return
        self.flow.corked = True
        try:
            self._rest = data[self._read(data) :]
        except Broken as broken:
            self._end(broken.code, str(broken))
        except Exception:
            # A bug of the server; the frames of other calls on the connection are lost as well.
            log.exception("a connection failed")
            self._end(h2.INTERNAL_ERROR, "internal error")
        finally:
            self.flow.corked = False
            self.flow.flush()
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
        if self.flow.writable and not (self._waits or self._transport.is_closing()):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.flow.writable = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.flow.writable = True
        self.flow.pump()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._closing = True
        self._drop_rest()
        self.server.connections.discard(self)
        self.flow.end()

    # -- reading frames --

    def _read(self, data: bytes) -> int:
        """Handle every whole frame, for a turn of the loop; returns where the next one starts."""
        at = frames = 0
        end = len(data)
        is_half_over = False
        since_s = time.monotonic() if self._has_turn else self._read_s
        if not self._greeted:
            if not data.startswith(h2.PREFACE):
                if h2.PREFACE.startswith(data):
                    return 0
                self._closing = True
                self.flow.write(_NOT_HTTP2)
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
                start, stop = unpadded(payload, 0, stop)
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
        stream = self.flow.streams.get(id_)
        if stream is not None:
            if stream.ended or not ended:
                raise Broken(h2.PROTOCOL_ERROR, "headers within a call that do not end it")
            if self._heads.decode(block, of_trailers=True) is MALFORMED:
                self._reset(stream, h2.PROTOCOL_ERROR)
            else:
                self._end_of(stream)
            return
        head = self.known_heads.get(block) or self._heads.decode(block)
        if id_ <= self._last_id:
            self._note_idle_frame()  # of a call that has been answered or given up
            return
        self._last_id = id_
        if len(self.flow.streams) >= MAX_STREAMS or id_ > self._refuses_from:
            self._note_idle_frame()
            self.flow.write(number_frame(h2.RST_STREAM, id_, h2.REFUSED_STREAM))
            return
        stream = self.flow.streams[id_] = Stream(self.flow, id_, head, self._read_s)
        stream.ended = ended
        if head is MALFORMED:
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

    def _on_data(self, id_: int, flags: int, data: bytes, start: int, stop: int) -> None:
        length = stop - start
        self._received += length
        if self._received > _WINDOW >> 1:
            self.flow.write(number_frame(h2.WINDOW_UPDATE, 0, self._received))
            self._received = 0
        stream = self.flow.streams.get(id_)
        if stream is None:
            if id_ > self._last_id or id_ & 1 == 0:
                raise Broken(h2.PROTOCOL_ERROR, "data of a stream that is not open")
            if not length:
                self._note_idle_frame()
            return
        if stream.ended:
            raise Broken(h2.STREAM_CLOSED, "data after the end of a stream")
        if flags & h2.PADDED:
            start, stop = unpadded(data, start, stop)
        ended = flags & h2.END_STREAM
        if stop == start and not ended:
            self._note_idle_frame()
            return
        if ended and not stream.received and type(stream.head.method) is Unary:
            stream.ended = True
            stream.take(data[start:stop])
            return
        self._add_data(stream, data[start:stop])
        if ended and not stream.answered:
            self._end_of(stream)
        elif ended:
            stream.ended = True
        elif stream.parts and self.server.held.is_over():
            stream.drop_parts()
            if type(stream.head.method) is InParts and stream.on_gone is not None:
                stream.on_gone()
            stream.fail(self.server.held.refusal())

    def _add_data(self, stream: Stream, piece: bytes) -> None:
        if stream.answered:
            return  # it was refused while more of it was on the way
        stream.keep(piece)
        limit = self.server.limits.max_body_bytes
        if type(stream.head.method) is not Unary:
            stream.take_messages()
        elif stream.received > limit + 5:
            stream.drop_parts()
            stream.fail(
                TooLarge(
                    f"the message is over {limit} bytes",
                    hint="send fewer rows a request",
                    limit=limit,
                )
            )
        elif self.flow.buffered > 2 * limit + h2.DEFAULT_WINDOW:
            stream.drop_parts()
            stream.fail(
                Overloaded(
                    f"over {2 * limit} bytes of unfinished requests on one connection",
                    hint="send fewer large requests at once",
                )
            )

    def _end_of(self, stream: Stream) -> None:
        """The client has said all of a call."""
        stream.ended = True
        if type(stream.head.method) is Unary:
            stream.take(stream.take_parts())
        else:
            stream.take_messages()

    # -- the other frames --

    def _on_window_update(self, id_: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(h2.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of 4 bytes")
        more = int.from_bytes(payload) & h2.LARGEST_WINDOW
        if more == 0:
            raise Broken(h2.PROTOCOL_ERROR, "a window grows by nothing")
        if id_ == 0:
            was_shut = self.flow.send_window <= 0
            self.flow.send_window += more
            if self.flow.send_window > h2.LARGEST_WINDOW:
                raise Broken(h2.FLOW_CONTROL_ERROR, "a window is too large")
            if was_shut:
                self.flow.pump()  # else the blocked streams wait for their own windows
            return
        stream = self.flow.streams.get(id_)
        if stream is None:
            if id_ > self._last_id:
                raise Broken(h2.PROTOCOL_ERROR, "a window of a stream that is not open")
            return
        stream.window += more
        if stream.window > h2.LARGEST_WINDOW:
            raise Broken(h2.FLOW_CONTROL_ERROR, "a window is too large")
        if id_ in self.flow.blocked:
            self.flow.unblock(stream)

    def _on_reset(self, id_: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(h2.FRAME_SIZE_ERROR, "RST_STREAM is not of 4 bytes")
        if id_ == 0 or id_ > self._last_id:
            raise Broken(h2.PROTOCOL_ERROR, "a stream is reset that is not open")
        stream = self.flow.streams.get(id_)
        if stream is None:
            if self.flow.crossing:
                self.flow.crossing -= 1
            else:
                self._note_idle_frame()
            return
        self.flow.forget(stream)
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
        waited_s = self._read_s - self._read_before_s
        return 0 < asked_s <= waited_s and stream.opened_s == self._read_s

    def _on_ping(self, id_: int, flags: int, payload: bytes) -> None:
        if id_:
            raise Broken(h2.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise Broken(h2.FRAME_SIZE_ERROR, "PING is not of 8 bytes")
        if not flags & h2.ACK:
            self.flow.write(frame(h2.PING, h2.ACK, 0, payload))
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
        first_window = self.flow.first_window
        for name, value in h2.read_settings(payload):
            if name == h2.INITIAL_WINDOW_SIZE:
                if value > h2.LARGEST_WINDOW:
                    raise Broken(h2.FLOW_CONTROL_ERROR, "a window is too large")
                first_window = value
            elif name == h2.MAX_FRAME_SIZE:
                if not h2.LEAST_FRAME <= value <= h2.LARGEST_FRAME:
                    raise Broken(h2.PROTOCOL_ERROR, "a size of frames that may not be")
                self.flow.frame_bytes = value
            elif name == h2.ENABLE_PUSH and value > 1:
                raise Broken(h2.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        # Once, and not for each: a frame has room for twenty thousand.
        for stream in self.flow.streams.values():
            stream.window += first_window - self.flow.first_window
        self.flow.first_window = first_window
        self.flow.write(frame(h2.SETTINGS, h2.ACK, 0))
        self.flow.pump()

    # -- answering --

    def _reset(self, stream: Stream, code: int) -> None:
        """Give up a call without an answer."""
        self._note_idle_frame()
        self.flow.write(number_frame(h2.RST_STREAM, stream.id, code))
        self.flow.forget(stream)
        if not stream.answered:
            stream.answered = True
            if stream.on_gone is not None:
                stream.on_gone()
            stream.count(400)

    def cut_off(self) -> None:
        """See `admission.Client`."""
        self._end(h2.ENHANCE_YOUR_CALM, "too much of the answers is not taken")

    # -- times, and the end --

    def tick(self) -> None:
        """Tell watchers, and give up what takes too long."""
        server, limits = self.server, self.server.limits
        self._idle_frames = self.flow.crossing = 0
        passed_s, self._ticked_s = server.now - self._ticked_s, server.now
        for stream in tuple(self.flow.streams.values()):
            if stream.look is not None and not stream.answered:
                stream.look_again()
            if stream.id in self.flow.blocked:
                self.flow.check_room_of(stream, passed_s)
            elif not stream.ended and not stream.answered and stream.look is None:
                if type(stream.head.method) is not InParts:
                    allowed_s = limits.receive_timeout_s
                elif stream.on_gone is None:
                    allowed_s = limits.idle_timeout_s
                else:
                    continue
                if server.now - stream.since > allowed_s:
                    stream.fail(TimedOut(f"the request did not arrive within {allowed_s:g} s"))
        self.flow.check_taking(passed_s)
        is_idle = server.now - self._since > limits.idle_timeout_s
        if not self._last_id:
            # Not from what was heard last: to send pings is not to make calls.
            is_idle = is_idle or server.now - self._made > limits.first_request_timeout_s
        if is_idle and not self.flow.streams:
            self._retire()  # the client may be sending a call at this moment
        if self._drained_s or self._closing:
            self.go_on_draining()

    def _retire(self) -> None:
        """Say that the connection ends, in the two steps of RFC 9113, 6.8.

        The first GOAWAY names no stream, and a PING goes after it. What the client sends before it
        acknowledges that is answered; the second GOAWAY then names the last stream that is.
        """
        if self._closing or self._drained_s:
            return
        self._drained_s = self.server.now
        self._introduce()
        self.flow.write(
            h2.goaway(h2.LARGEST_WINDOW, h2.NO_ERROR), frame(h2.PING, 0, 0, _DRAIN_PING)
        )

    def drain(self) -> None:
        """Send GOAWAY; answer watches, which would never end, that the server stops."""
        self._retire()
        for stream in tuple(self.flow.streams.values()):
            stream.drain()

    def go_on_draining(self, since_s: float = 0.0) -> None:  # noqa: ARG002
        """Close once everything is answered, and the client has had the time to read it."""
        now = self.server.now
        if self._closing:
            if now - self._since > _LINGER_S:
                self._leave()
            return
        has_heard = self._heard_s and now - self._heard_s > _AFTER_HEARD_S
        if has_heard or now - self._drained_s > _DRAIN_WITHIN_S:
            self._announce_the_last()
        if not self.flow.streams and self._refuses_from != h2.LARGEST_WINDOW:
            self._closing = True
            self._since = now
            self._close()

    def _announce_the_last(self) -> None:
        """The client has heard that the server leaves; it makes what comes now elsewhere."""
        if self._refuses_from == h2.LARGEST_WINDOW:
            self._refuses_from = self._last_id
            self.flow.write(h2.goaway(self._last_id, h2.NO_ERROR))

    def _end(self, code: int, words: str) -> None:
        """Say why, and close; what is under way here is not answered."""
        self._closing = True
        self._since = self.server.now
        self._rest = b""
        self._introduce()
        self.flow.write(h2.goaway(min(self._last_id, self._refuses_from), code, words))
        self.flow.end()
        self._close()

    def _close(self) -> None:
        # To close with something unread resets the connection, and the client may lose what it was
        # answered. So it is read on, until the client closes or has had its time. TLS has no end of
        # one direction: there GOAWAY alone has the client close.
        self.flow.flush()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _leave(self) -> None:
        """End a connection on which nothing more is to be said; at once if it is asked again."""
        if self._transport.is_closing():
            self._transport.abort()
        else:
            self._transport.close()

    def stop(self, error: BasculeError) -> None:
        """See `sites.Drained`."""
        for stream in tuple(self.flow.streams.values()):
            on_gone = None if stream.answered else stream.on_gone
            stream.fail(error)
            if on_gone is not None:
                on_gone()

    def abort(self) -> None:
        """Close at once, with calls in progress."""
        self._transport.abort()
