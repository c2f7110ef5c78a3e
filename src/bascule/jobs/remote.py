"""Jobs of a server, over its control API; see `Jobs` and `JobRunner`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bascule.jobs import operations
from bascule.jobs.records import Command, Job, Task
from bascule.operations import Remote

if TYPE_CHECKING:
    from bascule.jobs.store import Jobs

_POLL_S = 0.3
_TAKEN_OVER_S = 15.0
"""Longer than a lease and a turn of a control process."""


class RemoteJobs(Remote):
    """The jobs of the server's catalogue."""

    def submit(self, task: Task) -> Job:
        """Submit a job there; places in its input are those of that machine."""
        body = {"kind": task.kind, "input": task.input, "title": task.title}
        return self.ask(operations.SUBMIT, body, by=task.by)

    def find(self, *, kind: str = "", state: str = "") -> list[Job]:
        """Those of a kind and state, the latest first, without results."""
        return self.items(operations.JOBS, kind=kind, state=state)

    def get(self, job: str) -> Job:
        return self.ask(operations.JOB, job=job)

    def log(self, job: str) -> str:
        return self.ask(operations.LOG, job=job).log

    def command(self, job: str, command: Command, *, by: str = "") -> Job:
        if command == "cancel":  # which a key for predictions may
            return self.ask(operations.END, by=by, job=job)
        return self.ask(operations.COMMAND, by=by, job=job, command=command)


def until_ended(
    jobs: RemoteJobs | Jobs, job_id: str, watch: Callable[[Job], None] = lambda _: None
) -> Job:
    """The job once it has ended; `watch` is given it about three times a second meanwhile.

    Where its process is gone, another one has time to go on with it.
    """
    alone_s = 0.0
    while not (job := jobs.get(job_id)).is_ended or (
        job.ended_at is None and alone_s < _TAKEN_OVER_S
    ):
        alone_s = alone_s + _POLL_S if job.is_ended else 0.0
        watch(job)
        time.sleep(_POLL_S)
    watch(job)
    return job
