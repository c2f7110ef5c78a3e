"""Jobs of a server, over its control API; see `Jobs` and `JobRunner`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.jobs.records import Command, Job, Task
from bascule_client.control import ControlClient, path_of

if TYPE_CHECKING:
    from bascule.jobs.store import Jobs

_POLL_S = 0.3


class RemoteJobs:
    """The jobs of the server's catalogue."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def submit(self, task: Task) -> Job:
        """Submit a job there; places in its input are those of that machine."""
        body = {"kind": task.kind, "input": dict(task.input), "title": task.title}
        return _job(self._client.ask("POST", path_of("jobs"), body, user=task.by))

    def find(self, *, kind: str = "", state: str = "") -> list[Job]:
        """Those of a kind and state, the latest first, without results."""
        return list(map(_job, self._client.items(path_of("jobs"), kind=kind, state=state)))

    def get(self, job: str) -> Job:
        return _job(self._client.ask("GET", path_of("jobs", job)))

    def log(self, job: str) -> str:
        return str(self._client.ask("GET", path_of("jobs", job, "log"))["log"])

    def command(self, job: str, command: Command, *, by: str = "") -> Job:
        return _job(self._client.ask("POST", path_of("jobs", job, command), user=by))


def until_ended(
    jobs: RemoteJobs | Jobs, job_id: str, watch: Callable[[Job], None] = lambda _: None
) -> Job:
    """The job once it has ended; `watch` is given it about three times a second meanwhile."""
    while not (job := jobs.get(job_id)).is_ended:
        watch(job)
        time.sleep(_POLL_S)
    watch(job)
    return job


def _job(content: Mapping[str, Any]) -> Job:
    return msgspec.convert(dict(content), Job)
