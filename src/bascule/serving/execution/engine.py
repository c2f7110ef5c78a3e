"""Executes calls: on the event loop, or on a thread; in both, callers who wait run together.

Which of the two is decided by measured cost, not by a setting. Handing work to a thread and back
costs tens of microseconds, more than a cheap model itself, and a costly model would hold up
everybody on the loop. On the thread a run starts as soon as the thread is free, with whoever has
arrived meanwhile (batching while busy). It waits for company only where others came just after
runs had begun, so that all together are answered sooner; a lone caller never waits. On the loop it
starts when all that had come has been read, with all of it: sixteen rows cost little more than one,
and what reads and writes requests stays in the processor's caches. Only programs of which rows have
the same bits in any company run so there; others run each call at once.

The rules:
- every caller gets its own rows, and the outputs that it asked for;
- a call of a deferred job, whose deadline is longer than the model's (`Exchange.allowed_s`), runs
  alone, and only when no other call waits;
- the queue is bounded, in calls and, over all models, in bytes (`BufferBudget`); over a bound the
  answer is `Overloaded` at once; so it is where those who wait will keep the thread busy until
  after a call's deadline;
- a call whose deadline passes is answered `TimedOut` then, whatever the thread is doing, and is
  not run if it has not started; on the loop, where nothing can be told meanwhile, it is when its
  turn comes;
- a run on the loop takes no longer than one call there may;
- a run that goes on after the deadlines of all its callers is ended, where its program can be
  interrupted; otherwise its model is stuck, and answers its callers `Unavailable` at once;
- a program that raises fails its own batch only; batch mates of a failed run are run alone, so
  that nobody fails for another's rows; so are those of a run that answered with other rows than
  it was asked about.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bascule.core import (
    BasculeError,
    Columns,
    ModelFailed,
    Overloaded,
    Program,
    TimedOut,
    Unavailable,
)
from bascule.serving.calls import Answer, AnsweredBy, Cancel, Deliver, DeliverParts, Outcome
from bascule.serving.execution.admission import BufferBudget, comes_in_time, held_bytes
from bascule.serving.execution.batch_sizing import Sizing
from bascule.serving.execution.failures import failure_of
from bascule.serving.execution.parts import PartsRunner
from bascule.serving.execution.placement import (
    Pace,
    Placement,
    RunStatistics,
    expected_wait_s,
    goes_on_measuring,
    longest_wait_s,
    pace_of,
    revisited,
    worth_waiting_for,
)
from bascule.serving.limits import Limits

log = logging.getLogger(__name__)

_RUNS_TO_JUDGE = 16
_MOST_RUNS, _LEAST_RUNS = 15, 2
_SIZE_SHARE = 0.1
_NEWEST_COUNTS = 0.2
_LOOKS = 32
"""How often at most the thread looks whether those it waits for are there."""
_MOST_LOOKED_AT = 64
_HURRIED_BELOW_S = 1.0
"""Nothing holds the loop up for longer between taking a call and running it: whoever has so much
time, and whoever brings no deadline, need not be looked at again."""
_SLOWNESS_BOUNDS = (0.1, 20.0)
_GRACE_S = 1.0
"""One run that was held up by something else must not make the server turn callers away."""
STUCK_S = 2.0
"""How long a run that is to end may go on before its model is stuck."""


def _ignore(_: int) -> None:
    return None


@dataclass(slots=True, eq=False)
class Job:
    """One call that waits for the thread. Its state changes on the event loop only."""

    columns: Columns
    rows: int
    outputs: tuple[str, ...] | None
    deliver: Deliver
    by: AnsweredBy | None = None
    """What the answer is to say; None for the version of the engine."""
    settled: bool = False
    came_s: float = 0.0
    until_s: float = 0.0
    timer: asyncio.TimerHandle | None = None
    closed: Callable[[int], None] = _ignore
    size_bytes: int = 0
    """What it has in the account of what is held; set where it is queued."""

    def settle(self, outcome: Outcome) -> None:
        """Answer the caller, once."""
        if not self.settled:
            self.cancel()
            try:
                self.deliver(outcome)
            except Exception:
                # An answer that cannot be told is one failed call; its mates still get theirs.
                log.exception("an answer could not be delivered")
                self.deliver(ModelFailed("the model's answer cannot be told", reason=""))

    def cancel(self) -> None:
        """The caller has gone, or has its answer: do not run it, do not answer it."""
        if not self.settled:
            self.settled = True
            self.closed(self.rows)
            if self.timer is not None:
                self.timer.cancel()


def _nothing() -> None:
    return None


def measure_pace(
    program: Program, example: Columns, limits: Limits, *, budget_s: float = 0.5
) -> Pace:
    """Warm the program up and time it with growing batches of the example rows.

    See `placement.goes_on_measuring` for where it ends.
    """
    started_s = time.perf_counter()
    rows = 1
    run_s = {1: _least_run_s(program, example, rows, budget_s)}
    while rows * 2 <= limits.max_batch_rows and goes_on_measuring(
        run_s, time.perf_counter() - started_s, budget_s
    ):
        rows *= 2
        run_s[rows] = _least_run_s(program, example, rows, budget_s)
    return pace_of(run_s)


def _least_run_s(program: Program, example: Columns, rows: int, budget_s: float) -> float:
    """The shortest of a few runs: whatever else goes on here makes runs longer, never shorter."""
    columns = {
        name: np.resize(column, (rows, *column.shape[1:])) for name, column in example.items()
    }
    program.run(columns)
    least_s, started_s = math.inf, time.perf_counter()
    for run in range(_MOST_RUNS):
        before_s = time.perf_counter()
        if run >= _LEAST_RUNS and before_s - started_s > budget_s * _SIZE_SHARE:
            break
        program.run(columns)
        least_s = min(least_s, time.perf_counter() - before_s)
    return least_s


class Batcher:
    """The thread of one model and the queue before it."""

    def __init__(
        self,
        program: Program,
        pace: Pace,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        by: AnsweredBy,
        held: BufferBudget,
    ) -> None:
        self._held = held
        # Of which this much is ours. The loop adds and takes away; the thread tells it what left.
        self._held_bytes = 0
        self._taken_bytes = 0
        self._program = program
        self._pace = pace
        self._limits = limits
        self._loop = loop
        self._by = by
        self._name = by.name
        self._waiting: deque[Job] = deque()
        self._deferred: deque[Job] = deque()  # calls of deferred jobs, behind all others
        self._arrived = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._refusal = ""
        self._ended: Callable[[], None] = _nothing
        self._open = 0
        self._open_rows = 0
        self._busy_since_s = 0.0
        self._sizing = Sizing(pace.batch_rows, limits.max_batch_rows)
        # What is known of those who come just after a run began. Of the thread alone.
        self._coming_rows = 0.0
        # Rows that the loop has put into the queue and the thread has taken out of it.
        self._queued_rows = 0
        self._taken_rows = 0
        # What the thread tells the loop: each is replaced as a whole.
        self.slowness = 1.0
        self.runs = 0
        self._run: tuple[float, float, int] | None = None
        self._running: Sequence[Job] = ()
        self._overdue_s = 0.0
        program.bound_runs(limits.deadline_s + _GRACE_S)
        self.busy_s = 0.0

    @property
    def open_calls(self) -> int:
        """How many calls wait or run."""
        return self._open

    @property
    def is_running(self) -> bool:
        return self._run is not None

    def check_room(self, rows: int, deadline_s: float) -> None:
        """Return if so many rows could be answered within `deadline_s` from now.

        Raises:
            Overloaded: The queue is full, or it would not be their turn in time.
            Unavailable: The model is being unloaded.
        """
        if self._refusal:
            raise Unavailable(f"{self._name} {self._refusal}", hint="retry", retry_after_s=1)
        # Calls that were given up stay in line until the thread meets them: bound those as well.
        most = self._limits.max_queue_requests
        if self._open >= most or len(self._waiting) >= 4 * most:
            raise Overloaded(
                f"{self._name} has {self._open} requests waiting, as many as it may",
                hint="retry later, or serve it with more workers",
                retry_after_s=self._retry_after_s(),
            )
        if not self._open:
            return  # whoever comes to an idle thread is run: what is expected is measured again
        wait_s = self._expected_wait_s(rows, 1)
        # A queue shorter than a run is not too long, however long it has been there.
        is_next = self._waiting_rows() + rows <= self._pace.batch_rows
        standing_s = 0.0 if is_next else time.perf_counter() - self._busy_since_s
        if not comes_in_time(wait_s, deadline_s, standing_s):
            raise Overloaded(
                f"{self._name} has {self._open} requests waiting, and would answer in about "
                f"{wait_s:.2g} s, after the deadline of {deadline_s:g} s or too close to it",
                hint="retry later, or serve it with more workers",
                retry_after_s=max(1, math.ceil(wait_s - deadline_s)),
            )

    def submit(self, job: Job, deadline_s: float) -> None:
        """Queue a job to be answered within `deadline_s` from now. On the event loop only.

        Raises:
            Overloaded: See `check_room`; or it is too large to be kept beside what is held.
            Unavailable: The same.
        """
        self.check_room(job.rows, deadline_s)
        job.size_bytes = size = held_bytes(job.columns)
        if self._held_bytes:
            # Whoever comes to an idle thread does not wait, and so needs no room to wait.
            self._held.check_room(size, self._name, self._retry_after_s())
        self._held.bytes += size
        self._held_bytes += size
        job.came_s = time.perf_counter()
        job.until_s = job.came_s + deadline_s
        if not self._open:
            self._busy_since_s = job.came_s
        self._open += 1
        self._open_rows += job.rows
        job.closed = self._close_one
        job.timer = self._loop.call_later(deadline_s, job.settle, _timed_out(deadline_s))
        if deadline_s > self._limits.deadline_s:
            self._deferred.append(job)
        else:
            self._queued_rows += job.rows
            self._waiting.append(job)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"bascule-{self._name}", daemon=True
            )
            self._thread.start()
        self._arrived.set()

    def take_over(self, job: Job) -> None:
        """Queue a call that the loop could not finish."""
        try:
            self.submit(job, self._limits.deadline_s)
        except BasculeError as error:
            _settle([job], [error])

    def stop(self, ended: Callable[[], None] = _nothing) -> None:
        """Take no more; `ended` is called, on the event loop, once what waits has been answered."""
        self._stopped = True
        self._refusal = "is being unloaded"
        self._ended = ended
        if self._thread is None:
            self._loop.call_soon(self._tell_ended)
        self._arrived.set()

    def end_overdue(self) -> bool:
        """Once a second: end a run whose callers have all been answered; whether it does not end.

        A program in a process of its own sees to that itself.
        """
        run = self._run
        if self._stopped or self._program.may_block:
            return False
        over_s = 0.0 if run is None else time.perf_counter() - self._overdue_s
        if over_s <= 0.0:
            self._refusal = ""
            return False
        log.error("%s runs after the deadlines of its callers, and is ended", self._name)
        self._program.interrupt()
        if over_s <= STUCK_S:
            return False
        self._refusal = "is stuck in a run that does not end"
        stuck = Unavailable(f"{self._name} {self._refusal}", hint="retry", retry_after_s=1)
        _settle(waiting := (*self._waiting, *self._deferred), [stuck] * len(waiting))
        return True

    def _tell_ended(self) -> None:
        # It may lead back to this batcher, and what is let go of must not keep itself alive.
        ended, self._ended = self._ended, _nothing
        self._thread = None
        ended()

    def _retry_after_s(self) -> int:
        return max(1, round(self._expected_wait_s(0, 0)))

    def _settle(self, batch: Sequence[Job], outcomes: Sequence[Outcome], left_bytes: int) -> None:
        """Answer a run, after which so much of what was held here is not kept any more."""
        self._held.bytes -= left_bytes
        self._held_bytes -= left_bytes
        _settle(batch, outcomes)

    def _close_one(self, rows: int) -> None:
        self._open -= 1
        self._open_rows -= rows
        running = self._running
        if running and self._program.may_block and all(job.settled for job in running):
            self._program.interrupt()  # no caller waits for this run, and others may

    def _waiting_rows(self) -> int:
        """How many rows wait for a run that has not begun, but for those that go after all."""
        run, rows = self._run, self._open_rows
        if self._deferred:
            rows -= sum(job.rows for job in tuple(self._deferred) if not job.settled)
        return max(0, rows - (0 if run is None else run[2]))

    def _expected_wait_s(self, more_rows: int, more_calls: int) -> float:
        """How long until those who wait, and so many more, have their answers."""
        running_s = 0.0
        run = self._run
        if run is not None:
            started_s, should_take_s, _ = run
            running_s = max(0.0, should_take_s - (time.perf_counter() - started_s))
        rows = self._waiting_rows() + more_rows
        calls = self._open + more_calls
        if self._limits.batching != "never":
            calls = min(calls, rows)
        return expected_wait_s(
            self._pace, self.slowness, rows=rows, calls=calls, running_s=running_s
        )

    def _work(self) -> None:
        ended_s, left_rows = 0.0, 0
        while not self._loop.is_closed():
            self._arrived.clear()
            if self._deferred and (not self._waiting or self._deferred[0].settled):
                job = self._deferred.popleft()  # one that was given up is let go of at once
                (self._waiting.appendleft if job.settled else self._waiting.append)(job)
                self._taken_rows -= job.rows  # which counts it among those that wait
            if self._waiting:
                # On its own, so that an idle thread does not keep the rows of its last run.
                ended_s, left_rows = self._run_next(ended_s, left_rows)
            elif self._stopped:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._tell_ended)
                return
            else:
                self._arrived.wait()

    def _run_next(self, ended_s: float, left_rows: int) -> tuple[float, int]:
        """Make the next run, after one that ended then and left so many rows waiting."""
        # Those who come back as soon as they are answered may be here before the thread looks,
        # some or all of them: where nobody was left waiting, they are told from the first.
        first = self._waiting[0]
        since_s, there = (ended_s, left_rows) if left_rows else (first.came_s, first.rows)
        limit = self._sizing.next_rows(self._queued_rows - self._taken_rows)
        if self._limits.batching != "never":
            self._wait_for_company(since_s, there, limit)
        taken_bytes = self._taken_bytes
        batch = self._take(limit)
        outcomes: list[Outcome] = []
        if batch:
            outcomes = self._run_timed(batch, limit)
            self._look_who_came(batch, since_s)
            ended_s, left_rows = time.perf_counter(), self._queued_rows - self._taken_rows
        left_bytes = self._taken_bytes - taken_bytes
        with suppress(RuntimeError):  # the loop is closed: there is nobody left to answer
            self._loop.call_soon_threadsafe(self._settle, batch, outcomes, left_bytes)
        return ended_s, left_rows

    def _wait_for_company(self, since_s: float, there: int, limit: int) -> None:
        """Wait for those who are about to come, where that is worth it to all.

        Since `since_s`, when so many rows were `there`, some may have come already.
        """
        rows = self._queued_rows - self._taken_rows
        pace = replace(self._pace, batch_rows=limit)
        coming_rows = max(0.0, self._coming_rows - (rows - there))
        company = worth_waiting_for(pace, self.slowness, rows=rows, coming_rows=coming_rows)
        while (
            rows < company.rows
            and not self._stopped
            and time.perf_counter() - since_s < company.wait_s
        ):
            # Not woken by each that comes, which would take the loop's time to read the next.
            time.sleep(company.wait_s / _LOOKS)
            rows = self._queued_rows - self._taken_rows

    def _look_who_came(self, batch: Sequence[Job], since_s: float) -> None:
        """Learn how many rows come within the longest wait, whether or not they were waited for."""
        until_s = since_s + longest_wait_s(self._pace, self.slowness)
        came = sum(job.rows for job in batch if since_s < job.came_s <= until_s)
        for place in range(min(len(self._waiting), _MOST_LOOKED_AT)):
            try:
                job = self._waiting[place]
            except IndexError:
                break
            if job.came_s > until_s:
                break
            if job.came_s > since_s:
                came += job.rows
        self._coming_rows += _NEWEST_COUNTS * (came - self._coming_rows)

    def _take(self, limit: int) -> list[Job]:
        """The jobs of the next run: the oldest, and those that fit beside it."""
        together = self._limits.batching != "never"
        batch: list[Job] = []
        rows = 0
        while True:
            try:
                job = self._waiting.popleft()
            except IndexError:
                return batch
            if batch and rows + job.rows > limit:
                self._waiting.appendleft(job)
                return batch
            self._taken_rows += job.rows
            self._taken_bytes += job.size_bytes
            if job.settled:
                continue
            batch.append(job)
            rows += job.rows
            if not together or rows >= limit:
                return batch

    def _run_timed(self, batch: Sequence[Job], limit: int) -> list[Outcome]:
        rows = sum(job.rows for job in batch)
        expected_s = self._pace.run_s(rows)
        started_s = time.perf_counter()
        # All callers have been answered by then. A deferred one waits for longer than the others.
        allowed_s = max(self._limits.deadline_s, *(job.until_s - started_s for job in batch))
        self._program.bound_runs(allowed_s + _GRACE_S)
        self._overdue_s = started_s + allowed_s
        self._run, self._running = (started_s, expected_s * self.slowness, rows), batch
        outcomes = run_together(self._program, batch, self._by)
        took_s = time.perf_counter() - started_s
        is_early, is_over = took_s < self._limits.deadline_s, all(job.settled for job in batch)
        if isinstance(outcomes[0], TimedOut) and is_early and not is_over:
            outcomes = run_together(self._program, batch, self._by)  # another run was to end
        self._program.bound_runs(self._limits.deadline_s + _GRACE_S)  # of answers in parts
        self._run, self._running = None, ()
        self.busy_s += took_s
        self.runs += 1
        least, most = _SLOWNESS_BOUNDS
        slowness = min(max(took_s / expected_s, least), most)
        self.slowness += _NEWEST_COUNTS * (slowness - self.slowness)
        if self._limits.batching != "never":
            self._sizing = self._sizing.noted(limit, rows, took_s)
            if self._sizing.rows != self._pace.batch_rows:
                self._pace = replace(self._pace, batch_rows=self._sizing.rows)
        return outcomes


class Engine:
    """A program in memory, and how its calls are run. On the event loop only."""

    __slots__ = (
        "_before", "_calls", "_gathered", "_gathered_rows", "_gathers", "_hurried",
        "_hurried_below_s", "_inline_runs", "_inline_s", "_inline_should_s", "_loop",
        "_noted_runs", "_past_inline_runs", "_runs", "_was_interrupted", "batcher",
        "by", "inline_rows", "pace", "parts", "placement", "program", "size_bytes",
    )  # fmt: skip

    def __init__(
        self,
        program: Program,
        pace: Pace,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        by: AnsweredBy,
        held: BufferBudget,
        size_bytes: int = 0,
        batch_invariant: bool = False,
    ) -> None:
        self.by = by
        self.program = program
        self.pace = pace
        self.size_bytes = size_bytes
        self.placement = Placement(pace.inline_rows)
        self.inline_rows = pace.inline_rows
        self.batcher = Batcher(program, pace, limits, loop, by=by, held=held)
        self.parts = PartsRunner(program, limits, loop, held)
        self._loop = loop
        self._gathers = batch_invariant and limits.batching != "never"
        self._hurried_below_s = min(limits.deadline_s, _HURRIED_BELOW_S)
        self._gathered: list[Job] = []
        self._gathered_rows = 0
        self._hurried: list[tuple[Job, float]] = []
        self._calls = 0
        self._inline_runs = self._past_inline_runs = self._noted_runs = 0
        program.new_part_counts()  # of what was run to measure its pace
        self._inline_s = self._inline_should_s = 0.0
        self._before = 0.0
        self._runs = 0
        self._was_interrupted = False

    def run(
        self,
        columns: Columns,
        rows: int,
        outputs: tuple[str, ...] | None,
        allowed_s: float,
        deliver: Deliver,
        by: AnsweredBy | None = None,
    ) -> Cancel | None:
        """Run a call where calls of its size run; see `Predictor.answer` and `Job`."""
        self._calls += 1
        job = Job(columns, rows, outputs, deliver, by)
        if rows > self.inline_rows:
            self.batcher.submit(job, allowed_s)
            return job.cancel
        is_hurried = allowed_s < self._hurried_below_s
        if is_hurried and allowed_s <= 0.0:
            job.settle(_came_too_late())
            return None
        if not self._gathers:
            self.run_inline([job], rows)
            return None if job.settled else job.cancel
        if self._gathered_rows + rows > self.inline_rows:
            self._run_gathered()
        if not self._gathered:
            self._loop.call_soon(self._run_gathered)
        if is_hurried:
            self._hurried.append((job, time.perf_counter() + allowed_s))
        self._gathered.append(job)
        self._gathered_rows += rows
        return job.cancel

    def run_in_parts(
        self,
        columns: Columns,
        rows: int,  # noqa: ARG002 -- as `run`
        outputs: tuple[str, ...] | None,
        allowed_s: float,
        deliver: DeliverParts,
        caller: str,
    ) -> Cancel:
        """Begin an answer in parts; see `Predictor.answer_in_parts`."""
        return self.parts.run(columns, outputs, allowed_s, deliver, self.by, caller)

    def _run_gathered(self) -> None:
        """Run what has come in this turn of the loop; its callers may have gone, or be late."""
        if self._hurried:
            now_s = time.perf_counter()
            late = [job for job, until_s in self._hurried if now_s >= until_s]
            self._hurried = []
            _settle(late, [_came_too_late()] * len(late))
        jobs, self._gathered = [job for job in self._gathered if not job.settled], []
        self._gathered_rows = 0
        if jobs:
            self.run_inline(jobs, sum(job.rows for job in jobs))

    def run_inline(self, jobs: Sequence[Job], rows: int) -> None:
        started_s = time.perf_counter()
        outcomes = run_together(self.program, jobs, self.by)
        self._inline_s += time.perf_counter() - started_s
        self._inline_runs += 1
        self._inline_should_s += self.pace.run_s(rows)
        if self._was_interrupted:
            self._was_interrupted = False
            for job, outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome, TimedOut):
                    self.batcher.take_over(job)
                else:
                    _settle([job], [outcome])
            return
        _settle(jobs, outcomes)

    def interrupt_inline(self) -> None:
        """End a run that holds up the loop; all others are made on the thread. From any thread."""
        self._was_interrupted = True
        self.pace = replace(self.pace, inline_rows=0)
        self.placement = Placement(0)
        self.inline_rows = 0
        self.program.interrupt()

    @property
    def open_calls(self) -> int:
        """How many calls wait or run."""
        return len(self._gathered) + self.batcher.open_calls + self.parts.open_calls

    @property
    def is_running(self) -> bool:
        """Whether a thread runs the program."""
        return self.batcher.is_running or self.parts.is_running

    @property
    def calls(self) -> int:
        """How many were taken since the last `revisit`."""
        return self._calls

    def new_runs(self) -> int:
        """How many runs of the program there were since the last call of this."""
        runs = self._past_inline_runs + self._inline_runs + self.batcher.runs
        new, self._noted_runs = runs - self._noted_runs, runs
        return new

    def revisit(self, passed_s: float, *, others_called: bool) -> None:
        """Decide again where calls run, from those of the last `passed_s`."""
        busy_s = self.batcher.busy_s
        slowness = None
        if self._inline_runs >= _RUNS_TO_JUDGE:
            slowness = self._inline_s / self._inline_should_s
        elif not self._inline_runs and self.batcher.runs - self._runs >= _RUNS_TO_JUDGE:
            slowness = self.batcher.slowness
        self._runs = self.batcher.runs
        runs = RunStatistics(
            slowness=slowness,
            mean_inline_s=self._inline_s / max(1, self._inline_runs),
            inline_share=self._inline_s / passed_s,
            busy_share=(self._inline_s + busy_s - self._before) / passed_s,
            others_called=others_called,
        )
        self._before = busy_s
        self._past_inline_runs += self._inline_runs
        self._calls = self._inline_runs = 0
        self._inline_s = self._inline_should_s = 0.0
        placement = revisited(self.pace, self.placement, runs)
        before, self.inline_rows = self.inline_rows, placement.inline_rows
        if placement.is_hot:
            self.inline_rows = 0
        self.placement = placement
        if bool(before) != bool(self.inline_rows):
            where = "the event loop" if self.inline_rows else "its thread"
            log.info("%s runs on %s from now on: %s", self.by.name, where, runs)

    def stop(self, ended: Callable[[], None]) -> None:
        """Take no more calls; `ended` is called once those under way have been answered."""
        self.batcher.stop(partial(self.parts.stop, ended))

    def close(self) -> None:
        """End what the program holds outside of this process' memory. It may block."""
        self.program.close()


