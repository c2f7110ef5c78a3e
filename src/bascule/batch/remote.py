"""Runs and schedules of a server, over its control API; see `Runs` and `Schedules`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from bascule.batch import operations
from bascule.batch.jobs import Job
from bascule.batch.manifest import Manifest
from bascule.batch.runs import CANCELLED, DONE, KILLED, RUNNING, Status
from bascule.core import Conflict, Refused
from bascule.jobs import Schedule, Scheduled
from bascule.operations import Remote

_POLL_S = 0.5


class RemoteRuns(Remote):
    """The runs of the machine where the server is."""

    def start(self, job: Job, *, by: str = "") -> Status:
        """Start a job there: its paths are those of that machine. Returns when it has begun."""
        return self.ask(operations.START, job.to_json(), by=by)

    def list(self) -> list[Status]:
        return self.items(operations.RUNS)

    def get(self, run: str) -> Status:
        return self.ask(operations.RUN, run=run)

    def log(self, run: str) -> str:
        return self.ask(operations.LOG, run=run).log

    def manifest(self, run: str) -> Manifest:
        return self.ask(operations.MANIFEST, run=run)

    def cancel(self, run: str, *, by: str = "") -> Status:
        return self.ask(operations.COMMAND, by=by, run=run, command="cancel")

    def resume(self, run: str, *, by: str = "") -> Status:
        return self.ask(operations.COMMAND, by=by, run=run, command="resume")

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


class RemoteSchedules(Remote):
    """The schedules of the server's catalogue."""

    def add(self, schedule: Schedule, *, by: str, reason: str = "") -> None:
        kept = ["name", "cron", "timezone", "catch_up", "window", "late_after_min", "kind", "job"]
        if schedule.retries:
            kept += ["retries", "retry_after_min"]
        body = {name: getattr(schedule, name) for name in kept} | {"reason": reason}
        self.ask(operations.ADD, body, by=by)

    def list(self) -> list[Scheduled]:
        return self.items(operations.SCHEDULES)

    def get(self, name: str) -> Scheduled:
        return self.ask(operations.SCHEDULE, schedule=name)

    def pause(self, name: str, *, by: str, reason: str = "") -> None:
        self._command(name, "pause", by, reason)

    def resume(self, name: str, *, by: str, reason: str = "") -> None:
        self._command(name, "resume", by, reason)

    def remove(self, name: str, *, by: str, reason: str = "") -> None:
        self.ask(operations.REMOVE, by=by, schedule=name, reason=reason)

    def run(self, name: str, *, by: str, due: datetime | None = None) -> Status:
        """Run its job there now, for `due` or its last time. Returns when the run has begun."""
        body = {"due": due.isoformat()} if due else {}
        return self.ask(operations.RUN_NOW, body, by=by, schedule=name)

    def _command(self, name: str, command: str, by: str, reason: str) -> None:
        body = {"reason": reason}
        self.ask(operations.COMMAND_SCHEDULE, body, by=by, schedule=name, command=command)
