"""What a request is over every transport: its ids, and its way through predictor and recorder."""

from __future__ import annotations

from functools import partial

from bascule.core.errors import BasculeError
from bascule.serving.calls import Call, Cancel, Deliver, Outcome, new_prediction_id
from bascule.serving.telemetry.counters import MetricSeries
from bascule.serving.telemetry.recorder import Recorded
from bascule.serving.telemetry.request_log import request_id_of


class Request:
    """The transport-independent half of a `Context`: base of `Exchange` and `Rpc`.

    Attributes:
        prediction_id: See `Context`.
        request_id: The `X-Request-Id` of the request, or the one it is answered with; empty for
            none so far.
        caller: See `Context`.
        recorded: What was asked of a predictor; only where there is a recorder.
        slot: Where the answer is counted.
        on_gone: What to call if the client goes away; None where nothing waits.
    """

    __slots__ = ("caller", "on_gone", "prediction_id", "recorded", "request_id", "slot")

    prediction_id: str
    request_id: bytes
    caller: str
    recorded: Recorded | None
    slot: MetricSeries
    on_gone: Cancel | None

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
        """Keep what is asked, and what is answered, for the recorder."""
        self.recorded = Recorded(call)
        return partial(self._keep_answer, deliver)

    def _keep_answer(self, deliver: Deliver, outcome: Outcome) -> None:
        if not isinstance(outcome, BasculeError) and self.recorded is not None:
            self.recorded = self.recorded._replace(answer=outcome)
        deliver(outcome)