def run_together(program: Program, batch: Sequence[Job], by: AnsweredBy) -> list[Outcome]:
    """Run jobs, in one run where they can be; an outcome for each. It never raises."""
    try:
        if len(batch) == 1:
            return [run_one(program, batch[0].columns, batch[0].outputs, batch[0].by or by)]
        return _run_several(program, batch, by)
    except Exception:
        # The thread, or the loop, must outlive whatever a program's odd answer does to it.
        log.exception("a batch of %s failed", by.name)
        return [ModelFailed("the model failed", reason="")] * len(batch)


def _run_several(program: Program, batch: Sequence[Job], by: AnsweredBy) -> list[Outcome]:
    outputs = batch[0].outputs
    if any(job.outputs != outputs for job in batch):
        outputs = None
    sent = [job.columns for job in batch]
    try:
        calls = program.complete(sent)
    except Unavailable as error:  # it would be so for each of them
        return [error] * len(batch)
    except BasculeError:
        return _run_apart(program, batch, by, [None] * len(batch))
    try:
        columns = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
    except ValueError:  # rows of a length that varies, and of different lengths
        return _run_apart(program, batch, by, calls)
    ran = run_one(program, columns, outputs, by, columns)
    rows = sum(job.rows for job in batch)
    if isinstance(ran, BasculeError) or any(len(a) != rows for a in ran.outputs.values()):
        return _run_apart(program, batch, by, calls)
    together = ran.outputs
    outcomes: list[Outcome] = []
    start = 0
    for job, inputs in zip(batch, calls, strict=True):
        end = start + job.rows
        wanted = together if job.outputs is None else job.outputs
        rows_of_job = {name: together[name][start:end] for name in wanted}
        looked_up = None if inputs is job.columns else inputs
        outcomes.append(Answer(rows_of_job, job.by or by, None, looked_up))
        start = end
    return outcomes


