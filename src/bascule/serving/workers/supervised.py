"""Processes that are kept alive: started, watched by their beat, replaced, and ended.

One form for the workers, the control process and the scribe. A process that has ended is started
again, at once or after a pause that grows while it keeps dying (`Backoff`). One whose beat in the
shared counters stays the same is killed, and so replaced; while it waits for a processor, that
time does not count. It is asked over a socket pair (`Peer`), where it answers at all.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bascule.core import Unavailable, await_end
from bascule.serving.workers.peer import AnswerFor, Peer

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05
_LONGEST_TURN_S = 0.1
"""More than this between two looks means that the supervisor itself stood still."""
_START_AGAIN_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOPPED_LOOKS = 20
"""A process that a signal has stopped is killed when so many looks in a row have found it stopped.
Looks, and no time: a suspended server looks at nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a process is started.

    Attributes:
        argv: The command; the supervisor's process id follows, then, for a process that is asked, a
            descriptor of its end of the socket pair.
        environment: Variables of its own, for what no list of processes may show, too.
        fds: Descriptors that it inherits.
        question: What it finds on standard input, as JSON.
        blocked: Signals that it lets through itself, once it can act on them.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    fds: tuple[int, ...] = ()
    question: Mapping[str, Any] = field(default_factory=dict, repr=False)
    blocked: frozenset[signal.Signals] = frozenset()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a process is watched by.

    Attributes:
        last_ns: When it last beat; stays the same when the process dies.
        silent_s: After so long without a beat it is killed.
        first_s: The same, for a process that has not beaten since its start.
        on_silent: Called when it was killed.
    """

    last_ns: Callable[[], int]
    silent_s: float
    first_s: float
    on_silent: Callable[[], None] = lambda: None


class Backoff:
    """How long to wait before a process that ended is started again."""

    def __init__(self, healthy_after_s: float = 10.0, longest_s: float = 5.0) -> None:
        self._healthy_after_s = healthy_after_s
        self._longest_s = longest_s
        self._quick_deaths = 0

    def pause_s(self, lived_s: float) -> float:
        """0 for the first death; longer for a process that keeps dying soon after its start."""
        self._quick_deaths = 0 if lived_s > self._healthy_after_s else self._quick_deaths + 1
        if self._quick_deaths <= 1:
            return 0.0
        return float(min(self._longest_s, 0.1 * 2.0 ** min(self._quick_deaths, 10)))


class Supervised:
    """The process that there is now, and what is needed to start the next one."""

    def __init__(
        self,
        command: Callable[[], Command],
        name: str,
        spawning: ThreadPoolExecutor,
        *,
        answer: AnswerFor | None = None,
        heartbeat: Heartbeat | None = None,
        starting: threading.Lock | None = None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is started yet.

        Args:
            command: How, asked at each start.
            name: For messages: `worker 3`, `the scribe`.
            spawning: One thread that stays: the system ends the process when the thread ends.
            answer: Answers its questions; None for a process that neither asks nor is asked.
            heartbeat: None for a process that is watched for its end alone.
            starting: Is held while it is started again; while another holds it, that waits.
            on_restart: Called when it was started again.
        """
        self.name = name
        self.restarts = 0
        self.peer: Peer | None = None
        self._command = command
        self._spawning = spawning
        self._answer = answer
        self._heartbeat = heartbeat
        self._starting = starting or threading.Lock()
        self._on_restart = on_restart
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._restart_at_s: float | None = None
        self._backoff = Backoff()
        self._beat_ns, self._has_beaten, self._stopped_looks = 0, False, 0
        self._looked_s: float | None = None
        self._silent_s = self._cpu_s = 0.0

    @property
    def pid(self) -> int:
        """0 before the first start."""
        return 0 if self._process is None else self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: The system lacks what that takes.
            RuntimeError: It has no thread left.
        """
        command, peer = self._command(), None
        with ExitStack() as stack:
            end = None
            if self._answer is not None:
                ours, end = socket.socketpair()
                stack.enter_context(end)
                peer = Peer(ours, self._answer, name=self.name)
                peer.start()
            try:
                process = self._spawning.submit(_spawn, command, end).result()
            except BaseException:
                if peer is not None:
                    peer.close()
                raise
        self._started_s, self._restart_at_s = time.monotonic(), None
        self._beat_ns = 0 if self._heartbeat is None else self._heartbeat.last_ns()
        self._has_beaten, self._looked_s = False, None
        self._process, self.peer = process, peer

    def ask(self, what: str, within_s: float, **arguments: Any) -> Any:
        """See `Peer.ask`."""
        if self.peer is None:
            raise Unavailable(f"{self.name} is not started", hint="try again")
        return self.peer.ask(what, within_s, **arguments)

    def look_after(self, watched_s: float) -> None:
        """Kill a process that is silent, and replace one that has ended; never waits.

        `watched_s` is of a clock that stands still while the watching thread does.
        """
        process, now_s = self._process, time.monotonic()
        if process is None:
            return
        if process.poll() is None:
            if self._heartbeat is not None:
                self._kill_silent(process, self._heartbeat, watched_s)
        elif self._restart_at_s is None:
            lived_s = now_s - self._started_s
            log.warning(
                "%s (process %d) ended with %s after %.1f s and is started again",
                self.name, process.pid, process.returncode, lived_s,
            )  # fmt: skip
            self._restart_at_s = now_s + self._backoff.pause_s(lived_s)
            self._close()
        elif now_s >= self._restart_at_s and self._starting.acquire(blocking=False):
            try:
                self._restart_at_s = now_s + _START_AGAIN_S  # where the system lacks what it takes
                self.start()
            finally:
                self._starting.release()
            self.restarts += 1
            self._on_restart()

    def _kill_silent(
        self, process: subprocess.Popen[bytes], heartbeat: Heartbeat, watched_s: float
    ) -> None:
        """Kill a process whose beat stays the same.

        One that a signal has stopped is killed sooner: no load of the machine looks like that.
        """
        beat_ns, (state, cpu_s) = heartbeat.last_ns(), _activity_of(process.pid)
        if self._looked_s is None or beat_ns != self._beat_ns:
            self._has_beaten |= beat_ns != self._beat_ns
            self._silent_s, self._stopped_looks = 0.0, 0
        else:
            passed_s = watched_s - self._looked_s
            # On a busy machine a process that is ready to run may wait for longer than it may hang.
            self._silent_s += min(passed_s, cpu_s - self._cpu_s) if state == "R" else passed_s
            self._stopped_looks = self._stopped_looks + 1 if state == "T" else 0
        self._beat_ns, self._looked_s, self._cpu_s = beat_ns, watched_s, cpu_s
        silent_s = heartbeat.silent_s if self._has_beaten else heartbeat.first_s
        if self._stopped_looks >= _STOPPED_LOOKS:
            why = "was stopped by a signal"
        elif self._silent_s > silent_s:
            why = f"stood still for {silent_s:g} s"
        else:
            return
        log.error("%s (process %d) %s and is killed", self.name, process.pid, why)
        process.kill()
        self._silent_s, self._stopped_looks = 0.0, 0
        heartbeat.on_silent()

    def terminate(self) -> None:
        """Ask it to end; see `wait`."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, within_s: float) -> None:
        """Return when it has ended; it is killed where that takes longer."""
        if self._process is not None and not await_end(self._process, within_s):
            log.warning("%s (process %d) did not end in time and is killed", self.name, self.pid)
        self._close()

    def _close(self) -> None:
        if self.peer is not None:
            self.peer.close()


