"""Executes calls: at once on the event loop, or on a thread where waiting callers run together.

Which of the two is decided by measured cost, not by a setting. Handing work to a thread and back
costs tens of microseconds, more than a cheap model itself, and a costly model would hold up
everybody on the loop. On the thread nobody waits for company: a run starts as soon as the thread
is free, with whoever has arrived meanwhile (batching while busy).

The rules:
- every caller gets its own rows, and the outputs that it asked for;
- the queue is bounded, and over the bound the answer is `Overloaded` at once;
- a call whose deadline passes is answered `TimedOut` then, whatever the thread is doing, and is
  not run if it has not started;
- a program that raises fails its own batch only; batch mates of a failed run are run alone, so
  that nobody fails for another's rows; so are those of a run that answered with other rows than
  it was asked about.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from bascule.core.errors import BasculeError, ModelFailed, Overloaded, TimedOut, Unavailable
from bascule.core.fields import Columns
from bascule.core.programs import Program
from bascule.serving.limits import Limits

log = logging.getLogger(__name__)

INLINE_MAX_S = 500e-6
"""The longest run on the event loop: ten times what a thread hop costs here, and short enough for
those who wait for it."""

Outcome = Columns | BasculeError
Deliver = Callable[[Outcome], None]


class Job:
    """One call that waits for the thread. Its state changes on the event loop only."""

    __slots__ = ("closed", "columns", "deliver", "outputs", "rows", "settled", "timer")

    def __init__(
        self, columns: Columns, rows: int, outputs: tuple[str, ...] | None, deliver: Deliver
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.outputs = outputs
        self.deliver = deliver
        self.settled = False
        self.timer: asyncio.TimerHandle | None = None
        self.closed: Callable[[], None] = _nothing

    def settle(self, outcome: Outcome) -> None:
        """Answer the caller, once."""
        if not self.settled:
            self.cancel()
            try:
                self.deliver(outcome)
            except Exception:
                # An answer that cannot be told is one failed call; its mates still get theirs.
                log.exception("an answer could not be delivered")
                self.deliver(_failed("the model's answer cannot be told"))

    def cancel(self) -> None:
        """The caller has gone, or has its answer: do not run it, do not answer it."""
        if not self.settled:
            self.settled = True
            self.closed()
            if self.timer is not None:
                self.timer.cancel()


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a program was measured to be, here.

    Attributes:
        one_row_s: The median time of a run of one row.
        inline_rows: The most rows that run on the event loop; 0 sends every call to the thread.
        batch_rows: The number of rows per run with the highest rate, within the limit.
    """

    one_row_s: float
    inline_rows: int
    batch_rows: int


def measure_pace(
    program: Program, example: Columns, limits: Limits, *, budget_s: float = 0.4
) -> Pace:
    """Warm the program up and time it with growing batches of the example rows.

    Stops at `budget_s`, or where twice the rows no longer raise the rate by a twentieth.
    """
    until = time.perf_counter() + budget_s
    one_row_s = _median_run_s(program, _repeated(example, 1), until)
    inline_rows = 1 if one_row_s <= INLINE_MAX_S else 0
    batch_rows, best_rate, rows = 1, 1 / one_row_s, 1
    while rows * 2 <= limits.max_batch_rows and time.perf_counter() < until:
        rows *= 2
        run_s = _median_run_s(program, _repeated(example, rows), until)
        if run_s <= INLINE_MAX_S and inline_rows:
            inline_rows = rows
        if rows / run_s < best_rate * 1.05:
            break
        batch_rows, best_rate = rows, rows / run_s
    if inline_rows > 1:
        # The loop above may have stopped early; large cheap requests are judged by the slope.
        inline_rows = max(inline_rows, int(INLINE_MAX_S * best_rate))
    return Pace(one_row_s, inline_rows, batch_rows)


def _repeated(example: Columns, rows: int) -> Columns:
    return {name: np.resize(column, (rows, *column.shape[1:])) for name, column in example.items()}


def _median_run_s(program: Program, columns: Columns, until: float) -> float:
    program.run(columns)
    times: list[float] = []
    while len(times) < 15 and (len(times) < 3 or time.perf_counter() < until):
        started = time.perf_counter()
        program.run(columns)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


