"""Jobs: what is to be done, how far it is, and what becomes of it. Pure.

A job is queued until a process claims it, and runs while that process renews its lease. It ends as
done, failed or cancelled. Where the process dies, the job is queued again as often as its kind
says, and is `killed` then: it can be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from bascule.core import BasculeError, Conflict, ModelFailed, error_from_json, masked, masked_text
from bascule.security import Action, Key

QUEUED, RUNNING = "queued", "running"
DONE, FAILED, CANCELLED, KILLED = "done", "failed", "cancelled", "killed"
UNDER_WAY = (QUEUED, RUNNING)
INFERENCE, CALLBACK = "inference", "callback"
"""The kinds of requests that are answered later, and of what tells their end."""
ENDED = (DONE, FAILED, CANCELLED, KILLED)
Command = Literal["cancel", "resume", "retry"]
OF_SCHEDULE = "schedule "
"""What `Task.by` of a scheduled job begins with."""
_OWN_HOST_FIRST = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done.

    Attributes:
        kind: A line of the table of kinds.
        input: What the kind takes, as JSON; large inputs by their digests or places.
        title: In a few words; the kind and its model if empty.
        by: The user, or `schedule NAME`.
        key: The id of the key that it was submitted with: it ends with it. Empty for none.
        subject: What it is about. Two jobs of a kind and subject do not run side by side, and one
            that is done replaces earlier ones. Empty for a job of its own.
        folder: That paths are relative to.
        is_confined: Whether it may read and write in the places of the settings alone.
        host: The host whose files it reads: others wait a minute for it. Empty for any.
        schedule: That it is a run of; empty for none.
        due: The time of the schedule that it is for.
    """

    kind: str
    input: Mapping[str, Any]
    title: str = ""
    by: str = ""
    key: str = ""
    subject: str = ""
    folder: str = ""
    is_confined: bool = False
    host: str = ""
    schedule: str = ""
    due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Task):
    """A task in the catalogue.

    Attributes:
        id: Unguessable.
        digest: Of kind and input.
        state: `queued`, `running`, `done`, `failed`, `cancelled` or `killed`.
        attempt: How many processes have run it.
        begun: The attempt that has found what the job is about; see `Live.begin`.
        progress: As its kind tells it: `done` and `of` are counts, where they are known.
        result: What it gave, as JSON, once it is done.
        error: Why it failed; see `core.error_to_json`.
        stop: Why its process is asked to stop; empty while it is not.
        holder: The process that runs or ran it: `HOST:PID`.
    """

    id: str
    digest: str = ""
    state: str = QUEUED
    attempt: int = 0
    begun: int = 0
    progress: Mapping[str, Any]
    result: Any = None
    error: Mapping[str, Any] | None = None
    created_at: datetime
    started_at: datetime | None = None
    updated_at: datetime
    ended_at: datetime | None = None
    stop: str = ""
    holder: str = ""

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    def seconds(self, now: datetime | None = None) -> float:
        """Since it was submitted, until its end, or `now`: by default the clock's."""
        return ((self.ended_at or now or datetime.now(UTC)) - self.created_at).total_seconds()

    def shown(self) -> Job:
        """As it is shown: its input without secrets; `why` is a sentence, other texts addresses."""
        texts = {
            name: masked_text(text) if name == "why" else masked(text)
            for name, text in self.input.items()
            if isinstance(text, str)
        }
        return replace(self, input={**self.input, **texts})

    @property
    def problem(self) -> BasculeError | None:
        """The error of one that has ended and is not done, by its kind."""
        if self.error is None:
            if self.state == CANCELLED:
                why = self.stop or CANCELLED
                return Conflict(f"job {self.id} was {why}", hint=f"bascule jobs retry {self.id}")
            return death_of(self) if self.state == KILLED else None
        return error_from_json(self.error, ModelFailed)


def state_seen(state: str, *, is_leased: bool, is_alive: bool | None) -> str:
    """The state of a job as others see it: one whose process is gone does not run.

    Args:
        state: As it is stored.
        is_leased: Whether its lease lasts.
        is_alive: Whether its process is there; None where that is not known here.
    """
    is_held = is_leased if is_alive is None else is_alive
    return KILLED if state == RUNNING and not is_held else state


def state_after_death(job: Job, retries: int) -> str:
    """What becomes of a job whose process is gone; one that was cancelled does not go on."""
    if job.stop:
        return CANCELLED
    return QUEUED if job.attempt <= retries else KILLED


def death_of(job: Job) -> BasculeError:
    """The error of a job whose process is gone for the last time."""
    return ModelFailed(f"its process, {job.holder}, ended", hint=f"bascule jobs resume {job.id}")


def state_after(job: Job, command: Command, *, can_resume: bool) -> str:
    """The state of a job after a command.

    A running job that is cancelled runs until its process has stopped; one whose process is gone
    is not run again. One that is under way is resumed already.

    Raises:
        Conflict: The command does not fit the state, or the kind of job cannot go on.
    """
    if command == "cancel":
        if job.is_ended and job.ended_at is not None:
            raise Conflict(f"job {job.id} is {job.state}", hint="bascule jobs list")
        return RUNNING if job.state == RUNNING else CANCELLED
    if not job.is_ended:
        return job.state
    if command == "resume" and not can_resume:
        raise Conflict(
            f"a job of kind {job.kind} begins anew each time", hint=f"bascule jobs retry {job.id}"
        )
    if command == "retry" and job.state == DONE:
        raise Conflict(f"job {job.id} is done", hint="submit it again")
    return QUEUED


def may_start_here(job: Job, host: str, now: datetime) -> bool:
    """Whether a process of `host` may claim it: one that needs another host's files waits for it.

    After a minute it fails here with a reason, rather than wait for a host that is gone.
    """
    return job.host in ("", host) or now - job.updated_at > _OWN_HOST_FIRST


def why_not_allowed(key: Key | None, action: Action, model: str, now: datetime) -> str:
    """Why a job of a key may not run now, in words; empty if it may. None for a key that is gone.

    The rule: a job ends with the right that it was submitted with. It is looked at before each
    start, and each second while the job runs.
    """
    if key is None:
        return "the key that it was submitted with is gone"
    if (state := key.state(now)) != "live":
        return f"the key {key.id} ({key.name}) that it was submitted with is {state}"
    if not key.allows(action, model):
        return f"the key {key.id} ({key.name}) does not allow {action}:{model}"
    return ""
