"""The extra outputs of one version: what requests ask for, and how it is added to their answers.

The rules:
- each request's extra outputs are computed from its own rows and its own answer, after its batch:
  they delay no other request of the batch;
- what costs more than `ON_LOOP_S` runs on a thread of the version, in the order of arrival; its
  queue, its memory and its time are bounded as those of the model's own calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bascule.bundle.extras import Extra, ExtraRequest, read_requests
from bascule.bundle.programs import place_of
from bascule.core import BasculeError, Invalid, ModelFailed, Overloaded, TimedOut
from bascule.serving.calls import Answer, Call, Cancel, Deliver, Outcome
from bascule.serving.execution.admission import BufferBudget, held_bytes
from bascule.serving.limits import Limits

log = logging.getLogger(__name__)

ON_LOOP_S = 1e-3
"""What extras may cost on the event loop for one request."""


class Extras:
    """The extra outputs of one version, and what requests ask of them."""

    def __init__(self, extras: Sequence[Extra] = ()) -> None:
        self._extras = tuple(extras)
        self._by_field = {field.name: extra for extra in extras for field in extra.fields}
        self.fields = tuple(field for extra in extras for field in extra.fields)
        self.names = frozenset(self._by_field)
        self.by_default = tuple(extra.by_default for extra in extras if extra.by_default)

    def read(self, parameters: Mapping[str, Any], protocol: str) -> tuple[ExtraRequest, ...]:
        """The extras that the `parameters` of a request ask for; raises `Invalid`."""
        return read_requests(self._extras, parameters, protocol)

    def schema(self, protocol: str) -> dict[str, Any]:
        """The JSON Schema of each parameter that a request of a protocol may have."""
        return {
            parameter.name: parameter.schema()
            for extra in self._extras
            if extra.fields and protocol in extra.places
            for parameter in extra.parameters
        }

    def check(self, outputs: Iterable[str], requests: Sequence[ExtraRequest]) -> None:
        """Raise `Invalid` where a listed output is of an extra that is not requested."""
        for name in outputs:
            extra = self._by_field.get(name)
            if extra is not None and all(request.extra is not extra for request in requests):
                raise Invalid(
                    f"outputs: {name} requires parameters.{extra.name}",
                    hint=f"send it in parameters, or leave {name} out",
                )

    def check_none(self, requests: Sequence[ExtraRequest]) -> None:
        """Raise `Invalid` where an answer in parts is asked for extras; the defaults are not."""
        if requests and requests != self.by_default:
            raise Invalid(
                "parameters: an answer in parts has no extra outputs",
                hint="leave them out, or ask for the whole answer",
            )

    def instead_of(self, requests: Sequence[ExtraRequest]) -> tuple[ExtraRequest, ...]:
        """The same extras of this version, for a request to another; without those it lacks."""
        own = {extra.name: extra for extra in self._extras if extra.fields}
        return tuple(
            request._replace(extra=own[request.extra.name])
            for request in requests
            if request.extra.name in own
        )

    def for_every_request(self, name: str, first: Any) -> tuple[Extras, ExtraRequest]:
        """These, with one of them in every answer, and the request for it; raises `Invalid`."""
        extra = next(extra for extra in self._extras if extra.name == name)
        made = extra.for_every_request(first)
        assert made.by_default is not None
        return Extras([made if one is extra else one for one in self._extras]), made.by_default

    def metadata(self) -> dict[str, Any]:
        """What the metadata of the model says of its extras."""
        return {key: value for extra in self._extras for key, value in extra.metadata().items()}


NO_EXTRAS = Extras()


@dataclass(slots=True, eq=False)
class ExtrasThread:
    """The thread of one version for its extra outputs. On the event loop only.

    Attributes:
        name: The version, `MODEL/VERSION`, for messages.
        waiting: The calls that wait for the thread or are on it.
    """

    name: str
    limits: Limits
    loop: asyncio.AbstractEventLoop
    held: BufferBudget
    waiting: int = 0
    _thread: ThreadPoolExecutor | None = None

    def take_in(self, size_bytes: int) -> ThreadPoolExecutor:
        """The thread, for one more call of so many bytes; raises `Overloaded` if it is too much."""
        if self.waiting >= self.limits.max_queue_requests:
            raise Overloaded(
                f"{self.name} has {self.waiting} requests waiting for extra outputs, as many as "
                "it may",
                hint="retry later, or ask for the model's own outputs",
                retry_after_s=1,
            )
        self.held.check_room(size_bytes, self.name)
        self.held.bytes += size_bytes
        self.waiting += 1
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, f"bascule-extras-{self.name}")
        return self._thread

    def let_go(self, size_bytes: int) -> None:
        """That call is over; see `take_in`."""
        self.waiting -= 1
        self.held.bytes -= size_bytes

    def has_no_thread(self) -> Overloaded:
        """Forget the executor: without a thread it keeps the call, and would run it later."""
        self._thread = None
        return Overloaded(
            f"the system has no thread left for the extra outputs of {self.name}",
            hint="retry later, or ask for the model's own outputs",
            retry_after_s=1,
        )


@dataclass(slots=True, eq=False)
class ExtraRun:
    """One call that asks for extras, from its model's answer to its own."""

    _extras: ExtrasThread
    _call: Call
    _until_s: float
    _deliver: Deliver
    is_over: bool = False
    _timer: asyncio.TimerHandle | None = None
    cancel_run: Cancel | None = None

    def cancel(self) -> None:
        """The caller has gone."""
        self.is_over = True
        if self.cancel_run is not None:
            self.cancel_run()
        if self._timer is not None:
            self._timer.cancel()

    def take(self, outcome: Outcome) -> None:
        """Take the model's answer; see `calls.Deliver`."""
        if self.is_over:
            return
        if isinstance(outcome, BasculeError):
            self._end(outcome)
            return
        cost_s = self._call.rows * sum(request.extra.row_cost_s for request in self._call.extras)
        if cost_s <= ON_LOOP_S:
            self._end(added(outcome, self._call))
            return
        try:
            self._add_on_thread(outcome)
        except Overloaded as error:
            self._end(error)

    def _add_on_thread(self, answer: Answer) -> None:
        extras, call, loop = self._extras, self._call, self._extras.loop
        size_bytes = held_bytes(call.columns) + held_bytes(answer.outputs)
        thread = extras.take_in(size_bytes)

        def work() -> Outcome:
            return _late() if self.is_over else added(answer, call)

        def done(future: Future[Outcome]) -> None:
            extras.let_go(size_bytes)
            if not self.is_over:
                self._end(future.result())

        def back(future: Future[Outcome]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done, future)

        self._timer = loop.call_at(self._until_s, self._end, _late())
        try:
            future = thread.submit(work)
        except RuntimeError:
            extras.let_go(size_bytes)
            raise extras.has_no_thread() from None
        future.add_done_callback(back)

    def _end(self, outcome: Outcome) -> None:
        if not self.is_over:
            self.is_over = True
            if self._timer is not None:
                self._timer.cancel()
            self._deliver(outcome)