class Batcher:
    """The thread of one model and the queue before it."""

    def __init__(
        self,
        program: Program,
        pace: Pace,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
    ) -> None:
        self._program = program
        self._pace = pace
        self._limits = limits
        self._loop = loop
        self._name = name
        self._waiting: deque[Job] = deque()
        self._arrived = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._ended: Callable[[], None] = _nothing
        self._open = 0

    @property
    def open_calls(self) -> int:
        """How many calls wait or run."""
        return self._open

    def submit(self, job: Job, deadline_s: float) -> None:
        """Queue a job to be answered within `deadline_s` from now. On the event loop only.

        Raises:
            Overloaded: The queue is full.
            Unavailable: The model is being unloaded.
        """
        if self._stopped:
            raise Unavailable(f"{self._name} is being unloaded", hint="retry")
        # Calls that were given up stay in line until the thread meets them: bound those as well.
        most = self._limits.max_queue_requests
        if self._open >= most or len(self._waiting) >= 4 * most:
            raise Overloaded(
                f"{self._name} has {self._open} requests waiting, as many as it may",
                hint="retry later, or serve it with more workers",
                retry_after_s=max(1, round(len(self._waiting) * self._pace.one_row_s)),
            )
        self._open += 1
        job.closed = self._close_one
        job.timer = self._loop.call_later(deadline_s, job.settle, _timed_out(deadline_s))
        self._waiting.append(job)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"bascule-{self._name}", daemon=True
            )
            self._thread.start()
        self._arrived.release()

    def stop(self, ended: Callable[[], None] = _nothing) -> None:
        """Take no more; `ended` is called, on the event loop, once what waits has been answered."""
        self._stopped = True
        self._ended = ended
        if self._thread is None:
            self._loop.call_soon(self._tell_ended)
        self._arrived.release()

    def _tell_ended(self) -> None:
        # It may lead back to this batcher, and what is let go of must not keep itself alive.
        ended, self._ended = self._ended, _nothing
        self._thread = None
        ended()

    def _close_one(self) -> None:
        self._open -= 1

    def _work(self) -> None:
        while True:
            self._arrived.acquire()
            batch = self._take()
            if batch:
                outcomes = self._run_safely(batch)
                try:
                    self._loop.call_soon_threadsafe(_settle, batch, outcomes)
                except RuntimeError:
                    return  # the loop is closed: there is nobody left to answer
            elif self._stopped and not self._waiting:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._tell_ended)
                return

    def _take(self) -> list[Job]:
        """The jobs of the next run: the oldest, and those that fit beside it."""
        together = self._limits.batching != "never"
        batch: list[Job] = []
        rows = 0
        while True:
            try:
                job = self._waiting.popleft()
            except IndexError:
                return batch
            if job.settled:
                continue
            if batch and rows + job.rows > self._pace.batch_rows:
                self._waiting.appendleft(job)
                return batch
            batch.append(job)
            rows += job.rows
            if not together or rows >= self._pace.batch_rows:
                return batch

    def _run_safely(self, batch: Sequence[Job]) -> list[Outcome]:
        try:
            return self._run(batch)
        except Exception:
            # The thread must outlive whatever a program's odd answer does to it.
            log.exception("a batch of %s failed", self._name)
            return [_failed("the model failed on this input")] * len(batch)

    def _run(self, batch: Sequence[Job]) -> list[Outcome]:
        if len(batch) == 1:
            return [run_one(self._program, batch[0].columns, batch[0].outputs)]
        outputs = batch[0].outputs
        if any(job.outputs != outputs for job in batch):
            outputs = None
        try:
            columns = {
                name: np.concatenate([job.columns[name] for job in batch])
                for name in batch[0].columns
            }
        except ValueError:  # rows of a length that varies, and of different lengths
            return [run_one(self._program, job.columns, job.outputs) for job in batch]
        together = run_one(self._program, columns, outputs)
        rows = sum(job.rows for job in batch)
        if isinstance(together, BasculeError) or any(len(a) != rows for a in together.values()):
            return [run_one(self._program, job.columns, job.outputs) for job in batch]
        outcomes: list[Outcome] = []
        start = 0
        for job in batch:
            end = start + job.rows
            wanted = together if job.outputs is None else job.outputs
            outcomes.append({name: together[name][start:end] for name in wanted})
            start = end
        return outcomes


class Engine:
    """A program in memory, and how its calls are run."""

    __slots__ = ("batcher", "inline_rows", "pace", "program")

    def __init__(
        self,
        program: Program,
        pace: Pace,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
    ) -> None:
        self.program = program
        self.pace = pace
        self.inline_rows = pace.inline_rows
        self.batcher = Batcher(program, pace, limits, loop, name=name)

    def stop(self, ended: Callable[[], None]) -> None:
        """Take no more calls; `ended` is called once those under way have been answered."""
        self.batcher.stop(ended)

    def close(self) -> None:
        """End what the program holds outside of this process' memory. It may block."""
        close = getattr(self.program, "close", None)
        if close is not None:
            close()


def run_one(program: Program, columns: Columns, outputs: tuple[str, ...] | None) -> Outcome:
    """Run a program; what it raises is logged here and told to the caller without its details."""
    try:
        return program.run(columns, outputs)
    except BasculeError as error:
        return error
    except Exception:
        # A program is foreign code: whatever it raises is one failed call, not a dead server.
        log.exception("the program %s failed", program.name)
        return _failed("the model failed on this input")


def _failed(what: str) -> ModelFailed:
    return ModelFailed(what, hint="see the server's log")


def _settle(batch: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    for job, outcome in zip(batch, outcomes, strict=True):
        job.settle(outcome)


def _timed_out(deadline_s: float) -> TimedOut:
    return TimedOut(
        f"no answer within {deadline_s * 1e3:g} ms", hint="allow more time, or send fewer rows"
    )
