"""Jobs in the catalogue: submitted, claimed by one process at a time, ended."""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, database_now, events
from bascule.core import (
    BasculeError,
    Conflict,
    NotFound,
    Overloaded,
    canonical_json,
    error_to_json,
    holder_name,
    is_alive,
    masked_text,
    own_process,
    sha256_bytes,
)
from bascule.jobs import schema
from bascule.jobs.deferred import MAX_ANSWER_BYTES, MB, ROW_BYTES, Payloads
from bascule.jobs.records import (
    CALLBACK,
    CANCELLED,
    DONE,
    ENDED,
    INFERENCE,
    KILLED,
    QUEUED,
    RUNNING,
    UNDER_WAY,
    Command,
    Job,
    Task,
    death_of,
    may_start_here,
    state_after,
    state_after_death,
    state_seen,
)
from bascule.jobs.schedules import record_end

LEASE_S = 10.0
_MAX_WAITING = 32
_MAX_LOG_LETTERS = 200_000
_table = schema.jobs
_AGAIN = sa.case((_table.c.stop == "", QUEUED), else_=CANCELLED)
_SHOWN = [_table.c[field.name] for field in fields(Job)]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of this process to run a job; `fence` is greater than that of earlier ones."""

    job: Job
    fence: int


class Jobs:
    """The jobs of a catalogue. Reading makes no catalogue; without one there are none."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def submit(self, task: Task, within: Payloads | None = None) -> Job:
        """Queue it. One of the same kind and subject that is under way is that job.

        Raises:
            Overloaded: Too many of its kind wait already, or what its key and user, or all, have
                under way or keep would be over the bounds of `within`.
        """
        self.catalogue.create()
        with self.catalogue.write(alone=True) as connection:
            jobs = _rows(connection, _table.c.kind == task.kind, _table.c.state.in_(UNDER_WAY))
            for job in jobs:
                if task.subject and job.subject == task.subject:
                    return job
            if sum(job.state == QUEUED for job in jobs) >= _MAX_WAITING:
                raise Overloaded(
                    f"{_MAX_WAITING} jobs of kind {task.kind} wait", hint="retry later",
                    retry_after_s=10,
                )  # fmt: skip
            if within is not None:
                _check_bounds(connection, task, within, jobs)
            return add(connection, task)

    def start(self, task: Task) -> Claim:
        """Submit a job, and claim it before another process can."""
        self.catalogue.create()
        with self.catalogue.write() as connection:
            return _claimed(connection, add(connection, task).id)

    def claim(self, job_id: str, *, after: Sequence[str] = (QUEUED,)) -> Claim | None:
        """Run a job in this process; None where its state is not one of `after` any more."""
        with self.catalogue.write() as connection:
            is_so = _locked(connection, job_id).state in after
            return _claimed(connection, job_id) if is_so else None

    def begin(self, claim: Claim, subject: str, **values: Any) -> Job:
        """Note what a job is about, which its kind knows once it has looked at the input.

        Raises:
            Conflict: Another job of this kind and subject runs; its `under_way` is the subject.
        """
        with self.catalogue.write(alone=True) as connection:
            same = (_table.c.kind == claim.job.kind, _table.c.subject == subject)
            for job in _rows(connection, *same, _table.c.id != claim.job.id):
                if job.state == RUNNING:
                    raise Conflict(
                        f"run {subject} is under way in another process, {job.holder}",
                        hint="wait until it has ended, and give the command again",
                        under_way=subject,
                    )
            return _saved(connection, claim, subject=subject, begun=claim.job.attempt, **values)

    def save(self, claim: Claim, *, log: Sequence[str] = (), **values: Any) -> Job:
        """Keep what has changed and new lines of the log, and renew the lease.

        The job has a reason in `stop` where it must stop. Raises `Conflict` where another process
        runs it.
        """
        with self.catalogue.write() as connection:
            return _saved(connection, claim, log=log, **values)

    def end(
        self, claim: Claim, state: str, *, error: BasculeError | None = None,
        log: Sequence[str] = (), **values: Any,
    ) -> Job:  # fmt: skip
        """End it, or queue it again unless it is cancelled meanwhile; raises as `save` does."""
        kept = None if error is None else {
            **error_to_json(error), "error": masked_text(error.message)
        }  # fmt: skip
        how = {"state": _AGAIN} if state == QUEUED else {"state": state, "stop": ""}
        with self.catalogue.write() as connection:
            _saved(connection, claim, log=log, error=kept, **how, **values)
            return _noted(connection, claim.job.id)

    def command(
        self, job_id: str, command: Command, *, can_resume: bool = True, by: str = "", key: str = ""
    ) -> Job:
        """Cancel, resume or retry it; see `records.state_after`.

        One that runs again belongs to the caller, `by` with the `key`.
        """
        with self.catalogue.write() as connection:
            job = _locked(connection, job_id)
            state = state_after(job, command, can_resume=can_resume)
            changes: dict[str, Any] = {"state": state}
            if command == "cancel":
                changes["stop"] = f"cancelled by {by}" if by else "cancelled"
            elif job.is_ended:
                changes |= {"result": None, "error": None, "stop": "", "key": key}
                changes["by"] = by or job.by
            _change(connection, job_id, **changes)
            _record(connection, job, f"job_{command}_requested", by)
            return _noted(connection, job_id)

    def after_deaths(self, retries_of: Callable[[Job], int]) -> None:
        """Queue jobs again whose process is gone, or end them."""
        if not self.find(state=KILLED, stored=RUNNING):
            return
        with self.catalogue.write(alone=True) as connection:
            for job in _rows(connection, _table.c.state == RUNNING):
                if job.state == KILLED:
                    state = state_after_death(job, retries_of(job))
                    died = {"error": error_to_json(death_of(job))} if state == KILLED else {}
                    _change(connection, job.id, state=state, **died)
                    _noted(connection, job.id)

    def waiting(self) -> list[Job]:
        """The queued jobs that this host may run, the oldest first, callers in turns."""
        host, now = socket.gethostname(), datetime.now().astimezone()
        turns, jobs = Counter[tuple[str, str, str]](), list[tuple[int, Job]]()
        for job in self.find(stored=QUEUED)[::-1]:
            turns[caller := (job.kind, job.key, job.by)] += 1
            jobs.append((turns[caller], job))
        jobs.sort(key=lambda pair: pair[0])
        return [job for _, job in jobs if may_start_here(job, host, now)]

    def find(
        self, *, kind: str = "", subject: str = "", state: str = "", stored: str = "",
        newest: bool = False, offset: int = 0, limit: int | None = None,
    ) -> list[Job]:  # fmt: skip
        """Jobs, the latest first.

        Args:
            kind: Of this kind.
            subject: About this.
            state: In this state as others see it.
            stored: In this state as it is stored: those whose process is gone still run.
            newest: Of each subject the newest job, and none without a subject.
            offset: Without the first so many.
            limit: At most so many.
        """
        given = {"kind": kind, "subject": subject, "state": stored}
        conditions = [_table.c[name] == value for name, value in given.items() if value]
        conditions += [_is_newest()] if newest else []
        try:
            with self.catalogue.read() as connection:
                jobs = _rows(connection, *conditions, offset=offset, limit=limit)
        except NotFound:
            return []
        return [job for job in jobs if state in ("", job.state)]

    def newest_done(self, kind: str, subjects: Sequence[str]) -> dict[str, tuple[str, datetime]]:
        """By subject, the id and the end of its job that is done; reads no result."""
        columns = _table.c.subject, _table.c.id, _table.c.ended_at
        done = (_table.c.kind == kind, _table.c.subject.in_(subjects), _table.c.state == DONE)
        ordered = sa.select(*columns).where(*done).order_by(_table.c.ended_at)
        try:
            with self.catalogue.read() as connection:
                return {row.subject: (row.id, row.ended_at) for row in connection.execute(ordered)}
        except NotFound:
            return {}

    def count(self, kind: str) -> int:
        """How many subjects there are of a kind."""
        try:
            with self.catalogue.read() as connection:
                newest = (_table.c.kind == kind, _is_newest())
                return int(connection.scalar(sa.select(sa.func.count()).where(*newest)) or 0)
        except NotFound:
            return 0

    def get(self, job_id: str) -> Job:
        """The job whose id begins so. Raises `NotFound`."""
        return self._one("job", _table.c.id, job_id)

    def about(self, kind: str, subject: str) -> Job:
        """The newest job of a kind whose subject begins so. Raises `NotFound`."""
        return self._one("run", _table.c.subject, subject, _table.c.kind == kind, _is_newest())

    def facts(self, job_id: str) -> Any:
        """What its kind noted when it began; None for nothing."""
        with self.catalogue.read() as connection:
            return connection.scalar(sa.select(_table.c.facts).where(_table.c.id == job_id))

    def log(self, job_id: str) -> str:
        """The end of what it has logged, with earlier attempts."""
        with self.catalogue.read() as connection:
            return str(connection.scalar(sa.select(_table.c.log).where(_table.c.id == job_id)))

    def forget(self, kind: str, before: datetime, *, all_: bool = True) -> None:
        """Drop the jobs of a kind that ended before a time: all, or those without a subject."""
        old = [_table.c.kind == kind, _table.c.state.in_(ENDED), _table.c.updated_at < before]
        old += [] if all_ else [_table.c.subject == ""]
        with self.catalogue.read() as connection:
            is_any = bool(_rows(connection, *old, limit=1))
        if is_any:  # a write would wake every watch
            with self.catalogue.write() as connection:
                connection.execute(sa.delete(_table).where(*old))

    def _one(self, what: str, column: sa.Column[Any], text: str, *conditions: Any) -> Job:
        plain = "".join(letter for letter in text if letter.isalnum()) or "-"
        jobs = list[Job]()
        try:
            with self.catalogue.read() as connection:
                jobs = _rows(connection, column.startswith(plain), *conditions, limit=3)
        except NotFound:
            pass
        exact = [job for job in jobs if text in (job.id, job.subject)] or jobs
        if len(exact) != 1:
            count = f"{len(exact)} {what}s" if exact else f"no {what}"
            raise NotFound(f"{count} {text!r} in this catalogue", hint="bascule jobs list")
        return exact[0]


