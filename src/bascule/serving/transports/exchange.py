"""One request over HTTP/1.1 and the way to answer it: the argument of handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from bascule.core import BasculeError, Invalid, Overloaded, TooLarge
from bascule.security import ON_BEHALF, Action
from bascule.serving.calls import AnsweredBy, Call, Deliver, Memo
from bascule.serving.codecs import compression as codings
from bascule.serving.execution import BufferBudget, Predictor
from bascule.serving.telemetry import MetricSeries, Recorder
from bascule.serving.transports import offload
from bascule.serving.transports.parts import PartForm, PartSender, PartWire
from bascule.serving.transports.request import Request
from bascule.serving.transports.statuses import error_body, status_of

_Read = TypeVar("_Read")
_JSON = b"application/json"
_MAX_TIMEOUT_DIGITS = 9
_ON_BEHALF = ON_BEHALF.encode()
_COMPRESSED_FROM_BYTES = 32 << 10
"""Smaller answers are not compressed, although nearly every client accepts gzip: compressing them
takes more time here than it saves on the network."""
_COMPRESSED_ELSEWHERE_FROM_BYTES = 256 << 10
"""Larger answers are compressed on a thread, because compressing would delay other callers."""


class Head(NamedTuple):
    """The parts of a request's head that the server uses.

    Attributes:
        method: For example `b"POST"`; empty if the head was not understood.
        target: The path and the query, as they were sent.
        headers: The kept headers, by their names in lower case. Read-only.
        keep_alive: The connection stays open after the answer.
        request_id: The caller's `X-Request-Id`; empty if there is none, or none that is safe.
        is_plain: No header changes how the body is read, how long the caller waits, or the head
            of a small answer; and the body is short.
        memo: See `Context`.
    """

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    keep_alive: bool
    request_id: bytes = b""
    is_plain: bool = False
    memo: Memo | None = None


class Carrier(Protocol):
    """The connection of an exchange, as the exchange sees it."""

    recorder: Recorder | None

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def held(self) -> BufferBudget: ...

    @property
    def address(self) -> str: ...

    def write_answer(
        self, exchange: Exchange, body: bytes, status: int, content_type: bytes, extra: bytes
    ) -> None: ...

    def told(self, error: BasculeError, protocol: str) -> tuple[int, bytes, bytes]: ...

    def allow(self, exchange: Exchange, action: Action, model: str) -> None:
        """Raise unless the caller may do that to a model; see `Authenticator`."""

    def wire_of(self, exchange: Exchange) -> PartWire:
        """What writes an answer in parts; raises `HttpError` where it cannot be given."""


class Exchange(Request):
    """One request, and the way to answer it (a `Context`).

    A handler calls `answer` (or `fail`) once, at once or later on the event loop.
    """

    __slots__ = (
        "_connection", "answered", "body", "head", "waited_s",
    )  # fmt: skip

    shows = False

    def __init__(self, connection: Carrier, head: Head, body: bytes, series: MetricSeries) -> None:
        self._connection = connection
        self.head = head
        self.request_id = head.request_id
        self.prediction_id = ""
        self.protocol = ""
        self.caller = ""
        self.call = None
        self.reply = None
        self.body = body
        self.series = series
        self.unit = None
        self.rows = 0
        self.started_ns = perf_counter_ns()
        self.waited_s = 0.0
        self.answered = False
        self.failure = None
        self.on_gone = None

    @property
    def trace(self) -> tuple[bytes, bytes]:
        """See `Context`."""
        headers = self.head.headers
        return headers.get(b"traceparent", b""), headers.get(b"tracestate", b"")

    @property
    def address(self) -> str:
        """See `Context`."""
        return self._connection.address

    @property
    def memo(self) -> Memo | None:
        """See `Context`."""
        return self.head.memo

    def header(self, name: bytes) -> bytes:
        """See `Context`."""
        return self.head.headers.get(name, b"")

    def show(self, by: AnsweredBy) -> None:
        """See `Context`: over HTTP, protocols write the head (`describing.answered_by`)."""

    def choose(self, model: Predictor, allowed_s: float) -> None:
        """As `Rpc.choose`: for a route that learns its model from the body."""
        self._connection.allow(self, model.needs, model.name)
        self.series = model.series
        model.check_room(allowed_s)

    def ask(self, predictor: Predictor, call: Call, allowed_s: float, deliver: Deliver) -> None:
        """Have a predictor answer a call of this request; see `Predictor.answer`."""
        if self._connection.recorder is not None:
            self.call = call
        self.on_gone = predictor.answer(call, self, allowed_s, deliver)

    def ask_in_parts(
        self, predictor: Predictor, call: Call, allowed_s: float, form: PartForm,
        *, is_whole: bool = False,
    ) -> None:  # fmt: skip
        """Have a predictor answer a call in parts; see `Predictor.answer_in_parts`.

        `is_whole`: `form` collects the parts, and its end is the body of the answer.
        """
        if self._connection.recorder is not None:
            self.call = call
        wire = self._connection.wire_of(self)
        if is_whole:
            wire = _Whole(self, wire)
        PartSender(self, wire, predictor, form).ask(call, allowed_s)

    def answer(
        self, body: bytes, status: int = 200, content_type: bytes = _JSON, extra: bytes = b""
    ) -> None:
        """Answer with a whole body, compressed if the client accepts that and the body is long.

        `extra` is header lines, each ended by CRLF.
        """
        if len(body) >= _COMPRESSED_FROM_BYTES:
            coding = codings.wanted(self.head.headers.get(b"accept-encoding", b""))
            if coding:
                extra += b"Content-Encoding: %b\r\nVary: Accept-Encoding\r\n" % coding
                self._answer_compressed(body, coding, status, content_type, extra)
                return
        self._connection.write_answer(self, body, status, content_type, extra)

    def _answer_compressed(
        self, body: bytes, coding: bytes, status: int, content_type: bytes, extra: bytes
    ) -> None:
        if len(body) < _COMPRESSED_ELSEWHERE_FROM_BYTES:
            made = codings.encoded(body, coding)
            self._connection.write_answer(self, made, status, content_type, extra)
            return

        def write(done: asyncio.Future[bytes]) -> None:
            if done.cancelled():
                return  # the loop ends, and the connection with it
            problem = done.exception()
            if isinstance(problem, Exception):
                self.fail_with(problem)
                return
            self._connection.write_answer(self, done.result(), status, content_type, extra)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, codings.encoded, body, coding).add_done_callback(write)

    def body_within(self, most_bytes: int) -> bytes | None:
        """The same as `take_body`; None for a longer body, which is read by `offload`.

        Raises:
            Invalid: See `take_body`.
        """
        body = self.body
        if len(body) > most_bytes:
            return None
        coding = self.head.headers.get(b"content-encoding")
        if coding is not None:
            try:
                body = codings.decoded(body, coding, min(most_bytes, offload.ROWS_FROM_BYTES))
            except TooLarge:
                return None
        self.body = b""
        return body

    def read_aside(
        self, read: Callable[[], _Read], go_on: Callable[[_Read, float], None], allowed_s: float
    ) -> None:
        """Read the body on a thread, then go on with it and the time left: see `offload`."""
        offload.run(self, self._connection.held, read, go_on, allowed_s)

    def take_body(self) -> bytes:
        """The body without its `Content-Encoding`; the exchange does not keep it.

        Raises:
            Invalid: The coding is unknown, or the body is not in the stated coding.
            TooLarge: The decompressed body exceeds `max_body_bytes`.
        """
        headers = self.head.headers
        body, self.body = self.body, b""
        if headers and b"content-encoding" in headers:
            max_bytes = self._connection.max_body_bytes
            return codings.decoded(body, headers[b"content-encoding"], max_bytes)
        return body

    def allowed_s(self, deadline_s: float) -> float:
        """How long the caller still waits: the shorter of the server's deadline and its own."""
        asked = self.head.headers.get(b"x-request-timeout-ms")
        allowed_s = deadline_s if asked is None else min(deadline_s, _asked_s(asked))
        said = self.head.headers.get(b"authorization", b"")
        if asked is not None and self.caller and _ON_BEHALF in said:
            allowed_s = _asked_s(asked)  # of a caller that does not wait for it
        return allowed_s - self.waited_s

    def fail(self, error: BasculeError) -> None:
        """Answer with an error: its status, its message and its next step in the one shape."""
        error = self.fails(error)
        status, body, extra = self._connection.told(
            error, self.protocol or str(error.facts.get("protocol", ""))
        )
        self.answer(body, status, extra=extra)

    def fail_late(self) -> None:
        """See `admission.Waiting`."""
        self.fail(
            Overloaded(
                f"it waited for {self.waited_s:.2g} s, until its deadline",
                hint="retry later, or serve with more workers",
                retry_after_s=1,
            )
        )


