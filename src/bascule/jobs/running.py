"""Runs jobs beside a server: a control process claims what waits, and starts a child for each.

A child ends with its process, its lease, the right of its owner, the hours of its schedule, or a
command. One controller of all, by a lease, submits what schedules are due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from bascule.catalogue import Catalogue, Leadership, Leases
from bascule.core import (
    BasculeError,
    Conflict,
    Overloaded,
    Refused,
    TimedOut,
    Unavailable,
    holder_name,
)
from bascule.jobs.dates import with_dates
from bascule.jobs.deferred import Payloads
from bascule.jobs.due import Schedule, due, may_run
from bascule.jobs.holding import Holder, error_of
from bascule.jobs.kinds import Kind, Kinds
from bascule.jobs.records import (
    CANCELLED,
    DONE,
    FAILED,
    INFERENCE,
    OF_SCHEDULE,
    QUEUED,
    RUNNING,
    Command,
    Job,
    Task,
    why_not_allowed,
)
from bascule.jobs.schedules import Schedules
from bascule.jobs.store import LEASE_S, Claim, Jobs, add
from bascule.security import Key

log = logging.getLogger(__name__)

_LEASE = "schedules"
_LOOK_S = 0.05
_TURN_S = 1.0
_FORGET_S = 60.0
_STOP_WITHIN_S = 30.0
_NEVER_BEGUN = timedelta(days=7)
"""How long a job is kept that could not begin, of a kind that is kept for ever."""
_MOST_ATTEMPTS = 20
_WINDOW = "its hours have ended; it goes on in the next ones"
_LOST = "the catalogue was away for longer than the lease"


class Child(Protocol):
    """A question to a process, whose answer is `{"result": ...}`; see `core.Child`."""

    def answer(self, take: Callable[[Any], None] = ...) -> dict[str, Any]: ...

    def stop(self, within_s: float) -> None: ...


AskKind = Callable[[str, Task], Child]
"""The child that does a task; its kind is at `module:attribute`."""


class JobRunner(Jobs):
    """The jobs of a catalogue, and the children of this process that do some of them."""

    def __init__(
        self, catalogue: Catalogue, kinds: Kinds, ask: AskKind,
        keys: Callable[[], Sequence[Key]] = lambda: (),
        serves: Callable[[Job], bool] = lambda _: False, payloads: Payloads | None = None,
        *, clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Start nothing yet.

        Args:
            catalogue: Where they are.
            kinds: The table of kinds.
            ask: Makes the child that does a task.
            keys: Reads the keys of callers.
            serves: Whether a job that waits for a server can be done by those of this process.
            payloads: The files of requests that are answered later.
            clock: The time of schedules and of rights.
        """
        super().__init__(catalogue)
        self.kinds, self._ask = kinds, ask
        self._keys, self._clock = keys, clock
        self._serves, self.payloads = serves, payloads
        self._schedules = Schedules(catalogue)
        self.leadership = Leadership(Leases(catalogue), _LEASE, holder_name(), LEASE_S)
        self._here: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._forgot_s = 0.0

    def answer(self, task: Task) -> Any:
        """Do a task now, in a child, without a record of it. Raises what the child raises."""
        return self._ask(self.kinds.places[task.kind], task).answer()["result"]

    def submit(self, task: Task, within: Payloads | None = None) -> Job:
        """Queue a job, and start it at once if there is room here; see `Jobs.submit`."""
        return self._started(super().submit(task, within))

    def command(
        self, job_id: str, command: Command, *, can_resume: bool = True, by: str = "", key: str = ""
    ) -> Job:
        """See `Jobs.command`; whether it can be resumed is said by its kind."""
        can_resume = self.kinds[self.get(job_id).kind].can_resume
        return self._started(
            super().command(job_id, command, can_resume=can_resume, by=by, key=key)
        )

    def wait(self, job: Job, within_s: float, *, until_begun: bool = False) -> Job:
        """The job once it has ended, or has begun. Raises `TimedOut`; it goes on then."""
        give_up_at = time.monotonic() + within_s
        while not (job.is_ended or (until_begun and 0 < job.attempt == job.begun)):
            if time.monotonic() > give_up_at:
                raise TimedOut(
                    f"{job.title} takes over {within_s:.0f} s",
                    hint=f"it goes on; see bascule jobs show {job.id}",
                )
            time.sleep(_LOOK_S)
            job = self.get(job.id)
        return job

    def run(self, ended: threading.Event) -> None:
        """Turn until `ended`."""
        try:
            while not ended.wait(_TURN_S):
                self.turn()
        finally:
            self.leadership.release()

    def turn(self) -> None:
        """Take over jobs whose process is gone, submit what is due, and start what waits."""
        self.after_deaths(self._most_attempts)
        # Jobs before schedules: a run that ends between the two is not taken for one that is gone.
        under_way = {job.schedule for job in self.find(stored=QUEUED)}
        under_way |= {job.schedule for job in self.find(stored=RUNNING)}
        schedules = {one.schedule.name: one for one in self._schedules.list()}
        if schedules and self._leads():
            for name in schedules.keys() - under_way:
                one = schedules[name]
                if one.retry_at is None or one.retry_at <= self._clock():
                    again = one.due if one.is_under_way or one.retry_at else None
                    self._submit_due(one.schedule, again, one.due)
        for job in self.waiting():
            schedule = schedules[job.schedule].schedule if job.schedule in schedules else None
            if schedule is None and job.schedule and self._is_removed(job.schedule):
                self.command(job.id, "cancel", by="the end of its schedule")
            elif not job.schedule or (
                schedule is not None and self._may_run(schedule) and not schedule.is_paused
            ):
                self._started(job)
        self._forget_old()

    def _is_removed(self, name: str) -> bool:
        """Whether there is no such schedule now; it may have been added since they were read."""
        return name not in (one.schedule.name for one in self._schedules.list())

    def _leads(self) -> bool:
        """Whether this process has had the lease since before what it has read."""
        before, lease = self.leadership.lease, self.leadership.keep()
        return before is not None and lease is not None and before.fence == lease.fence

    def _submit_due(
        self, schedule: Schedule, again: datetime | None, last: datetime | None
    ) -> None:
        """Submit what is due; `again` is the time of a run that is run again."""
        now = self._clock()
        moment = again or due(schedule, last, now)
        if moment is None or schedule.is_paused or not may_run(schedule, now):
            return
        task = Task(
            kind=schedule.kind, input=with_dates(schedule, moment),
            by=f"{OF_SCHEDULE}{schedule.name}", key=schedule.key, folder=schedule.folder,
            is_confined=schedule.is_confined, schedule=schedule.name, due=moment,
        )  # fmt: skip
        self._schedules.started(
            schedule.name, moment, by=self.leadership.holder, lease=self.leadership.lease,
            also=lambda connection: add(connection, task),
        )  # fmt: skip

    def _started(self, job: Job) -> Job:
        """The job, which is started here if it is queued and there is room."""
        if job.state != QUEUED or job.kind not in self.kinds.places:
            return job
        kind = self.kinds[job.kind]
        if self._is_full(job, kind) or (kind.pause_s and self._must_wait(job, kind)):
            return job
        with self._lock:
            claim = None if self._is_full(job, kind) else self.claim(job.id)
            if claim is None:
                return self.get(job.id)
            self._here[job.id] = claim.job
        threading.Thread(
            target=self._run, args=(kind, claim), name=f"bascule-job-{kind.name}", daemon=True
        ).start()
        return claim.job

    def _is_full(self, job: Job, kind: Kind) -> bool:
        here = [other for other in [*self._here.values()] if other.kind == kind.name]
        is_full = sum(not other.schedule for other in here) >= kind.places and not job.schedule
        if job.kind != INFERENCE or self.payloads is None:
            return is_full
        of_model = sum(other.input["model"] == job.input["model"] for other in here)
        return is_full or of_model >= self.payloads.runs_per_model

    def _must_wait(self, job: Job, kind: Kind) -> bool:
        pause_s = min(kind.pause_s, 2.0 ** min(job.attempt, 16) / 2) if job.attempt else 0.0
        is_early = pause_s > 0 and job.updated_at + timedelta(seconds=pause_s) > self._clock()
        return is_early or not self._serves(job)

    def _run(self, kind: Kind, claim: Claim) -> None:
        job = claim.job
        child = self._ask(self.kinds.places[job.kind], job)
        holder = Holder(
            self, claim,
            lambda why: child.stop(0.0 if holder.is_lost or why == _LOST else _STOP_WITHIN_S),
            lambda: self._why_stop(job, kind, holder),
        )  # fmt: skip
        try:
            if why := self._why_refused(job, kind):
                raise Refused(why, hint="submit it with a key that may do this")
            result, error, state = child.answer(partial(_take, holder))["result"], None, DONE
        except Exception as problem:
            if not isinstance(problem, BasculeError):
                log.exception("job %s fails", job.id)
            result, error, state = None, error_of(problem), FAILED
            if holder.stopped in (_WINDOW, _LOST):
                state, error = QUEUED, None
            elif holder.stopped:
                state, error = CANCELLED, Conflict(holder.stopped)
            elif isinstance(problem, Overloaded | Unavailable) and (
                kind.pause_s and job.attempt <= kind.retries
            ):
                holder.note(f"tried again: {problem}")
                state, error = QUEUED, None
        self._end(holder, state, result, error)
        with self._lock:
            del self._here[job.id]
        if kind.pause_s:  # the next one waits for no turn
            with suppress(BasculeError):
                for other in self.waiting():
                    if other.kind == kind.name and not other.schedule:
                        self._started(other)

    @staticmethod
    def _end(holder: Holder, state: str, result: Any, error: BasculeError | None) -> None:
        """Record the end, once the catalogue is there; a `Conflict` says that another runs it."""
        while True:
            try:
                holder.end(state, result=result, error=error)
            except Unavailable:
                time.sleep(_TURN_S)
            except BasculeError as problem:
                log.warning("the end of job %s is not kept: %s", holder.claim.job.id, problem)
                return
            else:
                return

    def _why_refused(self, job: Job, kind: Kind) -> str:
        if not job.key:
            return ""
        key = next((key for key in self._keys() if key.id == job.key), None)
        return why_not_allowed(key, kind.right, kind.model_of(job.input), self._clock())

    def _why_stop(self, job: Job, kind: Kind, holder: Holder) -> str:
        """Why a job must stop that runs here; asked each second."""
        if holder.unrenewed_s > LEASE_S * 0.7:
            return _LOST
        if job.schedule and not self._may_run_named(job.schedule):
            return _WINDOW
        return self._why_refused(job, kind)

    def _may_run_named(self, name: str) -> bool:
        known = (one.schedule for one in self._schedules.list() if one.schedule.name == name)
        return all(map(self._may_run, known))

    def _may_run(self, schedule: Schedule) -> bool:
        return may_run(schedule, self._clock())

    def _most_attempts(self, job: Job) -> int:
        if job.kind not in self.kinds.places:  # of another release
            return 0
        return _MOST_ATTEMPTS if job.schedule else self.kinds[job.kind].retries

    def _forget_old(self) -> None:
        if time.monotonic() - self._forgot_s > _FORGET_S:
            self._forgot_s = time.monotonic()
            if self.payloads is not None:
                self.payloads.sweep()
            for name in self.kinds.places:
                kept = self.kinds[name].kept
                self.forget(name, datetime.now(UTC) - (kept or _NEVER_BEGUN), all_=bool(kept))


def _take(holder: Holder, part: dict[str, Any]) -> None:
    """A part that a child tells; see `Live`."""
    if "begin" in part:
        holder.begin(*part["begin"])
    elif "tell" in part:
        holder.tell(part["tell"])
    else:
        holder.note(part["note"])
