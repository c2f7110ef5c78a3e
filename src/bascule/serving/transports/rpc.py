"""The border between a protocol over gRPC and its transport: methods, and calls of them.

A protocol knows messages and no connections; a transport knows connections and no messages. Bytes
go in, and bytes or an error come out.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bascule.core import BasculeError, Overloaded, Unavailable
from bascule.security import Action
from bascule.serving.calls import Call, Deliver
from bascule.serving.execution import Predictor
from bascule.serving.telemetry import MetricSeries
from bascule.serving.transports.parts import PartForm
from bascule.serving.transports.request import Request

Read = TypeVar("Read")


class Rpc(Request):
    """One call of a method, and the way to answer it (a `Context`).

    A handler calls `answer` (or `fail`) once, at once or later, on any thread.

    Attributes:
        body: The request's message, as it was before it was compressed for the way.
        series: Where the answer is counted.
        model: Which model is asked; None until `choose` has let the caller in.
    """

    __slots__ = ("body", "model")

    def __init__(self, body: bytes, series: MetricSeries) -> None:
        self.body = body
        self.series = series
        self.unit = None
        self.caller = ""
        self.prediction_id = ""
        self.protocol = "oip-grpc"
        self.failure = None
        self.call = None
        self.reply = None
        self.on_gone = None
        self.model: Predictor | None = None
        self.rows = 0
        self.started_ns = time.perf_counter_ns()

    @abstractmethod
    def allow(self, action: Action, model: str) -> None:
        """Return if the caller may do that to a model, `*` for all of them; see `Authenticator`.

        Raises:
            Unauthenticated: It has no key.
            Refused: Its key does not allow it.
        """

    def choose(self, model: Predictor) -> None:
        """Ask a model, if the caller may, before anything is said about what is asked of it.

        Raises:
            Unauthenticated: It has no key.
            Refused: Its key does not allow it. It is counted as HTTP does: under no model.
            Overloaded: The model cannot answer in time.
            Unavailable: It is being unloaded.
        """
        self.allow(model.needs, model.name)
        self.model = model
        self.series = model.series
        model.check_room(self.allowed_s(model.limits.deadline_s))

    @abstractmethod
    def ask(self, call: Call, deliver: Deliver) -> None:
        """Have the model that was chosen answer a call; see `Predictor.answer`."""

    @abstractmethod
    def read_aside(self, read: Callable[[], Read], go_on: Callable[[Read, float], None]) -> None:
        """Read a long message on a thread, and go on with what was read where calls run."""

    @abstractmethod
    def answer(self, message: bytes) -> None:
        """Answer with a message."""


class RpcInParts(Rpc):
    """One message of a stream (`InParts`)."""

    __slots__ = ()

    @abstractmethod
    def ask_in_parts(self, call: Call, form: PartForm) -> None:
        """Have the model that was chosen answer a call in parts."""


ModelOf = Callable[[bytes], Predictor | None]


@dataclass(frozen=True, slots=True)
class Unary:
    """A method of one message in and one out.

    Attributes:
        path: Of the method.
        handle: Answers a call of it.
        action: What a caller must be allowed to do.
        model_of: Of a method that asks a model, and may have to wait for that: from the first bytes
            of a message to the model that it is counted under; None where they do not say.
    """

    path: bytes
    handle: Callable[[Rpc], None]
    action: Action
    model_of: ModelOf | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """A method that answers one message with what it asks about, and again when that changes.

    Attributes:
        path: Of the method.
        look: From the message to what tells the state now; raises what is wrong with the message.
        action: What a caller must be allowed to do.
    """

    path: bytes
    look: Callable[[bytes], Callable[[], bytes]]
    action: Action


@dataclass(frozen=True, slots=True)
class InParts(Unary):
    """A method that answers the messages of a stream in their order, each in one part or several.

    Attributes:
        failed: What is answered to a message that fails, and the stream goes on; None where the
            stream ends with the error.
    """

    failed: Callable[[Rpc, BasculeError], bytes] | None = None


Method = Unary | Watch | InParts
Methods = dict[bytes, Method]
"""Methods by their path: `b"/inference.GRPCInferenceService/ModelInfer"`."""


def pushback_ms(error: BasculeError) -> int | None:
    """When the caller may try again, of an error that says so; clients that retry read it."""
    if isinstance(error, Overloaded | Unavailable):
        return int(str(error.facts.get("retry_after_s", 1))) * 1_000
    return None