def _run_apart(
    program: Program, batch: Sequence[Job], by: AnsweredBy, completed: Sequence[Columns | None]
) -> list[Outcome]:
    """Run each job that still waits."""
    return [
        _came_too_late()
        if job.settled
        else run_one(program, job.columns, job.outputs, job.by or by, inputs)
        for job, inputs in zip(batch, completed, strict=True)
    ]


def run_one(
    program: Program,
    columns: Columns,
    outputs: tuple[str, ...] | None,
    by: AnsweredBy,
    inputs: Columns | None = None,
) -> Outcome:
    """Run a program; what it raises is logged here and told to the caller without its details.

    `inputs`: the columns once they are completed.
    """
    try:
        if inputs is None:
            (inputs,) = program.complete((columns,))
        made = program.run(inputs, outputs)
        return Answer(made, by) if inputs is columns else Answer(made, by, None, inputs)
    except Exception as error:
        # A program is foreign code: whatever it raises is one failed call, not a dead server.
        return failure_of(program, error)


def _settle(batch: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    for job, outcome in zip(batch, outcomes, strict=True):
        try:
            job.settle(outcome)
        except Exception:
            # Not even a failure could be told to one; the others wait for their answers.
            log.exception("a failure could not be delivered")


def _came_too_late() -> TimedOut:
    return TimedOut("its turn came after its deadline, and it was not run", hint="allow more time")


def _timed_out(deadline_s: float) -> TimedOut:
    return TimedOut(
        f"no answer within {deadline_s * 1e3:g} ms", hint="allow more time, or send fewer rows"
    )