def add(connection: sa.Connection, task: Task) -> Job:
    """Queue a job with the transaction."""
    now = database_now(connection)
    content = {"kind": task.kind, "input": task.input}
    title = task.title or f"{task.kind} {task.input.get('model') or ''}".rstrip()
    job = Job(
        **asdict(task) | {"title": masked_text(title)}, id=secrets.token_hex(12),
        digest=sha256_bytes(canonical_json(content)), progress={}, created_at=now, updated_at=now,
    )  # fmt: skip
    lease = {"log": "", "process": "", "fence": 0, "expires_at": now}
    connection.execute(sa.insert(_table).values({**asdict(job), **lease}))
    _record(connection, job, "job_submitted", job.by)
    return job


def _check_bounds(
    connection: sa.Connection, task: Task, within: Payloads, under_way: Sequence[Job]
) -> None:
    """Raise `Overloaded`; an answer that is to come counts as the longest."""
    caller = (task.key, task.by)
    own = sum((job.key, job.by) == caller for job in under_way)
    known = sa.func.coalesce(_table.c.result["bytes"].as_integer(), 0)
    answer = sa.case((_table.c.state.in_(UNDER_WAY), MAX_ANSWER_BYTES), else_=known)
    request = sa.func.coalesce(_table.c.input["bytes"].as_integer(), 0)
    size = ROW_BYTES + request + answer
    columns, since = (_table.c.key, _table.c.by), database_now(connection) - within.kept
    sums = sa.select(*columns, sa.func.sum(size)).group_by(*columns)
    rows = connection.execute(sums.where(_table.c.kind == task.kind, _table.c.updated_at > since))
    kept = {(key, by): int(size_bytes) / MB for key, by, size_bytes in rows}
    more = (ROW_BYTES + task.input["bytes"] + MAX_ANSWER_BYTES) / MB
    for setting, taken, limit in (
        ("max_key_requests", own + 1, within.max_key_requests),
        ("max_key_mb", kept.get(caller, 0) + more, within.max_key_mb),
        ("max_mb", sum(kept.values()) + more, within.max_mb),
    ):
        if taken > limit:
            raise Overloaded(
                f"deferred.{setting} is {limit}, and with this request {taken:.0f} are taken",
                hint="retry when a request has ended, or an answer has had its time",
                retry_after_s=10,
            )


