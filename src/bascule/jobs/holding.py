"""The process that runs a job tells the catalogue how far it is, and hears that it must stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from bascule.core import BasculeError, Conflict, ModelFailed, Unavailable, masked_text
from bascule.jobs.live import noting
from bascule.jobs.records import CANCELLED, DONE, ENDED, FAILED, QUEUED, Job, Task
from bascule.jobs.store import LEASE_S, Claim, Jobs

log = logging.getLogger(__name__)
_SAVE_S = 0.25
_BEAT_S = 1.0
_RESTS = (*ENDED, QUEUED)


class Holder:
    """A job that this process has claimed; its lease is renewed on a thread until `end`.

    Attributes:
        stopped: See `Live`.
        progress: The latest.
        is_lost: Whether another process runs it.
    """

    def __init__(
        self, jobs: Jobs, claim: Claim, on_stop: Callable[[str], None] = lambda _why: None,
        why_stop: Callable[[], str] = lambda: "",
    ) -> None:  # fmt: skip
        """Begin to renew.

        Args:
            jobs: Where it is.
            claim: The right to run it.
            on_stop: Is called once, on the thread, when the job must stop.
            why_stop: Is asked each second whether it must.
        """
        self._jobs, self.claim, self._on_stop, self._why_stop = jobs, claim, on_stop, why_stop
        self.stopped, self.progress = "", dict(claim.job.progress)
        self.is_lost = False
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._saved_s = self._renewed_s = time.monotonic()
        self._is_new = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="bascule-job", daemon=True)
        self._thread.start()

    def begin(self, subject: str, facts: Mapping[str, Any]) -> None:
        self._jobs.begin(self.claim, subject, facts=dict(facts), progress=self.progress)

    def tell(self, progress: Mapping[str, Any]) -> None:
        self.progress, self._is_new = dict(progress), True
        if time.monotonic() - self._saved_s >= _SAVE_S:
            self._save()

    def note(self, line: str) -> None:
        """Add a line to the log."""
        with self._lock:
            self._lines.append(masked_text(line))

    def end(self, state: str, **how: Any) -> Job:
        """See `Jobs.end`."""
        self._ended.set()
        self._thread.join()
        return self._jobs.end(self.claim, state, progress=self.progress, log=self._lines, **how)

    @property
    def unrenewed_s(self) -> float:
        """Since the lease was last renewed: after `LEASE_S`, another process may run the job."""
        return time.monotonic() - self._renewed_s

    def _renew(self) -> None:
        while not self._ended.wait(_BEAT_S):
            if self._is_new or self._lines or self.unrenewed_s > LEASE_S / 4:
                self._save()
            with suppress(BasculeError):  # it cannot be known now: it is asked again
                self._stop(self._why_stop())

    def _save(self) -> None:
        """A catalogue that is away ends no job: it is asked again."""
        with self._lock:
            lines, self._lines = self._lines, []
            self._is_new, self._saved_s = False, time.monotonic()
            try:
                why = self._jobs.save(self.claim, progress=self.progress, log=lines).stop
                self._renewed_s = self._saved_s
            except Conflict as lost:
                self.is_lost, why = True, lost.message
            except BasculeError:
                self._lines, why = lines + self._lines, ""
        self._stop(why)

    def _stop(self, why: str) -> None:
        if why and not self.stopped:
            self.stopped = why
            self._on_stop(why)


class Recorded:
    """Work of this process that is a job from its `begin` on; see `recorded`.

    Attributes:
        result: What the work gives.
    """

    def __init__(self, jobs: Jobs, task: Task | Job) -> None:
        self._jobs, self._task = jobs, task
        self._progress: Mapping[str, Any] = {}
        self.holder: Holder | None = None
        self.result: Any = None

    @property
    def stopped(self) -> str:
        return "" if self.holder is None else self.holder.stopped

    def begin(self, subject: str, facts: Mapping[str, Any]) -> None:
        try:
            claim = self._claim()
        except Unavailable as away:
            log.warning("the work is not recorded: %s", away)
            return
        if claim is None:
            raise Conflict(f"run {subject} is under way", hint="wait until it has ended")
        self.holder = Holder(self._jobs, claim)
        self.holder.progress = dict(self._progress)
        self.holder.begin(subject, facts)

    def _claim(self) -> Claim | None:
        if isinstance(self._task, Job):
            return self._jobs.claim(self._task.id, after=_RESTS)
        return self._jobs.start(self._task)

    def tell(self, progress: Mapping[str, Any]) -> None:
        self._progress = progress
        if self.holder is not None:
            self.holder.tell(progress)

    def note(self, line: str) -> None:
        """A line of the log, kept from the beginning of the job on."""
        if self.holder is not None:
            self.holder.note(line)

    def end(self, problem: BaseException | None) -> None:
        """Record how the work has ended. Without the catalogue, the lease ends by itself."""
        holder = self.holder
        if holder is None:
            return
        with suppress(BasculeError):
            if problem is None:
                holder.end(DONE, result=self.result)
            elif holder.stopped or isinstance(problem, KeyboardInterrupt):
                holder.end(CANCELLED)
            else:
                holder.end(FAILED, error=error_of(problem))


@contextmanager
def recorded(jobs: Jobs, task: Task | Job, logger: str) -> Iterator[Recorded]:
    """Do work in this process, in the block, and record it as a job; a `Job` is run again.

    What is refused before it begins leaves no record. Where the catalogue is away, the work is
    done and not recorded.
    """
    live = Recorded(jobs, task)
    with noting(logger, live.note):
        try:
            yield live
        except BaseException as problem:
            live.end(problem)
            raise
        live.end(None)


def error_of(problem: BaseException) -> BasculeError:
    """The error that is kept of a problem."""
    if isinstance(problem, BasculeError):
        return problem
    return ModelFailed(str(problem) or type(problem).__name__)
