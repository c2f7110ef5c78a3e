"""Runs scheduled batch jobs beside a server: one controller, by a lease, starts what is due.

A run is recorded before it starts. It is a process of its own, which ends with this one or with the
lease. The next holder runs it again for the same time: a batch job goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bascule.batch import Schedule, Scheduled, Schedules, due, may_run
from bascule.control.turning import turning

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue

log = logging.getLogger(__name__)

LEASE = "schedules"
_LEASE_S = 10.0
_TURN_S = 1.0

ScheduleCommand = Callable[[Schedule], tuple[Sequence[str], bytes]]
"""What runs a schedule's job, and what it reads; the last line that it writes is JSON."""


@contextmanager
def running_schedules(
    open_catalogue: Callable[[], Catalogue], command: ScheduleCommand, *, after: threading.Event
) -> Iterator[None]:
    """Run what is due while the block runs, on a thread."""

    def run(ended: threading.Event) -> None:
        ScheduleRunner(open_catalogue(), command).run(ended)

    with turning("schedules", run, after=after, pause_s=_TURN_S):
        yield


@dataclass(frozen=True, slots=True)
class _Started:
    process: subprocess.Popen[bytes]
    due: datetime
    output: threading.Thread
    said: list[bytes]


class ScheduleRunner:
    """The schedules that this process runs while it holds the lease."""

    def __init__(
        self, catalogue: Catalogue, command: ScheduleCommand,
        *, clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        from bascule.catalogue import Leadership, Leases

        self._schedules = Schedules(catalogue)
        self._command = command
        self._clock = clock
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self.leadership = Leadership(Leases(catalogue), LEASE, holder, _LEASE_S)
        self._running: dict[str, _Started] = {}

    def run(self, ended: threading.Event) -> None:
        """Turn until `ended`; then stop what runs, for the next holder to go on with."""
        try:
            while not ended.is_set():
                self.turn()
                ended.wait(_TURN_S)
        finally:
            self._stop()
            self.leadership.release()

    def turn(self) -> None:
        """Record what has ended, and start what is due."""
        self._record_ended()
        found = self._schedules.list()
        if not found and not self._running:
            return
        if not self.leadership.keep():
            self._stop()
            return
        for one in found:
            running = self._running.get(one.schedule.name)
            if running is None:
                time = self._time_of(one)
                if time is not None:
                    self._start(one.schedule, time)
            elif not may_run(one.schedule, self._clock()):
                running.process.kill()
                del self._running[one.schedule.name]
                log.info("schedule %s: its run waits for the next window", one.schedule.name)

    def _time_of(self, one: Scheduled) -> datetime | None:
        """The time to run for; that of a run which was begun and has not ended comes first."""
        if not may_run(one.schedule, self._clock()):
            return None
        if one.is_under_way and not one.schedule.is_paused:
            return one.due
        return due(one.schedule, one.due, self._clock())

    def _start(self, schedule: Schedule, time: datetime) -> None:
        leads = self.leadership
        self._schedules.started(schedule.name, time, by=leads.holder, lease=leads.lease)
        argv, asked = self._command(schedule)
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said: list[bytes] = []
        output = threading.Thread(
            target=lambda: said.append(process.communicate(asked)[0]), daemon=True
        )
        output.start()
        self._running[schedule.name] = _Started(process, time, output, said)
        log.info("schedule %s runs for %s", schedule.name, time.isoformat())

    def _record_ended(self) -> None:
        for name, started in list(self._running.items()):
            if started.output.is_alive():
                continue
            outcome = _outcome(started)
            self._schedules.ended(name, started.due, outcome, by=self.leadership.holder)
            del self._running[name]
            if "error" in outcome:
                log.warning("schedule %s failed: %s", name, outcome["error"])

    def _stop(self) -> None:
        for started in self._running.values():
            started.process.kill()
        self._running.clear()


def _outcome(started: _Started) -> Mapping[str, Any]:
    try:
        found: dict[str, Any] = json.loads(started.said[0].splitlines()[-1])
        if found.keys() == {"run"}:  # it has begun, and not said how it ended
            raise ValueError
    except (ValueError, IndexError):
        return {"error": f"the run ended with {started.process.returncode}; see the server's log"}
    return found
