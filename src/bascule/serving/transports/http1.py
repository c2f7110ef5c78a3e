"""HTTP/1.1 at the cost of a parser and a socket.

The prediction path has no framework: llhttp (through httptools) parses strictly, and only heads
that it has not parsed before; a dictionary finds the handler by the exact bytes of the path, and
the answer is one write. What a framework
would have kept is kept here:

- answers leave in the order of their requests, also when clients pipeline;
- heads, bodies, connections and times are bounded; a client that does not read is not read from,
  and one that takes next to nothing of its answer is cut off;
- whoever is not let in is told by the head of the request, and nothing of the body is kept;
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
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Unpack, cast

import httptools

from bascule.core import BasculeError, Refused, TooLarge
from bascule.security import OPEN_ACTIONS, Action
from bascule.serving.calls import Memo
from bascule.serving.execution import SHORT_BYTES, TURN_S, AdmissionQueue, BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.telemetry import (
    FAILED_FROM,
    STATUSES,
    MetricSeries,
    request_id_of,
)
from bascule.serving.transports import offload
from bascule.serving.transports.exchange import Exchange, Head, told
from bascule.serving.transports.hosts import HostPolicy, absolute_authority
from bascule.serving.transports.known_heads import MAX_BYTES, KnownHeads
from bascule.serving.transports.parts import PartWire
from bascule.serving.transports.routes import Route, Routes, not_allowed
from bascule.serving.transports.sites import OfWorker, Shared, Taking, unacknowledged_bytes
from bascule.serving.transports.statuses import HttpError, internal_error, status_of

log = logging.getLogger(__name__)

_MAX_PIPELINED = 32
_PARTS_BY_CLOCK = 16
"""After how many requests of one connection the clock is looked at."""
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
_KEPT_HEADERS = frozenset(
    (
        b"accept", b"accept-encoding", b"authorization", b"bascule-id", b"connection",
        b"content-encoding", b"content-length", b"content-type", b"expect", b"host",
        b"inference-header-content-length",
        b"origin", b"traceparent", b"tracestate", b"transfer-encoding", b"upgrade",
        b"x-request-id", b"x-request-timeout-ms",
    )
)  # fmt: skip
_SINGLE = frozenset(
    (
        b"authorization", b"content-encoding", b"host", b"inference-header-content-length",
        b"origin", b"transfer-encoding", b"x-request-timeout-ms",
    )
)  # fmt: skip
"""Headers of which two could be read in two ways, by us and by a proxy before us."""
_NO_HEADERS: dict[bytes, bytes] = {}
_HTTP_1_0 = b":1.0"
"""Among the kept headers of a request of HTTP/1.0: no header has that name."""
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~%!$&'()*+;=-]*)(?::[0-9]*)?[ \t]*")
"""RFC 9110, 7.2, without the comma that RFC 3986 allows in a name: it would make a list of two."""
_TRANSFER_CODING = re.compile(rb"[0-9A-Za-z!#$%&'*+.^_`|~-]+[ \t]*(?:;.*)?")
_PLAIN = frozenset(
    (
        b"accept", b"accept-encoding", b"authorization", b"bascule-id", b"content-length",
        b"content-type", b"host", b"origin", b"traceparent", b"tracestate",
    )
)  # fmt: skip
"""See `Head.is_plain`."""


class Site(Shared["Connection"]):
    """What the connections of one worker share: routes, limits, counters, the clock."""

    def __init__(
        self,
        routes: Routes,
        not_found: Callable[[bytes], BasculeError],
        limits: Limits,
        other_series: MetricSeries,
        **of: Unpack[OfWorker],
    ) -> None:
        super().__init__(limits, other_series, **of)
        self.not_found = not_found
        self.new_is_idle_for_s = max(0.0, limits.idle_timeout_s - limits.first_request_timeout_s)
        self.short_bytes = min(SHORT_BYTES, limits.max_head_bytes)
        self.body_digits = len(str(limits.max_body_bytes))
        self.known_heads = KnownHeads()
        self.heads: dict[int, bytes] = {}
        self.told_error: BasculeError | None = None
        self.told = (0, b"", b"")
        self.serve(routes)
        self.tick()

    def serve(self, routes: Routes, asked_headers: frozenset[bytes] = frozenset()) -> None:
        """Answer by these routes from now on, and keep the headers that predictors ask for."""
        self.routes = routes
        self.kept = _KEPT_HEADERS | asked_headers
        self.kept_lengths = frozenset(map(len, self.kept))
        others = asked_headers - _KEPT_HEADERS  # those that say how to read may be asked for too
        self.plain = _PLAIN | others
        self.known_heads.vary(others)

    def tick(self) -> None:
        """Once a second: the coarse clock, the `Date` header, and connections out of time."""
        self.now = self.clock()
        date = formatdate(usegmt=True).encode()
        self.heads = {status: _head(status, date) for status in STATUSES}
        for connection in tuple(self.connections):
            connection.check_times()

    def learn(self, data: bytes, head: Head) -> None:
        """Remember a head that the parser has read, if `data` is that one request and no more.

        A client sends the same head again and again. The same bytes mean the same, so those of a
        request that comes in one piece need not be parsed again.
        """
        head_bytes = data.find(b"\r\n\r\n", 0, MAX_BYTES) + 4
        body_bytes = int(head.headers.get(b"content-length", b"0"))
        if (
            head_bytes > 4
            and head_bytes + body_bytes == len(data)
            # One connection's policy may be looser than the site's; known heads are of them all.
            and _refusal_of_host(self.hosts, head.target, head.headers) is None
        ):
            is_plain = (
                head.method == b"POST"
                and head.keep_alive
                and not head.request_id
                and body_bytes <= offload.FROM_BYTES
                and self.plain.issuperset(head.headers)
            )
            self.known_heads.learn(data, head_bytes, head._replace(is_plain=is_plain))


def _head(status: int, date: bytes) -> bytes:
    phrase = "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: " % (status, phrase.encode(), date)


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _refusal_of_head(version: str, headers: dict[bytes, bytes]) -> HttpError | None:
    """Why a request cannot be read, or not in one way only, by what its head says; else None."""
    if version not in ("1.0", "1.1"):
        return HttpError(
            f"HTTP/{version} is not spoken here", hint="send HTTP/1.1 requests", status=505
        )
    host = headers.get(b"host")
    if host is None:
        if version == "1.1":
            # RFC 9112, section 3.2: a server must refuse it.
            return _not_http("there is no Host header")
    elif not _is_host(host):
        return _not_http("the Host header is not a host, or a host and a port")
    coding = headers.get(b"transfer-encoding")
    if coding is None:
        return None
    if version == "1.0":
        # RFC 9112, section 6.1: its framing is faulty, whoever passed it on may have ignored it.
        return _not_http("HTTP/1.0 has no Transfer-Encoding", hint="send a Content-Length")
    *before, last = (one.strip(b" \t") for one in coding.lower().split(b","))
    if last != b"chunked" or not all(map(_TRANSFER_CODING.fullmatch, before)):
        return _not_http("the Transfer-Encoding is no list of codings", hint="send only chunked")
    if before:
        return HttpError(
            "no Transfer-Encoding but chunked is known here",
            hint="say Content-Encoding of a body that is compressed",
            status=501,
        )
    return None


def _refusal_of_host(
    hosts: HostPolicy | None, target: bytes, headers: dict[bytes, bytes]
) -> Refused | None:
    host = headers.get(b"host")
    if hosts is None or (
        host in hosts.answered and b"origin" not in headers and target.startswith(b"/")
    ):
        return None
    named = (host, absolute_authority(target))
    origin = headers.get(b"origin")
    return hosts.refusal(
        [one for one in named if one is not None], () if origin is None else (origin,)
    )


def _not_http(why: str, *, hint: str = "") -> HttpError:
    return HttpError(f"not an HTTP/1.1 request: {why}", hint=hint, status=400)


def _head_without_offer(
    parser: httptools.HttpRequestParser, target: bytes, headers: dict[bytes, bytes]
) -> bytes:
    left_out = (b"connection", b"upgrade")
    lines = [b"%b: %b" % item for item in headers.items() if item[0] not in left_out]
    if not parser.should_keep_alive():
        lines.append(b"connection: close")
    version = parser.get_http_version().encode()
    return b"\r\n".join(
        [parser.get_method() + b" " + target + b" HTTP/" + version, *lines, b"", b""]
    )


class _Chunks:
    """An answer in parts (a `PartWire`), in chunks; of HTTP/1.0 ended by the connection."""

    __slots__ = ("_connection", "_exchange", "_is_chunked", "_site", "resume")

    resume: Callable[[], None]

    def __init__(self, connection: Connection, site: Site, exchange: Exchange) -> None:
        self._connection = connection
        self._site = site
        self._exchange = exchange
        self._is_chunked = _HTTP_1_0 not in exchange.head.headers

    @property
    def backlog(self) -> AdmissionQueue:
        return self._site.backlog

    def allow(self, action: Action, model: str) -> None:
        """See `PartWire`."""
        if self._site.guard is not None:
            key = self._exchange.head.headers.get(b"authorization")
            self._site.guard.check(key, action, model)

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
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data

    def _stays_open(self) -> bool:
        return self._exchange.head.keep_alive and self._is_chunked and not self._site.draining


class Connection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_admitted", "_behind", "_body", "_body_bytes", "_chunks", "_closing", "_current",
        "_expecting", "_failure", "_head", "_head_bytes", "_head_done", "_headers", "_held_bytes",
        "_hosts", "_line", "_parser", "_partial", "_paused", "_pipeline", "_pipeline_bytes",
        "_pumping", "_receiving_since", "_rest", "_since", "_site", "_taking", "_target",
        "_transport", "_unread", "_unsent", "_unsent_is_last", "_writable", "recorder",
    )  # fmt: skip

    def __init__(self, site: Site, *, is_local: bool = False) -> None:
        """`is_local`: it came by a socket of the file system, where no browser comes from."""
        self._site = site
        self.recorder = site.recorder
        self._hosts = None if is_local else site.hosts
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._head: Head
        self._target = b""
        self._headers = _NO_HEADERS
        self._body: bytes | bytearray = b""
        # The beginning of the next request line; or what has it behind the end of another request.
        self._line = self._behind = b""
        self._rest = b""
        self._body_bytes = 0
        self._held_bytes = 0
        self._head_bytes = 0
        self._head_done = False
        self._partial = False
        self._admitted = False
        self._unread = False
        self._expecting = False
        self._failure: BasculeError | None = None
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
        self._receiving_since = 0.0

    def told(self, error: BasculeError) -> tuple[int, bytes, bytes]:
        """See `exchange.told`. An error that refuses many is put in words once."""
        site = self._site
        if site.told_error is not error:
            site.told_error, site.told = error, told(error)
        return site.told

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a request."""
        return self._site.limits.max_body_bytes

    @property
    def held(self) -> BufferBudget:
        """The account of what is held; see `admission`."""
        return self._site.held

    def wire_of(self, exchange: Exchange) -> PartWire:
        """See `exchange.Carrier`."""
        return _Chunks(self, self._site, exchange)

    # -- what the transport calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        site = self._site
        if len(site.connections) >= site.limits.max_connections:
            self._refuse(
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
                self._receiving_since = self._site.now  # it lingers, and the client still speaks
            return
        if not self._partial:
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
            self._receive(data)
        elif self._site.backlog.is_crowded():
            self._wait_for_turn(data)
        else:
            self._receive_in_parts(data)

    def _receive_in_parts(self, data: bytes) -> None:
        """Receive what may be many requests: one part for each head and for each body.

        What a head has is known only if it begins with a part, and one read may bring many: heads,
        and bodies in chunks, end with an empty line, and other bodies after their length. What is
        left when a turn of the loop is over waits for another.
        """
        fresh = not self._partial
        start, size = 0, len(data)
        parts, since_s = 0, time.monotonic()
        while start < size and not self._is_closing():
            parts += 1
            if not parts % _PARTS_BY_CLOCK and time.monotonic() - since_s > TURN_S:
                self._wait_for_turn(data[start:])
                return
            length = self._headers.get(b"content-length") if self._head_done else None
            if length is not None:
                stop = start + max(1, int(length) - self._body_bytes)
            elif start < 3 and not fresh:
                stop = start + 1  # an empty line may have begun in the read before
            else:
                stop = data.find(b"\r\n\r\n", max(0, start - 3)) + 4
                if stop < 4:
                    stop = size
                if self._head_done:
                    stop = min(stop, start + SHORT_BYTES)  # of chunks, each may have one byte
            self._receive(data[start:stop])
            start = stop
        if fresh and not self._partial and not self._is_closing():
            self._site.learn(data, self._head)

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
        if rest and not self._is_closing():
            self._receive_in_parts(rest)
        self._pump()

    def _drop_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        self._site.held.bytes -= len(rest)
        return rest

    def _has_two_spaces(self) -> bool:
        """Whether the request line has them: the parser takes what others read otherwise."""
        line, self._line = self._line, b""
        if line:
            self._behind = line
            if line[0] <= 13:
                line = line.lstrip(b"\r\n")
            return line.find(b"  ", 0, line.find(b"\r\n")) >= 0
        # It is somewhere behind another request or a body.
        return b"  " + self._target in self._behind or self._target + b"  " in self._behind

    def _receive(self, data: bytes) -> None:
        """Parse a piece, in which no head that is too large is behind another request."""
        fresh = not self._partial
        head_bytes = self._head_bytes + len(data)
        if head_bytes > self._site.limits.max_head_bytes and not self._head_done:
            data = self._receive_head(data)
            if self._is_closing():
                return
            head_bytes = self._head_bytes + len(data)
            fresh = False
        body_bytes = self._body_bytes
        self._head_bytes = head_bytes
        if fresh:
            self._line = data
        elif self._head_done:
            self._behind = data
        elif self._line:
            self._line += data
        else:
            self._behind += data
        self._partial = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data, upgrade)
            fresh = False
        except httptools.HttpParserError as error:
            self._parsing_failed(error)
        if self._head_done or not self._partial:
            self._behind = b""
        if self._is_closing():
            self._drop_body()
            return  # the client asked for the end, and whatever follows is not a request
        if self._partial and self._failure is None:
            self._bound_head(body_bytes)
        if self._failure is not None:
            self._refuse(self._failure)
        elif self._partial:
            self._go_on_receiving()
        elif fresh:
            self._site.learn(data, self._head)

    def _receive_head(self, data: bytes) -> bytes:
        """Feed the part of a large piece in which the head must end; returns the rest.

        Where the head does end in it, which is nearly always, nothing is split and copied.
        """
        limit = self._site.limits.max_head_bytes
        left = limit - self._head_bytes
        if data.find(b"\r\n\r\n", 0, left) >= 0:
            return data
        self._receive(data[:left])
        if self._head_bytes >= limit and not self._head_done and not self._closing:
            self._refuse(self._head_too_large())
        return data[left:]

    def _go_on_receiving(self) -> None:
        """Decide, of a request that has not ended, whether and how the rest is received."""
        self._receiving_since = self._receiving_since or self._site.now
        if self._head_done and not self._admitted:
            self._admitted = True
            self._admit()
        if len(self._body) == self._held_bytes:
            return
        self._hold()
        held = self._site.held
        if held.is_over():
            self._refuse(held.refusal())

    def _admit(self) -> None:
        """Let the rest of a request come, or refuse it by its head.

        The key is looked at again when the request is whole: it may be revoked meanwhile.
        """
        if self._site.guard is not None:
            head = self._whole_head()
            try:
                is_open = self._is_open(head)
            except BasculeError as error:
                self._refuse(error, head)
                return
            except Exception:
                # As in `_dispatch`: a bug is one failed request, not a dead connection.
                log.exception("a request could not be looked at")
                self._refuse(internal_error(), head)
                return
            if is_open:
                self._unread, self._body = True, b""  # nobody needs a key for it
        if b"expect" in self._headers:
            self._expecting = True
            self._tell_to_go_on()

    def _tell_to_go_on(self) -> None:
        """Tell a client that waits for it to send its body, once all before it is answered."""
        if self._current is None and not self._pipeline and not self._unsent:
            self._expecting = False
            self._receiving_since = self._site.now  # it could not have begun before
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hold(self) -> None:
        """Count what is kept here of a body that has not ended."""
        held_bytes = len(self._body)
        self._site.held.bytes += held_bytes - self._held_bytes
        self._held_bytes = held_bytes

    def _drop_body(self) -> None:
        self._body = b""
        self._hold()

    def _bound_head(self, body_bytes_before: int) -> None:
        """Bound what is received of a request and is not its body: its head, and its trailers."""
        if self._head_done and self._body_bytes != body_bytes_before:
            self._head_bytes = 0
        elif self._head_bytes > self._site.limits.max_head_bytes:
            self._failure = self._head_too_large()

    def _go_on_without_upgrade(self, data: bytes, upgrade: Exception) -> None:
        """Ignore an offer to speak another protocol, as a server may; some clients always offer.

        The parser stops at the end of such a head, so the request is read again without the offer.
        CONNECT is no offer: what follows it is not HTTP.
        """
        rest = memoryview(data)
        while self._failure is None:
            parser = self._parser
            if parser.get_method() == b"CONNECT":
                self._failure = HttpError("CONNECT is not served here", status=405, allow="GET")
                return
            rest = rest[upgrade.args[0] :]
            head = _head_without_offer(parser, self._target, self._headers)
            self._target = b""
            self._headers = _NO_HEADERS
            self._head_done = False
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self._partial = self._partial or len(rest) > 0
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as another:
                upgrade = another
            except httptools.HttpParserError as error:
                self._parsing_failed(error)

    def _parsing_failed(self, error: Exception) -> None:
        if self._failure is not None:
            return
        if isinstance(error, httptools.HttpParserCallbackError):
            # Not the client's mistake but ours.
            log.error("a connection failed", exc_info=error)
            self._failure = internal_error()
        else:
            self._failure = HttpError(f"not an HTTP/1.1 request: {error}", status=400)

    def eof_received(self) -> bool:
        # A client that closes cannot be told from one that only has nothing more to say. Those
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
        self._drop_body()
        self._drop_rest()
        self._site.backlog.unread.note(self, 0)
        if self._current is not None:
            current, self._current = self._current, None
            current.answered = True
            if current.on_gone is not None:
                current.on_gone()
            current.tell(self._site, 499)

    # -- what the parser calls --

    def on_url(self, url: bytes) -> None:
        self._partial = True
        self._target = self._target + url if self._target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows the head are trailers, and RFC 9110, section 6.5.1, lets nobody merge them.
        site = self._site
        if len(name) in site.kept_lengths and not self._head_done:
            lower = name.lower()
            if lower in site.kept:
                if self._headers is _NO_HEADERS:
                    self._headers = {}
                if lower in self._headers and lower in _SINGLE:
                    self._failure = HttpError(
                        f"not an HTTP/1.1 request: two headers {name.decode('latin-1')}", status=400
                    )
                if lower == b"tracestate" and lower in self._headers:
                    value = self._headers[lower] + b"," + value
                elif lower == b"traceparent" and lower in self._headers:
                    value = b""  # two parents are none
                self._headers[lower] = value

    def on_headers_complete(self) -> None:
        self._head_done = True
        headers, parser = self._headers, self._parser
        # HTTP/1.1 alone stays open unasked; to ask for the version costs more than what follows.
        version = "1.1"
        if b"connection" in headers or not parser.should_keep_alive():
            version = parser.get_http_version()
            if version == "1.0":
                self._headers = headers = {**headers, _HTTP_1_0: b""}
        self._failure = (
            self._failure
            or _refusal_of_head(version, headers)
            or _refusal_of_host(self._hosts, self._target, headers)
        )
        if self._has_two_spaces():
            self._failure = _not_http("the parts of the request line are not one space apart")
        if headers is _NO_HEADERS or self._failure is not None:
            return
        length = headers.get(b"content-length", b"0")
        site = self._site
        if len(length) >= site.body_digits and int(length) > site.limits.max_body_bytes:
            self._failure = self._body_too_large()
            try:
                self._check_known(headers)
            except BasculeError as error:
                self._failure = error.with_traceback(None)
        elif b"expect" in headers:
            if version == "1.0":
                del headers[b"expect"]  # RFC 9110, section 10.1.1
            elif headers[b"expect"].strip(b" \t").lower() != b"100-continue":
                self._failure = HttpError(
                    "the server meets no expectation but 100-continue", status=417
                )

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._site.limits.max_body_bytes:
            self._body = b""
            self._failure = self._failure or self._body_too_large()
        elif self._unread:
            return
        elif not self._body:
            self._body = body
        else:
            # Not a list of pieces: each would take more than it holds if they are small.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        if self._failure is not None or self._closing:
            return
        if self._parser.should_upgrade():
            return  # _go_on_without_upgrade reads it again
        self._head = head = self._whole_head()
        exchange = Exchange(self, head, bytes(self._body), self._site.other_series)
        self._target = b""
        self._headers = _NO_HEADERS
        self._body = b""
        self._body_bytes = 0
        self._head_bytes = 0
        self._head_done = False
        self._partial = False
        if self._admitted:
            self._admitted = self._unread = self._expecting = False
            self._hold()  # it is whole: whoever looks for room must not find itself in the way
        self._receiving_since = 0.0
        self._take(exchange)

    def _whole_head(self) -> Head:
        return Head(
            self._parser.get_method(),
            self._target,
            self._headers,
            self._parser.should_keep_alive(),
            request_id_of(self._headers.get(b"x-request-id", b"")),
        )

    # -- answering --

    def _take(self, exchange: Exchange) -> None:
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
            # HTTP/1.0 clients that asked to keep the connection must be told that it is kept.
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
        # Counted first: a client that has its answer finds it counted, whoever it asks.
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
        elif self._expecting:
            self._tell_to_go_on()

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
            self._check_known(head.headers)
            raise not_allowed(head.method, handlers)
        return route

    def _check(self, head: Head, route: Route) -> str:
        """The id of the caller's key; raises if there is none, or it does not allow the route."""
        guard = self._site.guard
        if guard is None:
            return ""
        return guard.check(head.headers.get(b"authorization"), route.action, route.model)

    def _is_open(self, head: Head) -> bool:
        """Whether a route needs no key and reads no body; raises as `_route` and `_check`."""
        route = self._route(head)
        self._check(head, route)
        return route.action in OPEN_ACTIONS

    def _find(self, head: Head) -> dict[bytes, Route]:
        """The handlers of a path with a query, a trailing slash, `%3A` or an absolute form."""
        path = head.target.partition(b"?")[0]
        if b"%" in path:  # of what paths have, clients escape the colon of `:predict` alone
            path = path.replace(b"%3A", b":").replace(b"%3a", b":")
        if path.startswith((b"http://", b"https://")):
            path = b"/" + path.split(b"//", 1)[1].partition(b"/")[2]
        handlers = self._site.routes.get(path) or self._site.routes.get(path.rstrip(b"/"))
        if handlers is None:
            self._check_known(head.headers)
            raise self._site.not_found(path)
        return handlers

    def _check_known(self, headers: dict[bytes, bytes]) -> None:
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
            self._refuse(held.refusal(), head)
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
            is_kept = not self._is_open(exchange.head)
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
        if self._receiving_since:
            self._receiving_since = self._site.now  # the client could not have been faster
        self._transport.resume_reading()

    # -- refusing and closing --

    def _refuse(self, error: BasculeError, head: Head | None = None) -> None:
        """Answer `error` in its turn, then close; nothing more is read.

        `head` is that of the request, where it is whole and is what the answer depends on.
        """
        if head is None:
            request_id = request_id_of(self._headers.get(b"x-request-id", b""))
            head = Head(b"", self._target, _NO_HEADERS, keep_alive=False, request_id=request_id)
        exchange = Exchange(self, head._replace(keep_alive=False), b"", self._site.other_series)
        exchange.failure = error
        self._closing = True
        self._receiving_since = 0.0
        self._drop_body()
        self._pipeline.append((exchange, 0))
        if self._current is None and not self._pumping:
            self._pump()

    def _close_lingering(self) -> None:
        # Closing at once would reset the connection while the client still sends, and a reset
        # can take the answer with it: say that we are done, read on into nothing, then close.
        self._closing = True
        self._receiving_since = self._since
        self._drop_pipeline()
        self._drop_body()
        self._drop_rest()
        if self._paused:
            self._read_on()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif unacknowledged_bytes(self._transport) <= _LAST_BYTES:
            self._transport.close()  # TLS has no half of a connection

    def _head_too_large(self) -> BasculeError:
        limit = self._site.limits.max_head_bytes
        return HttpError(f"the request's head is over {limit} bytes", status=431)

    def _body_too_large(self) -> BasculeError:
        limit = self._site.limits.max_body_bytes
        return TooLarge(
            f"the body is over {limit} bytes", hint="send fewer rows a request", limit=limit
        )

    def check_times(self) -> None:
        """Close the connection if its client has been too slow. Called once a second."""
        limits, now = self._site.limits, self._site.now
        unsent = self._unsent_bytes()
        if unsent:
            self._check_taking(unsent + unacknowledged_bytes(self._transport))
        elif self._taking is not None:
            self._taking = None
            self._since = now
            if self._closing:
                self._receiving_since = now
        elif self._closing and self._current is None:
            if self._is_last_answer_taken() and (
                now - self._receiving_since > _LINGER_S
                or now - self._since > limits.receive_timeout_s
            ):
                self._transport.abort()
        elif self._receiving_since and not (self._paused or self._closing or self._expecting):
            allowed_s = limits.receive_timeout_s + self._body_bytes / limits.least_bytes_per_s
            if now - self._receiving_since > allowed_s:
                self._refuse(
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
        self._receiving_since = self._since = self._site.now
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
        # What the coarse clock said of the time before this is too old to judge who is idle.
        if since_s > _DRAIN_IDLE_S:
            self.close_if_idle(_DRAIN_IDLE_S)

    def close_if_idle(self, idle_s: float) -> None:
        """Close if nothing has been asked for `idle_s` and nothing is under way."""
        idle = not (self._current or self._pipeline or self._receiving_since or self._unsent)
        if idle and self._site.now - self._since > idle_s:
            self._transport.close()

    def _is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()
