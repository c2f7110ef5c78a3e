"""Jobs of a server, over its control API; see `Jobs` and `JobRunner`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bascule.jobs.records import Command, Job, Task
from bascule_client.control import ControlClient, path_of


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


def _job(content: Mapping[str, Any]) -> Job:
    return msgspec.convert(dict(content), Job)
