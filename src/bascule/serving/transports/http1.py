"""HTTP/1.1 at the cost of a parser and a socket.

The prediction path has no framework: llhttp (through httptools) parses strictly, and only heads
that it has not parsed before; a dictionary finds the handler by the exact bytes of the path, and
the answer is one write. What a framework
would have kept is kept here:

- answers leave in the order of their requests, also when clients pipeline;
- heads, bodies, connections and times are bounded; a client that does not read is not read from,
  and one that takes next to nothing of its answer is cut off;
- a caller that is not let in is refused by the head of its request, and nothing of the body is
  kept;
- what is kept of requests that cannot begin yet is bounded over all connections (`BufferBudget`);
- every answer is counted once, where it is written, so the counters are what clients saw;
- a refusal is written before the connection closes, and the close lingers until the client has
  had the chance to read it;
- a client that ends its side of the connection has gone: what it still waits for is not run;
- a request's id comes back with its answer, and one that fails is given one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

from bascule.core import BasculeError, Refused
from bascule.security import OPEN_ACTIONS, Action
from bascule.serving.calls import Memo
from bascule.serving.execution import TURN_S, AdmissionQueue, BufferBudget
from bascule.serving.telemetry import FAILED_FROM, request_id_of
from bascule.serving.transports.exchange import Exchange, Head, told
from bascule.serving.transports.http1_requests import HTTP_1_0, RequestReader, Site
from bascule.serving.transports.known_heads import MAX_BYTES
from bascule.serving.transports.parts import PartWire
from bascule.serving.transports.routes import Route, not_allowed
from bascule.serving.transports.sites import (
    Taking,
    address_of,
    unacknowledged_bytes,
    unread_bytes,
)
from bascule.serving.transports.statuses import HttpError, status_of

log = logging.getLogger(__name__)

_IN_LOCATION = re.compile(rb"^/v1/projects/[^/]+/locations/[^/]+/")
_MAX_PIPELINED = 32
_PARTS_BY_CLOCK = 16
"""After how many answers of one connection the clock is looked at."""
_BESIDE_BODY_BYTES = 1 << 10
"""What a request that waits takes beside its body and its headers, about: one read may bring
thousands that have neither."""
_LINGER_S = 2.0
"""How long a connection that says no more is read on, from the last byte that came."""
_DRAIN_IDLE_S = 0.3
_LAST_BYTES = 16 << 10
_LAST_ANSWER_S = 30.0
"""Within TLS a close leaves little time for what is not sent yet. So one that follows a large
answer waits until so little of it is left, or for so long."""
_PIECE_BYTES = 64 << 10
"""Within TLS an answer is written in pieces: such a transport takes all that it is given, and says
only what it has not encrypted yet."""


class _Chunks:
    """An answer in parts (a `PartWire`), in chunks; of HTTP/1.0 ended by the connection."""

    __slots__ = ("_connection", "_exchange", "_is_chunked", "_site", "resume")

    resume: Callable[[], None]

    def __init__(self, connection: Connection, site: Site, exchange: Exchange) -> None:
        self._connection = connection
        self._site = site
        self._exchange = exchange
        self._is_chunked = HTTP_1_0 not in exchange.head.headers

    @property
    def backlog(self) -> AdmissionQueue:
        return self._site.backlog

    def allow(self, action: Action, model: str) -> None:
        """See `PartWire`."""
        self._connection.allow(self._exchange, action, model)

    def begin(self, content_type: bytes, extra: bytes, resume: Callable[[], None]) -> None:
        """See `PartWire`."""
        self.resume = resume
        exchange = self._exchange
        if exchange.request_id:
            extra += b"X-Request-Id: %b\r\n" % exchange.request_id
        extra += b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b""
        extra += b"" if self._stays_open() else b"Connection: close\r\n"
        head = self._site.heads[200] + content_type
        self._connection.write_part(
            b"%b\r\nCache-Control: no-store\r\n%b\r\n" % (head, extra), self
        )

    def send(self, data: bytes) -> bool:
        """See `PartWire`."""
        return self._connection.write_part(self._chunk(data), self)

    def end(self, data: bytes, error: BasculeError | None) -> None:
        """See `PartWire`."""
        last = self._chunk(data) + (b"0\r\n\r\n" if self._is_chunked else b"")
        status = 200 if error is None else status_of(error)
        self._connection.end_parts(self._exchange, status, last, keep_alive=self._stays_open())

    def _chunk(self, data: bytes) -> bytes:
        # An empty chunk would be the last one.
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self._is_chunked else data

    def _stays_open(self) -> bool:
        return self._exchange.head.keep_alive and self._is_chunked and not self._site.draining


class Connection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_address", "_chunks", "_closing", "_current", "_paused", "_pipeline", "_pipeline_bytes",
        "_pumping", "_reader", "_rest", "_since", "_site", "_taking", "_transport", "_unsent",
        "_unsent_is_last", "_writable", "recorder",
    )  # fmt: skip

    def __init__(self, site: Site, *, is_local: bool = False) -> None:
        """`is_local`: it came by a socket of the file system, where no browser comes from."""
        self._site = site
        self.recorder = site.recorder
        self._reader = RequestReader(self, site, None if is_local else site.hosts)
        self._transport: asyncio.Transport
        self._address: str | None = None
        self._rest = b""
        self._current: Exchange | None = None
        self._pipeline: deque[tuple[Exchange, int]] = deque()
        self._pipeline_bytes = 0
        self._pumping = False
        self._paused = False
        self._writable = True
        self._unsent = memoryview(b"")
        self._unsent_is_last = False
        self._chunks: _Chunks | None = None
        self._closing = False
        self._taking: Taking | None = None
        # As if it had been idle for a while: less is left of that time for the first request.
        self._since = site.now - site.new_is_idle_for_s

    def told(self, error: BasculeError, protocol: str) -> tuple[int, bytes, bytes]:
        """See `exchange.told`. An error that refuses many is put in words once."""
        site = self._site
        if site.told_error is not error or site.told_protocol != protocol:
            site.told_error, site.told_protocol = error, protocol
            site.told = told(error, protocol)
        return site.told

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a request."""
        return self._site.limits.max_body_bytes

    @property
    def held(self) -> BufferBudget:
        """The account of what is held; see `admission`."""
        return self._site.held

    @property
    def address(self) -> str:
        """See `Context`."""
        if self._address is None:
            self._address = address_of(self._transport)
        return self._address

    def allow(self, exchange: Exchange, action: Action, model: str) -> None:
        """See `exchange.Carrier`."""
        if self._site.guard is not None:
            key = exchange.head.headers.get(b"authorization")
            self._site.guard.check(key, action, model)

    def wire_of(self, exchange: Exchange) -> PartWire:
        """See `exchange.Carrier`."""
        return _Chunks(self, self._site, exchange)

    # -- what the transport calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        site = self._site
        if len(site.connections) >= site.limits.max_connections:
            self.refuse(
                HttpError(
                    f"{site.limits.max_connections} connections are open, as many as may be",
                    hint="retry later",
                    status=503,
                )
            )
        site.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            if self._current is None:
                # It lingers, and the client still speaks.
                self._reader.receiving_since = self._site.now
            return
        if not self._reader.partial:
            head_end = data.find(b"\r\n\r\n", 0, MAX_BYTES) + 4
            known_heads = self._site.known_heads
            known = known_heads.whole.get(data[:head_end])
            head = None
            if known is not None:
                head = known[0] if known[1] == len(data) else None
            elif known_heads.cut and head_end > 4:
                head = known_heads.find_cut(data, head_end)
            if head is not None:
                exchange = Exchange(self, head, data[head_end:], self._site.other_series)
                if self._current is None and not self._pipeline and self._writable:
                    self._dispatch(exchange)
                else:
                    self._enqueue(exchange)
                return
        if len(data) <= self._site.short_bytes:
            self._reader.receive(data)
        elif self._site.backlog.is_crowded():
            self._wait_for_turn(data)
        else:
            self._receive_in_parts(data)

    def _receive_in_parts(self, data: bytes) -> None:
        rest = self._reader.receive_in_parts(data)
        if rest:
            self._wait_for_turn(rest)

    def _wait_for_turn(self, rest: bytes) -> None:
        """Go on with what was read once everything else has had a turn, and read no more before."""
        site = self._site
        if self._transport.is_closing():
            return
        self._rest = rest
        site.held.bytes += len(rest)
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
        site.backlog.later(self._take_rest)

    def _take_rest(self) -> None:
        rest = self._drop_rest()
        if rest and not self.is_closing():
            self._receive_in_parts(rest)
        self._pump()

    def _drop_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        self._site.held.bytes -= len(rest)
        return rest

    def tell_to_go_on(self) -> None:
        """Tell a client that waits for it to send its body, once all before it is answered."""
        if self._current is None and not self._pipeline and not self._unsent:
            self._reader.expecting = False
            self._reader.receiving_since = self._site.now  # it could not have begun before
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def eof_received(self) -> bool:
        # A client that closes looks like one that only has nothing more to say. Those
        # that close because they waited too long are many, and running their requests would add
        # to the load that made them wait. But what runs in this turn of the loop is answered.
        if self._current is None:
            return False
        if self._chunks is not None:
            self._transport.abort()  # what waits to be read would keep the program running
            return True
        asyncio.get_running_loop().call_soon(self._transport.close)
        return True

    def pause_writing(self) -> None:
        self._writable = False
        self._since = self._site.now
        self._site.backlog.unread.note(self, self._unsent_bytes())

    def resume_writing(self) -> None:
        self._writable = True
        if self._unsent:
            self._send_rest()
        if self._writable:
            self._site.backlog.unread.note(self, 0)
            if self._chunks is not None:
                self._chunks.resume()
            self._pump()

    def cut_off(self) -> None:
        """See `admission.Client`."""
        self._site.backlog.unread.note(self, 0)
        self._site.other_series.count(499, 0, 0)
        # Not at once: it may be in the middle of writing.
        asyncio.get_running_loop().call_soon(self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._site.connections.discard(self)
        self._closing = True
        self._unsent = memoryview(b"")
        self._drop_pipeline()
        self._reader.drop_body()
        self._drop_rest()
        self._site.backlog.unread.note(self, 0)
        if self._current is not None:
            current, self._current = self._current, None
            current.answered = True
            if current.on_gone is not None:
                current.on_gone()
            current.tell(self._site, 499)

    # -- answering --

    def take(self, exchange: Exchange) -> None:
        """Answer a request now, or in its turn."""
        if self._current is None and not self._pipeline and self._writable:
            self._dispatch(exchange)
        else:
            self._enqueue(exchange)

    def write_answer(
        self, exchange: Exchange, body: bytes, status: int, content_type: bytes, extra: bytes
    ) -> None:
        """Write the answer to the current exchange and go on to the next."""
        if exchange.answered:
            return
        exchange.answered = True
        self._current = None
        site = self._site
        self._since = site.now
        head = exchange.head
        if head.is_plain and status == 200 and not site.draining:
            if extra:
                content_type = b"%b\r\n%b" % (content_type, extra[:-2])
            self._send(
                exchange,
                status,
                b"%b%b\r\nContent-Length: %d\r\n\r\n%b"
                % (site.heads[200], content_type, len(body), body),
            )
            return
        keep_alive = head.keep_alive and not site.draining
        if exchange.request_id or status >= FAILED_FROM:
            exchange.need_request_id()
            extra += b"X-Request-Id: %b\r\n" % exchange.request_id
        if not keep_alive:
            extra += b"Connection: close\r\n"
        elif b"connection" in head.headers:
            # HTTP/1.0 clients that asked to keep the connection expect an answer to that.
            extra += b"Connection: keep-alive\r\n"
        if extra:
            content_type = content_type + b"\r\n" + extra[:-2]
        if head.method == b"HEAD":
            answer = b"%b%b\r\nContent-Length: %d\r\n\r\n" % (
                site.heads[status], content_type, len(body),
            )  # fmt: skip
        else:
            answer = b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (
                site.heads[status], content_type, len(body), body,
            )  # fmt: skip
        self._send(exchange, status, answer, keep_alive=keep_alive)

    def write_part(self, data: bytes, chunks: _Chunks) -> bool:
        """Write some of an answer in parts; whether there is room for more."""
        if self._transport.is_closing():
            return False
        self._chunks = chunks
        self._since = self._site.now
        self._transport.write(data)
        return self._writable

    def end_parts(self, exchange: Exchange, status: int, last: bytes, *, keep_alive: bool) -> None:
        """Write the end of an answer in parts, and go on to the next exchange."""
        self._chunks = self._current = None
        exchange.answered = True
        self._since = self._site.now
        self._send(exchange, status, last, keep_alive=keep_alive)

    def _send(
        self, exchange: Exchange, status: int, answer: bytes, *, keep_alive: bool = True
    ) -> None:
        if self._transport.is_closing():
            exchange.tell(self._site, 499)
            return
        # Counted first: a client with its answer finds it counted, in any worker's metrics.
        exchange.tell(self._site, status)
        if len(answer) > _PIECE_BYTES and not self._transport.can_write_eof():
            self._unsent, self._unsent_is_last = memoryview(answer), not keep_alive
            self._send_rest()
        else:
            self._transport.write(answer)
            self._after_answer(is_last=not keep_alive)

    def _send_rest(self) -> None:
        """Write what there is room for of an answer that is written in pieces."""
        while self._unsent and self._writable and not self._transport.is_closing():
            piece, self._unsent = self._unsent[:_PIECE_BYTES], self._unsent[_PIECE_BYTES:]
            self._transport.write(piece)
        if not self._unsent:
            self._after_answer(is_last=self._unsent_is_last)

    def _unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._unsent)

    def _after_answer(self, *, is_last: bool) -> None:
        if is_last:
            self._close_lingering()
        elif self._pipeline:
            if not self._pumping:
                self._pump()
        elif self._reader.expecting:
            self.tell_to_go_on()

    def _dispatch(self, exchange: Exchange) -> None:
        self._current = exchange
        try:
            if exchange.failure is not None:
                raise exchange.failure
            site, memo = self._site, exchange.head.memo
            guard = site.guard
            if (
                memo is not None
                and memo.routes is site.routes
                and (guard is None or memo.keys is guard.state)
            ):
                route: Route = memo.route
                exchange.caller = memo.caller
            else:
                route = self._route(exchange.head)
                if guard is not None:
                    exchange.caller = self._check(exchange.head, route)
                if memo is not None:
                    self._note(exchange, memo, route)
            if route.series is not None:
                exchange.series = route.series
                exchange.protocol = route.protocol
                if site.backlog.is_behind(exchange.started_ns):
                    allowed_s = exchange.allowed_s(site.limits.deadline_s)
                    begin = partial(exchange.run, partial(route.handle, exchange))
                    refusal = site.backlog.add(exchange, allowed_s, begin)
                    if refusal is not None:
                        exchange.fail(refusal)
                    return
            route.handle(exchange)
        except Exception as problem:
            exchange.fail_with(problem)

    def _note(self, exchange: Exchange, memo: Memo, route: Route) -> None:
        """Remember the route and the caller of a head until routes or keys change."""
        guard = self._site.guard
        if guard is not None:
            if not guard.stays(exchange.head.headers.get(b"authorization")):
                return
            memo.keys = guard.state
        memo.routes, memo.route, memo.caller = self._site.routes, route, exchange.caller

    def _route(self, head: Head) -> Route:
        """Which route answers a request; raises where there is none."""
        site = self._site
        handlers = site.routes.get(head.target)
        if handlers is None:
            handlers = self._find(head)
        route = handlers.get(head.method)
        if route is None:
            self.check_known(head.headers)
            raise not_allowed(head.method, handlers)
        return route

    def _check(self, head: Head, route: Route) -> str:
        """The id of the caller's key; raises if there is none, or it does not allow the route."""
        guard = self._site.guard
        if guard is None:
            return ""
        try:
            return guard.check(head.headers.get(b"authorization"), route.action, route.model)
        except BasculeError as refusal:
            # Not of a caller without a key: its answer says nothing of what models there are.
            if isinstance(refusal, Refused) or not route.model:
                refusal.facts["protocol"] = route.protocol
            raise

    def is_open(self, head: Head) -> bool:
        """Whether a route needs no key and reads no body; raises as `_route` and `_check`."""
        route = self._route(head)
        self._check(head, route)
        return route.action in OPEN_ACTIONS

    def _find(self, head: Head) -> dict[bytes, Route]:
        """The handlers of a path that is there in another form, such as with a query or a slash."""
        path = head.target.partition(b"?")[0]
        if b"%" in path:  # of what paths have, clients escape the colon of `:predict` alone
            path = path.replace(b"%3A", b":").replace(b"%3a", b":")
        if path.startswith((b"http://", b"https://")):
            path = b"/" + path.split(b"//", 1)[1].partition(b"/")[2]
        routes = self._site.routes
        handlers = routes.get(path) or routes.get(path.rstrip(b"/"))
        if handlers is None:  # Google's names of resources: every project and location is meant
            handlers = routes.get(_IN_LOCATION.sub(rb"/v1/projects/-/locations/-/", path))
        if handlers is None:
            self.check_known(head.headers)
            raise self._site.not_found(path)
        return handlers

    def check_known(self, headers: dict[bytes, bytes]) -> None:
        """Raise `Unauthenticated` before anything is said of what there is, and what not."""
        if self._site.guard is not None:
            self._site.guard.check_known(headers.get(b"authorization"))

    def _enqueue(self, exchange: Exchange) -> None:
        """Keep a whole request until those before it are answered, or refuse it in its turn."""
        if exchange.body and self._site.guard is not None:
            self._look_ahead(exchange)
        head, held = exchange.head, self._site.held
        size = _BESIDE_BODY_BYTES + len(exchange.body) + len(head.target)
        size += sum(map(len, head.headers.values()))
        if held.bytes + size > held.max_bytes:
            self.refuse(held.refusal(), head)
            return
        held.bytes += size
        self._pipeline.append((exchange, size))
        self._pipeline_bytes += size
        if not self._paused and (
            len(self._pipeline) >= _MAX_PIPELINED
            or self._pipeline_bytes > self._site.limits.max_body_bytes
        ):
            self._paused = True
            self._transport.pause_reading()

    def _look_ahead(self, exchange: Exchange) -> None:
        """Keep nothing of the body of a request that is to wait, where its head says so already.

        The key is looked at again in its turn, as in `_admit`.
        """
        try:
            is_kept = not self.is_open(exchange.head)
        except BasculeError as error:
            exchange.failure = error.with_traceback(None)
            is_kept = False
        except Exception:
            return  # a bug, which is answered and logged in its turn
        if not is_kept:
            exchange.body = b""

    def _drop_pipeline(self) -> None:
        self._pipeline.clear()
        self._site.held.bytes -= self._pipeline_bytes
        self._pipeline_bytes = 0

    def _pump(self) -> None:
        """Dispatch pipelined requests until one has to be waited for. Not recursive."""
        self._pumping = True
        begun, since_s = 0, time.monotonic()
        try:
            while self._pipeline and self._current is None and self._writable:
                begun += 1
                if not begun % _PARTS_BY_CLOCK and time.monotonic() - since_s > TURN_S:
                    self._site.backlog.later(self._pump)
                    return
                if self._transport.is_closing():
                    self._drop_pipeline()
                    return
                exchange, size = self._pipeline.popleft()
                self._pipeline_bytes -= size
                self._site.held.bytes -= size
                self._dispatch(exchange)
        finally:
            self._pumping = False
        if (
            self._paused
            and len(self._pipeline) < _MAX_PIPELINED // 2
            and not (self._closing or self._rest)
        ):
            self._read_on()

    def _read_on(self) -> None:
        self._paused = False
        if self._reader.receiving_since:
            self._reader.receiving_since = self._site.now  # the client could not have been faster
        self._transport.resume_reading()

    # -- refusing and closing --

    def refuse(self, error: BasculeError, head: Head | None = None) -> None:
        """Answer `error` in its turn, then close; nothing more is read.

        `head` is that of the request, where it is whole and is what the answer depends on.
        """
        if head is None:
            request_id = request_id_of(self._reader.headers.get(b"x-request-id", b""))
            head = Head(b"", self._reader.target, {}, keep_alive=False, request_id=request_id)
        exchange = Exchange(self, head._replace(keep_alive=False), b"", self._site.other_series)
        exchange.failure = error
        self._closing = True
        self._reader.receiving_since = 0.0
        self._reader.drop_body()
        self._pipeline.append((exchange, 0))
        if self._current is None and not self._pumping:
            self._pump()

    def _close_lingering(self) -> None:
        # Closing at once would reset the connection while the client still sends, and a reset
        # can take the answer with it: say that we are done, read on into nothing, then close.
        self._closing = True
        self._reader.receiving_since = self._since
        self._drop_pipeline()
        self._reader.drop_body()
        self._drop_rest()
        if self._paused:
            self._read_on()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif unacknowledged_bytes(self._transport) <= _LAST_BYTES:
            self._transport.close()  # TLS has no half of a connection

    def check_times(self) -> None:
        """Close the connection if its client has been too slow. Called once a second."""
        limits, now, reader = self._site.limits, self._site.now, self._reader
        unsent = self._unsent_bytes()
        if unsent:
            self._check_taking(unsent + unacknowledged_bytes(self._transport))
        elif self._taking is not None:
            self._taking = None
            self._since = now
            if self._closing:
                reader.receiving_since = now
        elif self._closing and self._current is None:
            if self._is_last_answer_taken() and (
                now - reader.receiving_since > _LINGER_S
                or now - self._since > limits.receive_timeout_s
            ):
                self._transport.abort()
        elif reader.receiving_since and not (self._paused or self._closing or reader.expecting):
            allowed_s = limits.receive_timeout_s + reader.body_bytes / limits.least_bytes_per_s
            if now - reader.receiving_since > allowed_s:
                self.refuse(
                    HttpError(
                        f"the request did not arrive within {limits.receive_timeout_s:g} s, and "
                        f"1 s more for every {limits.least_bytes_per_s} bytes of its body",
                        hint="send it faster, or fewer rows a request",
                        status=408,
                    )
                )
        else:
            self.close_if_idle(limits.idle_timeout_s)

    def _is_last_answer_taken(self) -> bool:
        """Whether nothing keeps the connection open but its end; within TLS it is closed then."""
        transport = self._transport
        if transport.can_write_eof() or transport.is_closing():
            return True
        is_in_time = self._site.now - self._since <= _LAST_ANSWER_S
        if is_in_time and unacknowledged_bytes(transport) > _LAST_BYTES:
            return False
        transport.close()
        self._reader.receiving_since = self._since = self._site.now
        return True

    def _check_taking(self, unsent: int) -> None:
        """End the connection of a client that takes next to nothing of its answer."""
        site, taking = self._site, self._taking
        if taking is None or self._since >= taking.seen_s:
            # Something was written meanwhile, so that what was taken is not known: begin again.
            # That is not for ever: nothing is written while more waits than the transport takes.
            self._taking = Taking(-unsent, site.now)
        elif taking.is_too_slow(-unsent, site.now, site.limits):
            site.other_series.count(499, 0, 0)
            self._transport.abort()

    def go_on_draining(self, since_s: float) -> None:
        """See `sites.Drained`."""
        # What the coarse clock said of the time before this is too old to judge what is idle.
        if since_s > _DRAIN_IDLE_S:
            self.close_if_idle(_DRAIN_IDLE_S)

    def stop(self, error: BasculeError) -> None:
        """See `sites.Drained`."""
        current = self._current
        if current is not None:
            on_gone = current.on_gone
            current.fail(error)
            if on_gone is not None:
                on_gone()
        elif self._reader.receiving_since and not self._closing:
            self.refuse(error)

    def close_if_idle(self, idle_s: float) -> None:
        """Close if nothing has been asked for `idle_s`, and nothing is under way or waits."""
        idle = not (
            self._current
            or self._pipeline
            or self._rest
            or self._reader.receiving_since
            or self._unsent
        )
        if idle and self._site.now - self._since > idle_s and not unread_bytes(self._transport):
            self._transport.close()

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        """Close at once, with what is under way."""
        self._transport.abort()