def _record(connection: sa.Connection, job: Job, kind: str, by: str) -> None:
    body = {"kind": job.kind, "subject": job.subject, "title": job.title}
    subject = events.Subject("job", job.id)
    events.append(connection, events.Event(subject, kind, database_now(connection), by, "", body))


def _rows(
    connection: sa.Connection, *conditions: Any, offset: int = 0, limit: int | None = None
) -> list[Job]:
    query = sa.select(*_SHOWN, _table.c.process, _table.c.expires_at).where(*conditions)
    query = query.order_by(_table.c.created_at.desc()).offset(offset).limit(limit)
    now = database_now(connection)
    return [_job(row, now) for row in connection.execute(query)]


def _job(row: Any, now: datetime) -> Job:
    alive = is_alive(row.process) if row.state == RUNNING else None
    state = state_seen(row.state, is_leased=row.expires_at > now, is_alive=alive)
    return Job(**{column.name: getattr(row, column.name) for column in _SHOWN} | {"state": state})


def _locked(connection: sa.Connection, job_id: str) -> Job:
    """The job, whose other writers wait for the end of the transaction."""
    same = _table.c.id == job_id
    connection.execute(sa.select(_table.c.id).where(same).with_for_update()).all()
    jobs = _rows(connection, same)
    if not jobs:
        raise NotFound(f"no job {job_id!r} in this catalogue", hint="bascule jobs list")
    return jobs[0]


