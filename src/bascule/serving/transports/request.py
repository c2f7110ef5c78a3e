"""What a request is over every transport: its ids, and its way through predictor and recorder."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from bascule.core import BasculeError, Invalid, ModelFailed
from bascule.serving.calls import (
    Answer,
    AnsweredBy,
    Call,
    Cancel,
    CountsAnswers,
    Memo,
    new_prediction_id,
)
from bascule.serving.execution import AdmissionQueue
from bascule.serving.telemetry import Recorder, RequestLog, request_id_of
from bascule.serving.transports.statuses import (
    internal_error,
    kind_of,
    named_failure,
    reason_of,
)

log = logging.getLogger(__name__)

ID_HEADER = b"bascule-id"
"""The prediction id, for protocols whose bodies have no place for one."""


class Telling(Protocol):
    """Where a transport tells of its answers.

    Attributes:
        backlog: Learns when something was answered.
        recorder: None for none.
        request_log: Takes records of answers with the status `noted_from` and above.
    """

    backlog: AdmissionQueue
    recorder: Recorder | None
    request_log: RequestLog | None
    noted_from: int


class Request(ABC):
    """The transport-independent half of a `Context`: base of `Exchange` and `Rpc`.

    Attributes:
        prediction_id: See `Context`.
        request_id: The `X-Request-Id` of the request, or the one it is answered with; empty for
            none so far.
        caller: See `Context`.
        call: What was asked of a predictor; kept only where there is a recorder.
        reply: What was answered; set by the protocol.
        protocol: See `Context`.
        failure: With which it is answered; None for no failure.
        rows: How many rows an answer answers.
        shows: See `Context`.
        unit: See `Context`.
        series: Where the answer is counted.
        on_gone: What to call if the client goes away; None where nothing waits.
    """

    __slots__ = (
        "call", "caller", "failure", "on_gone", "prediction_id", "protocol", "reply",
        "request_id", "rows", "series", "started_ns", "unit",
    )  # fmt: skip

    shows = True
    prediction_id: str
    request_id: bytes
    caller: str
    call: Call | None
    reply: Answer | None
    started_ns: int
    protocol: str
    failure: BasculeError | None
    rows: int
    series: CountsAnswers
    unit: int | tuple[str, ...] | None
    on_gone: Cancel | None

    @property
    @abstractmethod
    def trace(self) -> tuple[bytes, bytes]:
        """See `Context`."""

    @property
    @abstractmethod
    def address(self) -> str:
        """See `Context`."""

    @property
    def memo(self) -> Memo | None:
        """See `Context`."""
        return None

    @abstractmethod
    def show(self, by: AnsweredBy) -> None:
        """See `Context`."""

    @abstractmethod
    def header(self, name: bytes) -> bytes:
        """See `Context`."""

    @abstractmethod
    def allowed_s(self, deadline_s: float) -> float:
        """See `Context`."""

    @abstractmethod
    def fail(self, error: BasculeError) -> None:
        """Answer with an error."""

    def run(self, go_on: Callable[[], None]) -> None:
        """Go on with the request; what that raises is its answer."""
        try:
            go_on()
        except Exception as problem:
            self.fail_with(problem)

    def fail_with(self, problem: Exception) -> None:
        """Answer with what was raised. A bug is one failed request, and is logged."""
        if isinstance(problem, BasculeError):
            self.fail(problem)
        else:
            log.error("a request failed%s", self.named(), exc_info=problem)
            self.fail(internal_error())

    def identify(self, said: str | None = None) -> str:
        """Settle the prediction id: of the body, `Bascule-Id`, `X-Request-Id`, or a new one.

        Raises:
            Invalid: `Bascule-Id` cannot be one.
        """
        if not said:
            given = self.header(ID_HEADER)
            if given and not request_id_of(given):
                raise Invalid(
                    "header Bascule-Id: not 1 to 128 letters, digits and ._:/+=@-",
                    hint="send another id, or none",
                )
            given = given or self.request_id
            said = given.decode() if given else new_prediction_id()
        self.prediction_id = said
        return said

    def logged_id(self) -> bytes:
        """The id for the log: the caller's header, or the prediction id if it is safe there."""
        return self.request_id or request_id_of(self.prediction_id.encode())

    def need_request_id(self) -> None:
        """Set an id that is safe in a header: that of `logged_id`, or a new one."""
        self.request_id = self.logged_id() or new_prediction_id().encode()

    def named(self) -> str:
        """The request in words for a line of the log, by its id; it gets one if it has none."""
        self.need_request_id()
        return f" (request {self.request_id.decode()})"

    def fails(self, error: BasculeError) -> BasculeError:
        """Keep the reason of the failure; returns the error for the caller, with a next step."""
        if isinstance(error, ModelFailed):
            self.need_request_id()
            error = named_failure(error, self.request_id)
        model = self.series.label.model
        if isinstance(error, Invalid) and model and not error.hint:
            error.hint = f"the metadata of {model} says what it takes"
        # Its frames lead back to this request, and a ring would wait for the garbage collector.
        self.failure = error.with_traceback(None)
        return error

    def tell(self, of: Telling, status: int) -> None:
        """Count the answer, record it, and note it for the log: once, where it is written."""
        of.backlog.answered_ns = now_ns = perf_counter_ns()
        duration_ns = now_ns - self.started_ns
        rows = self.rows if status == 200 else 0
        series = self.series
        series.count(status, duration_ns, rows, self.protocol)
        answers = series.answers
        if answers is not None and status == 200:
            answers.add(self.reply)
        if of.recorder is not None and series.label.model:
            of.recorder.add(self, self.call, self.reply, series.label, status, duration_ns)
        if status >= of.noted_from:
            assert of.request_log is not None
            of.request_log.add(
                status, duration_ns, rows, series.label, self.logged_id(), kind_of(self.failure),
                *self.trace, reason_of(self.failure), self.prediction_id,
                None if self.reply is None else self.reply.original,
            )  # fmt: skip
