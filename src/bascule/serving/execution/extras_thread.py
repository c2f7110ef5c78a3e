"""The thread of a version on which costly extra outputs are computed, after the batch.

The rules:
- each request's extra outputs delay no other request of its batch;
- what costs more than `ON_LOOP_S` runs on a thread of the version, in the order of arrival; its
  queue, its memory and its time are bounded as those of the model's own calls.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bascule.core import BasculeError, Overloaded, TimedOut
from bascule.serving.calls import Answer, Call, Cancel, Deliver, Outcome
from bascule.serving.execution.admission import BufferBudget, held_bytes
from bascule.serving.execution.extras import added
from bascule.serving.limits import Limits

ON_LOOP_S = 1e-3
"""What extras may cost on the event loop for one request."""


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


def _late() -> TimedOut:
    return TimedOut("the extra outputs were not ready in time", hint="allow more time, or ask less")
