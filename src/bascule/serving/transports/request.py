"""What a request is over every transport: its ids, and its way through predictor and recorder."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bascule.core.errors import BasculeError
from bascule.serving.calls import Answer, Call, Cancel, Deliver, Outcome, new_prediction_id
from bascule.serving.telemetry.counters import MetricSeries
from bascule.serving.telemetry.recorder import Recorder
from bascule.serving.telemetry.request_log import request_id_of


class Request(ABC):
    """The transport-independent half of a `Context`: base of `Exchange` and `Rpc`.

    Attributes:
        prediction_id: See `Context`.
        request_id: The `X-Request-Id` of the request, or the one it is answered with; empty for
            none so far.
        caller: See `Context`.
        call: What was asked of a predictor; kept only where there is a recorder, as is `reply`.
        reply: What was answered.
        slot: Where the answer is counted.
        on_gone: What to call if the client goes away; None where nothing waits.
    """

    __slots__ = (
        "_deliver", "call", "caller", "on_gone", "prediction_id", "reply", "request_id", "slot",
    )  # fmt: skip

    prediction_id: str
    request_id: bytes
    caller: str
    call: Call | None
    reply: Answer | None
    started_ns: int
    _deliver: Deliver | None
    slot: MetricSeries
    on_gone: Cancel | None

    @property
    @abstractmethod
    def trace(self) -> tuple[bytes, bytes]:
        """See `Context`."""

    @abstractmethod
    def header(self, name: bytes) -> bytes:
        """See `Context`."""

    @abstractmethod
    def allowed_s(self, deadline_s: float) -> float:
        """See `Context`."""

    def identify(self, said: str | None = None) -> str:
        """Settle the prediction id: what the body said, or `X-Request-Id`, or a new one."""
        if not said:
            said = self.request_id.decode() if self.request_id else new_prediction_id()
        self.prediction_id = said
        return said

    def logged_id(self) -> bytes:
        """The id for the log: the caller's header, or the prediction id if it is safe there."""
        return self.request_id or request_id_of(self.prediction_id.encode())

    def need_request_id(self) -> None:
        """Have an id that can be told in a header: see `logged_id`; or a new one."""
        self.request_id = self.logged_id() or new_prediction_id().encode()

    def named(self) -> str:
        """The request in words for a line of the log, by its id; it gets one if it has none."""
        self.need_request_id()
        return f" (request {self.request_id.decode()})"

    def keep(self, call: Call, deliver: Deliver) -> Deliver:
        """Keep what is asked, and what is answered, until `record`."""
        self.call = call
        self._deliver = deliver
        return self._keep_reply

    def _keep_reply(self, outcome: Outcome) -> None:
        if not isinstance(outcome, BasculeError):
            self.reply = outcome
        if self._deliver is not None:
            self._deliver(outcome)

    def record(self, recorder: Recorder, status: int, duration_ns: int) -> None:
        """Tell the recorder of an answer, unless it is of no model."""
        self._deliver = (
            None  # it leads back to this request, and a ring would wait for the collector
        )
        label = self.slot.label
        if label.model:
            recorder.add(self, self.call, self.reply, label, status, duration_ns)
