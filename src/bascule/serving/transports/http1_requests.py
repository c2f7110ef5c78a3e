"""The requests of HTTP/1.1 that one connection brings: parsed by llhttp, bounded, and admitted.

Only heads that were not parsed before come here; see `known_heads`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol, Unpack

import httptools

from bascule.core import BasculeError, Refused, TooLarge
from bascule.serving.execution import SHORT_BYTES, TURN_S
from bascule.serving.limits import Limits
from bascule.serving.telemetry import STATUSES, MetricSeries, request_id_of
from bascule.serving.transports import offload
from bascule.serving.transports.exchange import Carrier, Exchange, Head
from bascule.serving.transports.hosts import HostPolicy, absolute_authority
from bascule.serving.transports.known_heads import MAX_BYTES, KnownHeads
from bascule.serving.transports.routes import Routes
from bascule.serving.transports.sites import Drained, OfWorker, Shared
from bascule.serving.transports.statuses import HttpError, internal_error

log = logging.getLogger(__name__)

_PARTS_BY_CLOCK = 16
"""After how many requests of one connection the clock is looked at."""
_KEPT_HEADERS = frozenset(
    (
        b"accept", b"accept-encoding", b"authorization", b"bascule-id", b"connection",
        b"content-encoding", b"content-length", b"content-type", b"expect", b"host",
        b"inference-header-content-length",
        b"origin", b"traceparent", b"tracestate", b"transfer-encoding", b"upgrade",
        b"x-amzn-sagemaker-accept", b"x-request-id", b"x-request-timeout-ms",
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
HTTP_1_0 = b":1.0"
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


class Timed(Drained, Protocol):
    """A connection, once a second."""

    def check_times(self) -> None: ...


class Site(Shared["Timed"]):
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
        self.told_protocol = ""
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
        # RFC 9112, section 6.1: its framing is faulty, and a proxy may have ignored it.
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


class Receiving(Carrier, Protocol):
    """A connection, as its requests come."""

    def take(self, exchange: Exchange) -> None: ...

    def refuse(self, error: BasculeError, head: Head | None = None) -> None: ...

    def is_open(self, head: Head) -> bool: ...

    def check_known(self, headers: dict[bytes, bytes]) -> None: ...

    def tell_to_go_on(self) -> None: ...

    def is_closing(self) -> bool: ...


class RequestReader:
    """The request that comes now, on one connection."""

    __slots__ = (
        "_admitted", "_behind", "_body", "_failure", "_head", "_head_bytes", "_head_done",
        "_held_bytes", "_hosts", "_line", "_owner", "_parser", "_site", "_unread", "body_bytes",
        "expecting", "headers", "partial", "receiving_since", "target",
    )  # fmt: skip

    def __init__(self, owner: Receiving, site: Site, hosts: HostPolicy | None) -> None:
        self._owner = owner
        self._site = site
        self._hosts = hosts
        self._parser = httptools.HttpRequestParser(self)
        self._head: Head
        self.target = b""
        self.headers = _NO_HEADERS
        self._body: bytes | bytearray = b""
        # The beginning of the next request line; or what has it behind the end of another request.
        self._line = self._behind = b""
        self.body_bytes = 0
        self._held_bytes = 0
        self._head_bytes = 0
        self._head_done = False
        self.partial = False
        self._admitted = False
        self._unread = False
        self.expecting = False
        self._failure: BasculeError | None = None
        self.receiving_since = 0.0

    def receive_in_parts(self, data: bytes) -> bytes:
        """Receive what may be many requests: one part for each head and for each body.

        What a head has is known only if it begins with a part, and one read may bring many: heads,
        and bodies in chunks, end with an empty line, and other bodies after their length. Returns
        what is left when a turn of the loop is over.
        """
        fresh = not self.partial
        start, size = 0, len(data)
        parts, since_s = 0, time.monotonic()
        while start < size and not self._owner.is_closing():
            parts += 1
            if not parts % _PARTS_BY_CLOCK and time.monotonic() - since_s > TURN_S:
                return data[start:]
            length = self.headers.get(b"content-length") if self._head_done else None
            if length is not None:
                stop = start + max(1, int(length) - self.body_bytes)
            elif start < 3 and not fresh:
                stop = start + 1  # an empty line may have begun in the read before
            else:
                stop = data.find(b"\r\n\r\n", max(0, start - 3)) + 4
                if stop < 4:
                    stop = size
                if self._head_done:
                    stop = min(stop, start + SHORT_BYTES)  # of chunks, each may have one byte
            self.receive(data[start:stop])
            start = stop
        if fresh and not self.partial and not self._owner.is_closing():
            self._site.learn(data, self._head)
        return b""

    def _has_two_spaces(self) -> bool:
        """Whether the request line has them: the parser takes what others read otherwise."""
        line, self._line = self._line, b""
        if line:
            self._behind = line
            if line[0] <= 13:
                line = line.lstrip(b"\r\n")
            return line.find(b"  ", 0, line.find(b"\r\n")) >= 0
        # It is somewhere behind another request or a body.
        return b"  " + self.target in self._behind or self.target + b"  " in self._behind

    def receive(self, data: bytes) -> None:
        """Parse a piece, in which no head that is too large is behind another request."""
        fresh = not self.partial
        head_bytes = self._head_bytes + len(data)
        if head_bytes > self._site.limits.max_head_bytes and not self._head_done:
            data = self._receive_head(data)
            if self._owner.is_closing():
                return
            head_bytes = self._head_bytes + len(data)
            fresh = False
        body_bytes = self.body_bytes
        self._head_bytes = head_bytes
        if fresh:
            self._line = data
        elif self._head_done:
            self._behind = data
        elif self._line:
            self._line += data
        else:
            self._behind += data
        self.partial = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data, upgrade)
            fresh = False
        except httptools.HttpParserError as error:
            self._parsing_failed(error)
        if self._head_done or not self.partial:
            self._behind = b""
        if self._owner.is_closing():
            self.drop_body()
            return  # the client asked for the end, and what follows is not a request
        if self.partial and self._failure is None:
            self._bound_head(body_bytes)
        if self._failure is not None:
            self._owner.refuse(self._failure)
        elif self.partial:
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
        self.receive(data[:left])
        if self._head_bytes >= limit and not self._head_done and not self._owner.is_closing():
            self._owner.refuse(self._head_too_large())
        return data[left:]

    def _go_on_receiving(self) -> None:
        """Decide, of a request that has not ended, whether and how the rest is received."""
        self.receiving_since = self.receiving_since or self._site.now
        if self._head_done and not self._admitted:
            self._admitted = True
            self._admit()
        if len(self._body) == self._held_bytes:
            return
        self._hold()
        held = self._site.held
        if held.is_over():
            self._owner.refuse(held.refusal())

    def _admit(self) -> None:
        """Let the rest of a request come, or refuse it by its head.

        The key is looked at again when the request is whole: it may be revoked meanwhile.
        """
        if self._site.guard is not None:
            head = self._whole_head()
            try:
                is_open = self._owner.is_open(head)
            except BasculeError as error:
                self._owner.refuse(error, head)
                return
            except Exception:
                # As in `_dispatch`: a bug is one failed request, not a dead connection.
                log.exception("a request could not be looked at")
                self._owner.refuse(internal_error(), head)
                return
            if is_open:
                self._unread, self._body = True, b""  # it needs no key
        if b"expect" in self.headers:
            self.expecting = True
            self._owner.tell_to_go_on()

    def _hold(self) -> None:
        """Count what is kept here of a body that has not ended."""
        held_bytes = len(self._body)
        self._site.held.bytes += held_bytes - self._held_bytes
        self._held_bytes = held_bytes

    def drop_body(self) -> None:
        self._body = b""
        self._hold()

    def _bound_head(self, body_bytes_before: int) -> None:
        """Bound what is received of a request and is not its body: its head, and its trailers."""
        if self._head_done and self.body_bytes != body_bytes_before:
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
            head = _head_without_offer(parser, self.target, self.headers)
            self.target = b""
            self.headers = _NO_HEADERS
            self._head_done = False
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self.partial = self.partial or len(rest) > 0
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

    def on_url(self, url: bytes) -> None:
        self.partial = True
        self.target = self.target + url if self.target else url

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows the head are trailers, which may not be merged (RFC 9110, section 6.5.1).
        site = self._site
        if len(name) in site.kept_lengths and not self._head_done:
            lower = name.lower()
            if lower in site.kept:
                if self.headers is _NO_HEADERS:
                    self.headers = {}
                if lower in self.headers and lower in _SINGLE:
                    self._failure = HttpError(
                        f"not an HTTP/1.1 request: two headers {name.decode('latin-1')}", status=400
                    )
                if lower == b"tracestate" and lower in self.headers:
                    value = self.headers[lower] + b"," + value
                elif lower == b"traceparent" and lower in self.headers:
                    value = b""  # two parents are none
                self.headers[lower] = value

    def on_headers_complete(self) -> None:
        self._head_done = True
        headers, parser = self.headers, self._parser
        # HTTP/1.1 alone stays open unasked; to ask for the version costs more than what follows.
        version = "1.1"
        if b"connection" in headers or not parser.should_keep_alive():
            version = parser.get_http_version()
            if version == "1.0":
                self.headers = headers = {**headers, HTTP_1_0: b""}
        self._failure = (
            self._failure
            or _refusal_of_head(version, headers)
            or _refusal_of_host(self._hosts, self.target, headers)
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
                self._owner.check_known(headers)
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
        self.body_bytes += len(body)
        if self.body_bytes > self._site.limits.max_body_bytes:
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
        if self._failure is not None or self._owner.is_closing():
            return
        if self._parser.should_upgrade():
            return  # _go_on_without_upgrade reads it again
        self._head = head = self._whole_head()
        exchange = Exchange(self._owner, head, bytes(self._body), self._site.other_series)
        self.target = b""
        self.headers = _NO_HEADERS
        self._body = b""
        self.body_bytes = 0
        self._head_bytes = 0
        self._head_done = False
        self.partial = False
        if self._admitted:
            self._admitted = self._unread = self.expecting = False
            self._hold()  # it is whole, and must not be in its own way when it looks for room
        self.receiving_since = 0.0
        self._owner.take(exchange)

    def _whole_head(self) -> Head:
        return Head(
            self._parser.get_method(),
            self.target,
            self.headers,
            self._parser.should_keep_alive(),
            request_id_of(self.headers.get(b"x-request-id", b"")),
        )

    def _head_too_large(self) -> BasculeError:
        limit = self._site.limits.max_head_bytes
        return HttpError(f"the request's head is over {limit} bytes", status=431)

    def _body_too_large(self) -> BasculeError:
        limit = self._site.limits.max_body_bytes
        return TooLarge(
            f"the body is over {limit} bytes", hint="send fewer rows a request", limit=limit
        )
