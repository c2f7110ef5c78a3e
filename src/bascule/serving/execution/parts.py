"""Answers in parts: each is made on a thread of its own, and received on the event loop.

The rules:
- an answer in parts is running from its call until it has ended, and counts among the calls of its
  model for as long; `MAX_RUNNING` of one model, or as many as its program gives at once, have a
  thread, and others wait for their turn;
- the next turn is for the caller that has had the least of the program's time (start-time fair
  queueing, Goyal et al. 1996): a token of a prompt or an answer costs what it takes;
- between thread and loop are at most `MAX_PARTS` parts or `MAX_PARTS_BYTES`, one part in any case:
  the thread waits while the receiver has no room. Where turns are few there is room for an answer
  of usual length (`_ROOM_OF_FEW`), and the thread waits for `STALL_S` only: a slow reader must not
  hold others up;
- the first part has the time of its caller, each further one `Limits.deadline_s`; the time in which
  the receiver has no room does not count;
- a caller that goes away ends the thread at its next part; a program that looks at `cancelled`
  ends sooner. The turn is free when the thread has ended.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field

from bascule.core import BasculeError, Columns, ModelFailed, Overloaded, Program, TimedOut
from bascule.serving.calls import Answer, AnsweredBy, Cancel, DeliverParts, Receiver
from bascule.serving.execution.admission import BufferBudget, held_bytes
from bascule.serving.execution.failures import failure_of
from bascule.serving.execution.switching import switching_within
from bascule.serving.limits import Limits

MAX_RUNNING = 64
MAX_PARTS = 16
MAX_PARTS_BYTES = 1 << 20
STALL_S = 5.0
_ROOM_OF_FEW = 4_096, 8 << 20
_MOST_CALLERS = 1_024
_SWITCH_S = 1e-3
"""How soon the loop gets the interpreter from programs that compute in Python."""


class PartsRunner:
    """The answers in parts of one program. On the event loop only."""

    def __init__(
        self,
        program: Program,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        held: BufferBudget,
    ) -> None:
        self.program = program
        self.limits = limits
        self.loop = loop
        self._held = held
        self._turns = _Turns()
        self._waiting: list[_Run] = []
        self._running = 0
        self._ended: Callable[[], None] | None = None

    @property
    def open_calls(self) -> int:
        """How many answers wait for their turn or run."""
        return self._running + len(self._waiting)

    @property
    def is_running(self) -> bool:
        return self._running > 0

    def run(
        self,
        columns: Columns,
        outputs: tuple[str, ...] | None,
        allowed_s: float,
        deliver: DeliverParts,
        by: AnsweredBy,
        caller: str = "",
    ) -> Cancel:
        """Begin an answer; see `Predictor.answer_in_parts`."""
        size_bytes = held_bytes(columns)
        if self._waiting:
            self._held.check_room(size_bytes, by.name)
            if len(self._waiting) >= self.limits.max_queue_requests:
                raise Overloaded(
                    f"{by.name} gives {self._running} answers in parts, and {len(self._waiting)} "
                    "wait, as many as may",
                    hint="retry later, or serve it with more workers",
                    retry_after_s=1,
                )
        self._held.bytes += size_bytes
        run = _Run(self, columns, outputs, allowed_s, deliver, by, caller, size_bytes)
        self._waiting.append(run)
        self._turns.add(caller)
        self._begin_next()
        return run.cancel

    def stop(self, ended: Callable[[], None]) -> None:
        """`ended` is called once all answers have ended; no more are asked for."""
        self._ended = ended
        self._begin_next()

    def let_go(self, run: _Run, *, was_running: bool) -> None:
        """An answer has ended: its turn is for the next."""
        self._held.bytes -= run.size_bytes
        self._turns.remove(run.caller, self.loop.time() - run.began_s if was_running else 0.0)
        if was_running:
            self._running -= 1
        else:
            self._waiting.remove(run)
        self._begin_next()

    def _begin_next(self) -> None:
        most = self.program.most_parts or MAX_RUNNING
        while self._waiting and self._running < most:
            self._running += 1
            run = min(self._waiting, key=lambda run: self._turns.used_s[run.caller])
            self._waiting.remove(run)
            self._turns.begin(run.caller)
            run.begin()
        if not self._running and self._ended is not None:
            ended, self._ended = self._ended, None
            ended()


class _Turns:
    """The time that callers have had, of those that wait or run; new ones begin with the least."""

    def __init__(self) -> None:
        self.used_s: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._least_s = 0.0

    def add(self, caller: str) -> None:
        self.used_s.setdefault(caller, self._least_s)
        self._calls[caller] = self._calls.get(caller, 0) + 1

    def begin(self, caller: str) -> None:
        self._least_s = max(self._least_s, self.used_s[caller])

    def remove(self, caller: str, took_s: float) -> None:
        self.used_s[caller] += took_s
        self._calls[caller] -= 1
        if not self._calls[caller]:
            del self._calls[caller]
        # After an idle moment all begin with the same.
        forgets = not self._calls or len(self.used_s) > _MOST_CALLERS + len(self._calls)
        bound_s = math.inf if forgets else self._least_s
        for other in [name for name, used_s in self.used_s.items() if used_s <= bound_s]:
            if other not in self._calls:
                del self.used_s[other]


@dataclass(slots=True, eq=False)
class _Run:
    """One answer in parts (see `calls.Parts`). On the event loop, but for `_work` and `_put`."""

    _runner: PartsRunner
    _columns: Columns
    _outputs: tuple[str, ...] | None
    _allowed_s: float
    _deliver: DeliverParts | None
    by: AnsweredBy
    caller: str
    size_bytes: int
    began_s: float = 0.0
    _thread: threading.Thread | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _room: threading.Condition = field(default_factory=threading.Condition)
    _buffer: deque[tuple[Columns, int]] = field(default_factory=deque)
    _is_told: bool = False
    """The loop will look into the buffer by itself."""
    _receiver: Receiver | None = None
    _has_room: bool = True
    _is_finished: bool = False
    """The thread has ended, with `_error` or without."""
    _error: BasculeError | None = None
    _since_s: float = 0.0
    queue_ns: int = 0
    _timer: asyncio.TimerHandle = field(init=False)

    def __post_init__(self) -> None:
        self._since_s = self._runner.loop.time()
        self._timer = self._runner.loop.call_later(self._allowed_s, self._look_at_time)

    # -- on the thread --

    def _work(self) -> None:
        runner, error = self._runner, None
        columns, self._columns = self._columns, {}
        try:
            parts = runner.program.run_in_parts(columns, self._outputs, self._cancelled)
            with switching_within(_SWITCH_S), closing(parts):
                for part in parts:
                    if not self._put(part):
                        break
        except Exception as problem:
            # A program is foreign code: what it raises ends this answer alone.
            error = failure_of(runner.program, problem)
        with suppress(RuntimeError):  # the loop is closed, and all connections with it
            runner.loop.call_soon_threadsafe(self._end, error)

    def _put(self, part: Columns) -> bool:
        """Wait for room, and put a part into the buffer; False where the caller has gone."""
        if len({len(values) for values in part.values()}) != 1:
            raise ModelFailed("the outputs of a part have not the same rows")
        size = held_bytes(part)
        with self._room:
            few = self._runner.program.most_parts is not None
            while self._buffer and not self._cancelled.is_set() and self._is_full(size, few):
                if not self._room.wait(STALL_S if few else None):
                    raise TimedOut(f"the answer was not read for {STALL_S:g} s", hint="read faster")
            if self._cancelled.is_set():
                return False
            self._buffer.append((part, size))
            is_told, self._is_told = self._is_told, True
        if not is_told:
            self._runner.loop.call_soon_threadsafe(self._push)
        return True

    def _is_full(self, more: int, few: bool) -> bool:
        most, most_bytes = _ROOM_OF_FEW if few else (MAX_PARTS, MAX_PARTS_BYTES)
        buffer = self._buffer
        return len(buffer) >= most or more + sum(n for _, n in buffer) > most_bytes

    # -- on the event loop --

    def begin(self) -> None:
        self.began_s = self._runner.loop.time()
        self.queue_ns = round(1e9 * (self.began_s - self._since_s))
        name = f"bascule-parts-{self.by.name}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            full = Overloaded("the system has no thread left", hint="retry later", retry_after_s=1)
            self._runner.loop.call_soon(self._end, full)

    def start(self, receiver: Receiver) -> None:
        """See `calls.Parts`."""
        self._receiver = receiver
        self._push()

    def resume(self) -> None:
        """See `calls.Parts`."""
        if not self._has_room:
            self._has_room = True
            self._push()

    def cancel(self) -> None:
        """The caller has gone, or has the error that ended the answer."""
        self._timer.cancel()
        self._receiver = self._deliver = None
        if self._thread is None and not self._is_finished:
            self._is_finished = True
            self._runner.let_go(self, was_running=False)
        with self._room:
            self._cancelled.set()
            self._buffer.clear()
            self._room.notify()

    def _end(self, error: BasculeError | None) -> None:
        """The thread has ended."""
        self._is_finished, self._error = True, error
        self._runner.let_go(self, was_running=True)
        self._push()

    def _push(self) -> None:
        """Have the receiver take what is there; after so many parts, others have their turn."""
        if self._deliver is not None and (self._buffer or self._is_finished):
            self._begin_delivery()
        for _ in range(MAX_PARTS):
            receiver = self._receiver
            if receiver is None or not self._has_room:
                return
            with self._room:
                if not self._buffer:
                    self._is_told = False
                    break
                part, _ = self._buffer.popleft()
                self._room.notify()
            self._allowed_s = self._runner.limits.deadline_s
            self._since_s = self._runner.loop.time()
            self._has_room = receiver.take(Answer(part, self.by))
        else:
            self._runner.loop.call_soon(self._push)
            return
        if self._is_finished:
            self._finish(self._error)

    def _begin_delivery(self) -> None:
        deliver, self._deliver = self._deliver, None
        assert deliver is not None
        if self._error is not None and not self._buffer:
            self._timer.cancel()
            deliver(self._error)
        else:
            deliver(self)

    def _finish(self, error: BasculeError | None) -> None:
        receiver, self._receiver = self._receiver, None
        self._timer.cancel()
        if receiver is not None:
            receiver.finish(error)

    def _look_at_time(self) -> None:
        """The next part may be late: unless there is one, which waits for the receiver."""
        loop = self._runner.loop
        if self._buffer or self._is_finished:
            self._since_s = loop.time()
        left_s = self._since_s + self._allowed_s - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look_at_time)
            return
        late = TimedOut(
            f"no part of the answer within {self._allowed_s * 1e3:g} ms", hint="allow more time"
        )
        deliver, receiver = self._deliver, self._receiver
        self.cancel()
        if deliver is not None:
            deliver(late)
        elif receiver is not None:
            receiver.finish(late)