def needed(call: Call) -> tuple[str, ...] | None:
    """The outputs that the program must give, so that the extras of a call can be added."""
    if call.outputs is None:
        return None
    extra_names = {field.name for request in call.extras for field in request.extra.fields}
    own = [name for name in call.outputs if name not in extra_names]
    for request in call.extras:
        if _adds(request, call.outputs):
            own += [name for name in request.extra.needs if name not in own]
    return tuple(own)


def added(answer: Answer, call: Call) -> Outcome:
    """The answer with the extras that its call asks for; an error where one fails."""
    every = dict(answer.outputs)
    names = dict.fromkeys(call.outputs or every)
    for request in call.extras:
        if not _adds(request, call.outputs):
            continue
        extra = request.extra
        try:
            more = extra.add(call.columns, answer.outputs, request.settings)
        except BasculeError as problem:
            return ModelFailed(f"the answer has no {extra.name}: {problem.message}")
        except Exception as problem:
            log.exception("the extra output %s failed", extra.name)
            return ModelFailed(f"the answer has no {extra.name}", reason=place_of(problem))
        every |= more
        if request.always or call.outputs is None:
            names |= dict.fromkeys(more)
    return Answer({name: every[name] for name in names}, answer.by)


def _adds(request: ExtraRequest, outputs: tuple[str, ...] | None) -> bool:
    fields = request.extra.fields
    return request.always or outputs is None or any(field.name in outputs for field in fields)


def _late() -> TimedOut:
    return TimedOut("the extra outputs were not ready in time", hint="allow more time, or ask less")
