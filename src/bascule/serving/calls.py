"""The values that cross all of serving: a request's context and call, and the answer to it.

transport -> authenticator -> protocol (decode) -> predictor -> protocol (encode) -> transport
-> recorder: a `Context` and an `Answer` are all that the parts of this road have in common.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from bascule.bundle.extras import ExtraRequest
from bascule.core import BasculeError, Columns


class CountsAnswers(Protocol):
    """Where answers are counted; see `telemetry.MetricSeries`."""

    label: Any

    @property
    def answers(self) -> Any: ...

    def count(self, status: int, duration_ns: int, rows: int, protocol: str = "") -> None: ...

    def count_fallback(self) -> None: ...

    def count_ending(self, ending: str, parts: int) -> None: ...

    def count_text(self, figures: Any) -> None: ...


class Memo:
    """What was found out for a head that many requests have. Each pair stands or falls together.

    Attributes:
        keys: The state of the keys (`Authenticator.state`) with which `caller` was let in.
        routes: The routes in which `route` was found.
        caller: The id of the caller's key; empty where no key is needed.
        route: What answers.
        plan: By which `arm` was chosen.
        arm: The arm of the head's sticky key.
    """

    __slots__ = ("arm", "caller", "keys", "plan", "route", "routes")

    def __init__(self) -> None:
        self.keys: object = None
        self.routes: object = None
        self.caller = ""
        self.route: Any = None
        self.plan: object = None
        self.arm: Any = None


class Context(Protocol):
    """One request, from its transport to the recorder.

    The transports' own objects are contexts (`Exchange`, `Rpc`), so that a context costs the hot
    path no allocation.

    Attributes:
        prediction_id: The client's, or ours; empty until the protocol has read or made it.
        caller: The id of the caller's key; empty where no key is needed.
        started_ns: When its last byte had arrived, by `time.perf_counter_ns`.
        protocol: Its name in `serving.protocols`, or `oip-grpc`; empty before it has a route.
        series: Where the answer is counted. A predictor that asks others may set it.
        unit: Of the request's key in a rollout, where this is its first request; -1 where another
            one counts; None where the arm was drawn for this request. As texts where there is
            more: the unit or nothing; of an answer in parts that has ended, how many parts and its
            `telemetry.Ending`; of a request that was steered by its context, the propensity.
        shows: Whether `show` must be called before the answer.
        call: What recorders learn was asked; None where there is no recorder.
        reply: What recorders learn was answered.
    """

    prediction_id: str
    caller: str
    started_ns: int
    protocol: str
    series: CountsAnswers
    unit: int | tuple[str, ...] | None
    call: Call | None
    reply: Answer | None

    @property
    def shows(self) -> bool: ...

    @property
    def address(self) -> str:
        """Where the connection comes from: an IP address, or empty for a socket of this machine."""

    @property
    def trace(self) -> tuple[bytes, bytes]:
        """The headers `traceparent` and `tracestate`; empty where there are none."""

    @property
    def memo(self) -> Memo | None:
        """What may be remembered for other requests with the same head; None where none comes."""

    def allowed_s(self, deadline_s: float) -> float:
        """The time left: the shorter of the server's deadline and the caller's own."""

    def header(self, name: bytes) -> bytes:
        """A header that a predictor asks for (`Predictor.asks_headers`); empty if not sent."""

    def show(self, by: AnsweredBy) -> None:
        """Have the answer's head name the version, where its protocol has no other place."""


class Call(NamedTuple):
    """Rows for a model, and what is wanted of it.

    Attributes:
        columns: In the names and dtypes that the program reads, every value checked.
        rows: How many, 1 or more.
        outputs: The outputs wanted, in that order; None for all.
        extras: The extra outputs wanted beside them; `Extras.by_default` where nothing was said.
    """

    columns: Columns
    rows: int
    outputs: tuple[str, ...] | None = None
    extras: tuple[ExtraRequest, ...] = ()


class AnsweredBy(NamedTuple):
    """Which program of which version of which model. One value per version, compared by `is`.

    `columns`: by field, what its columns are called in the baseline, where that is known.
    `endpoint` and `arm` are set where a plan chose the version; `notice`, header fields for the
    answer, where the version is deprecated. `sources`: of a composition, see its `Plan`.
    """

    model: str
    version: str
    program: str
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    endpoint: str = ""
    arm: str = ""
    notice: tuple[tuple[str, str], ...] = ()
    sources: Mapping[str, frozenset[str]] = MappingProxyType({})

    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__  # type: ignore[misc]

    @property
    def name(self) -> str:
        """`MODEL/VERSION`, for logs and messages."""
        return f"{self.model}/{self.version}"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The outputs of a call, and what produced them.

    A struct, because it is made for every call: that takes a third of the time of a named tuple.
    `original`: what the model answered, for records, where a policy gives its caller less.
    `inputs`: the columns of the call with what was looked up for them; None where nothing was.
    """

    outputs: Columns
    by: AnsweredBy
    original: Columns | None = None
    inputs: Columns | None = None


Outcome = Answer | BasculeError
Deliver = Callable[[Outcome], None]


class Receiver(Protocol):
    """Takes an answer in parts. On the event loop only."""

    def take(self, part: Answer) -> bool:
        """Take a part; False where no more is to come until `Parts.resume`."""

    def finish(self, error: BasculeError | None) -> None:
        """Learn, once and after the last part, how it ended; None for a complete answer."""


class Parts(Protocol):
    """An answer in parts, of which the first is there. On the event loop only.

    Attributes:
        by: What produces it; a predictor that asks others may set it before it delivers.
        queue_ns: How long the call waited for its turn.
    """

    by: AnsweredBy

    @property
    def queue_ns(self) -> int: ...

    def start(self, receiver: Receiver) -> None:
        """Have the parts received, now and as they come."""

    def resume(self) -> None:
        """The receiver has room again."""


PartsOutcome = Parts | BasculeError
DeliverParts = Callable[[PartsOutcome], None]
Cancel = Callable[[], None]
"""Ends a call whose caller has gone."""

# Unique across workers and restarts without a system call per request.
_id_prefix = os.urandom(8).hex()
_ids = itertools.count(1)


def new_prediction_id() -> str:
    """An id of our own, for a request that brought none."""
    return f"{_id_prefix}-{next(_ids):x}"