class _Whole:
    """Answers with the end of what a form has collected (a `PartWire`)."""

    def __init__(self, exchange: Exchange, wire: PartWire) -> None:
        self.backlog, self.allow = wire.backlog, wire.allow
        self._exchange = exchange
        self._head: tuple[bytes, bytes] = b"", b""

    def begin(self, content_type: bytes, extra: bytes, resume: Callable[[], None]) -> None:  # noqa: ARG002
        self._head = content_type, extra

    def send(self, data: bytes) -> bool:  # noqa: ARG002
        return True

    def end(self, data: bytes, error: BasculeError | None) -> None:
        if error is not None:
            self._exchange.fail(error)
        else:
            self._exchange.answer(data, content_type=self._head[0], extra=self._head[1])


def told(error: BasculeError, protocol: str) -> tuple[int, bytes, bytes]:
    """An error as a status, a body that clients of the protocol read, and lines of the head."""
    status = status_of(error)
    extra = b""
    if status in (429, 503):
        extra = b"Retry-After: %d\r\n" % int(str(error.facts.get("retry_after_s", 1)))
    elif status == 401:
        extra = b'WWW-Authenticate: Bearer realm="bascule"\r\n'
    elif status == 410:
        extra = str(error.facts.get("head", "")).encode()
    elif status == 405:
        extra = b"Allow: %s\r\n" % str(error.facts["allow"]).encode()
    return status, msgspec.json.encode(error_body(error, protocol)), extra


def _asked_s(asked: bytes) -> float:
    if not asked.isdigit() or len(asked) > _MAX_TIMEOUT_DIGITS or int(asked) == 0:
        raise Invalid(
            "header X-Request-Timeout-Ms is not a whole number of milliseconds from 1 to "
            f"{10**_MAX_TIMEOUT_DIGITS - 1}",
            hint="send for example X-Request-Timeout-Ms: 500",
        )
    return int(asked) / 1e3
