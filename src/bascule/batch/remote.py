"""Runs and schedules of a server, over its control API; see `Runs` and `Schedules`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bascule.batch.jobs import Job
from bascule.batch.manifest import Manifest
from bascule.batch.runs import CANCELLED, DONE, KILLED, RUNNING, Status
from bascule.core import Conflict, ModelFailed, Refused
from bascule.jobs import Schedule, Scheduled
from bascule_client.control import ControlClient, path_of

_POLL_S = 0.5


class RemoteRuns:
    """The runs of the machine where the server is."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def start(self, job: Job, *, by: str = "") -> Status:
        """Start a job there: its paths are those of that machine. Returns when it has begun."""
        return _status(self._client.ask("POST", path_of("batch", "runs"), job.to_json(), user=by))

    def list(self) -> list[Status]:
        return [_status(one) for one in self._client.items(path_of("batch", "runs"))]

    def get(self, run: str) -> Status:
        return _status(self._client.ask("GET", path_of("batch", "runs", run)))

    def log(self, run: str) -> str:
        return str(self._client.ask("GET", path_of("batch", "runs", run, "log"))["log"])

    def manifest(self, run: str) -> Manifest:
        said = self._client.ask("GET", path_of("batch", "runs", run, "manifest"))
        return msgspec.convert(said, Manifest)

    def cancel(self, run: str, *, by: str = "") -> Status:
        return _status(self._client.ask("POST", path_of("batch", "runs", run, "cancel"), user=by))

    def resume(self, run: str, *, by: str = "") -> Status:
        return _status(self._client.ask("POST", path_of("batch", "runs", run, "resume"), user=by))

    def wait(self, run: str, watch: Callable[[Status], None] = lambda _: None) -> Status:
        """Ask for the status twice a second until the run is done.

        Raises:
            Conflict: It was cancelled or killed.
            Refused: It failed.
        """
        while (status := self.get(run)).state == RUNNING:
            watch(status)
            time.sleep(_POLL_S)
        if status.state == DONE:
            return status
        hint = f"bascule batch resume {status.run} goes on"
        if status.state in (CANCELLED, KILLED):
            raise Conflict(f"run {status.run} was {status.state}", hint=hint, run=status.run)
        raise Refused(f"run {status.run} failed: {status.error}", run=status.run)


class RemoteSchedules:
    """The schedules of the server's catalogue."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def add(self, schedule: Schedule, *, by: str, reason: str = "") -> None:
        content = msgspec.to_builtins(schedule)
        kept = ["name", "cron", "timezone", "catch_up", "window", "late_after_min", "kind", "job"]
        if schedule.retries:
            kept += ["retries", "retry_after_min"]
        body = {name: content[name] for name in kept} | {"reason": reason}
        self._client.ask("POST", path_of("schedules"), body, user=by)

    def list(self) -> list[Scheduled]:
        return [Scheduled.from_json(one) for one in self._client.items(path_of("schedules"))]

    def get(self, name: str) -> Scheduled:
        return Scheduled.from_json(self._client.ask("GET", path_of("schedules", name)))

    def pause(self, name: str, *, by: str, reason: str = "") -> None:
        self._command(name, "pause", by, reason)

    def resume(self, name: str, *, by: str, reason: str = "") -> None:
        self._command(name, "resume", by, reason)

    def remove(self, name: str, *, by: str, reason: str = "") -> None:
        self._client.ask("DELETE", path_of("schedules", name), user=by, reason=reason)

    def run(self, name: str, *, by: str) -> Status:
        """Run its job there now. Returns when the run has begun."""
        return _status(self._command(name, "run", by, ""))

    def _command(self, name: str, command: str, by: str, reason: str) -> Any:
        path = path_of("schedules", name, command)
        return self._client.ask("POST", path, {"reason": reason}, user=by)


def _status(said: Mapping[str, Any]) -> Status:
    try:
        return msgspec.convert(dict(said), Status)
    except msgspec.ValidationError as problem:
        raise ModelFailed(f"the server answers no status of a run: {problem}") from None