def keep_alive(processes: Sequence[Supervised], stopping: threading.Event) -> None:
    """Look after processes until the event is set."""
    watched_s, now_s = 0.0, time.monotonic()
    while not stopping.wait(_LOOK_EVERY_S):
        before_s, now_s = now_s, time.monotonic()
        # A stopped terminal job, for example: its workers stood still just as long.
        watched_s += min(now_s - before_s, _LONGEST_TURN_S)
        for process in processes:
            try:
                process.look_after(watched_s)
            except Exception:
                # No failure may end the thread: nothing would be replaced any more.
                log.exception("%s cannot be looked after", process.name)


def shared_file(name: str) -> IO[bytes]:
    """A file in memory for what processes share; it is gone with the last of them.

    It lies in no file system, so none can be too full for it: a write to a mapped file ends the
    process where the file system has no block left.
    """
    return os.fdopen(os.memfd_create(name), "r+b", buffering=0)


def _spawn(command: Command, end: socket.socket | None) -> subprocess.Popen[bytes]:
    ends = () if end is None else (end.fileno(),)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, command.blocked)
    try:
        with shared_file("bascule-question") as question:
            question.write(json.dumps(command.question).encode())
            question.seek(0)
            return subprocess.Popen(
                [*command.argv, str(os.getpid()), *map(str, ends)],
                stdin=question,
                stdout=2,  # standard output is the announcement's
                pass_fds=(*command.fds, *ends),
                # What `timeout` or Ctrl-C sends to the group is for the supervisor to act on.
                process_group=0,
                env={**os.environ, **command.environment},
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _activity_of(pid: int) -> tuple[str, float]:
    """The state of a process, and the seconds of processor time that it has had.

    The state is `R` if its main thread runs or waits for a processor, `T` if a signal, and no
    debugger, has stopped it; empty where there is no `/proc`. See proc_pid_stat(5): the state
    follows the command's name, which may hold any character.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(") ")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