def _claimed(connection: sa.Connection, job_id: str) -> Claim:
    now, same = database_now(connection), _table.c.id == job_id
    held = sa.update(_table).where(same).values(
        state=RUNNING, attempt=_table.c.attempt + 1, fence=_table.c.fence + 1, stop="", error=None,
        result=None, started_at=now, updated_at=now, ended_at=None, holder=holder_name(),
        process=own_process(), expires_at=now + timedelta(seconds=LEASE_S),
    )  # fmt: skip
    fence = connection.execute(held.returning(_table.c.fence)).scalar_one()
    return Claim(_rows(connection, same)[0], fence)


def _saved(connection: sa.Connection, claim: Claim, log: Sequence[str] = (), **values: Any) -> Job:
    now = database_now(connection)
    lease = {"updated_at": now, "expires_at": now + timedelta(seconds=LEASE_S)}
    held = (_table.c.id == claim.job.id, _table.c.fence == claim.fence, _table.c.state == RUNNING)
    values |= lease if not log else lease | {"log": _longer(log)}
    if connection.execute(sa.update(_table).where(*held).values(values)).rowcount != 1:
        raise Conflict(f"job {claim.job.id} is run by another process", hint="bascule jobs list")
    return _rows(connection, _table.c.id == claim.job.id)[0]


def _longer(log: Sequence[str]) -> Any:
    whole = _table.c.log + "".join(f"{line}\n" for line in log)
    surplus = sa.func.length(whole) - _MAX_LOG_LETTERS
    return sa.case((surplus > 0, sa.func.substr(whole, surplus + 1)), else_=whole)


def _change(connection: sa.Connection, job_id: str, **values: Any) -> None:
    values["updated_at"] = database_now(connection)
    connection.execute(sa.update(_table).where(_table.c.id == job_id).values(values))


def _noted(connection: sa.Connection, job_id: str) -> Job:
    """The job after a change; where it has ended, earlier ones go and its schedule hears."""
    (job,) = _rows(connection, _table.c.id == job_id)
    if not job.is_ended:
        return job
    _change(connection, job_id, ended_at=database_now(connection))
    _record(connection, job, f"job_{job.state}", job.holder or job.by)
    if job.subject:
        connection.execute(sa.delete(_table).where(_replaced_by(job)))
    if job.kind == INFERENCE and (url := job.input["callback"]):
        said = {"job": job.id, "model": job.input["model"], "state": job.state, "url": url}
        add(connection, Task(kind=CALLBACK, input=said, title=f"callback of {job.id}", by=job.by))
    if job.schedule and job.due is not None:
        outcome: Mapping[str, Any] = job.result or job.error or {"error": f"it was {job.state}"}
        record_end(
            connection, job.schedule, job.due, outcome, by=job.holder or job.by, state=job.state
        )
    return _rows(connection, _table.c.id == job_id)[0]


def _is_newest() -> Any:
    """The condition that a job is the newest one of its kind and subject."""
    later = _table.alias("later")
    same = (later.c.kind == _table.c.kind, later.c.subject == _table.c.subject)
    newer = sa.exists().where(*same, later.c.created_at > _table.c.created_at)
    return sa.and_(_table.c.subject != "", ~newer)


def _replaced_by(job: Job) -> Any:
    """Earlier jobs of its subject; one that is done stays until another one is done."""
    others = [
        _table.c.kind == job.kind, _table.c.subject == job.subject, _table.c.id != job.id,
        _table.c.state.in_(ENDED),
    ]  # fmt: skip
    return sa.and_(*others, *([] if job.state == DONE else [_table.c.state != DONE]))
