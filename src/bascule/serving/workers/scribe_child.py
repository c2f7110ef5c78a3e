"""The supervisor's side of the scribe, the process that writes the ledger: starts and restarts it.

Workers append to the spool whether there is a scribe or not, so one that is away delays, and loses
nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bascule.serving.workers.control_child import Backoff

log = logging.getLogger(__name__)

_STOP_S = 20.0
_NICE = 10


@dataclass(frozen=True, slots=True)
class ScribeCommand:
    """What starts the scribe.

    Attributes:
        argv: The command; the supervisor's process id follows.
        environment: Variables of the scribe alone, for what no list of processes may show.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class ScribeChild:
    """The scribe that there is now, and what is needed to start the next one."""

    def __init__(self, command: ScribeCommand, spawning: ThreadPoolExecutor) -> None:
        """Nothing is started yet.

        Args:
            command: What starts it.
            spawning: One thread that stays: the system ends the process when the thread ends.
        """
        self._command = command
        self._spawning = spawning
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._started_s = 0.0
        self._restart_at_s: float | None = None

    def start(self) -> None:
        self._process = self._spawning.submit(self._spawn).result()
        self._started_s = time.monotonic()
        self._restart_at_s = None

    def look_after(self) -> None:
        """Start it again once it has ended. Never waits."""
        process, now_s = self._process, time.monotonic()
        if process is None or process.poll() is None:
            return
        if self._restart_at_s is None:
            pause_s = self._backoff.pause_s(now_s - self._started_s)
            self._restart_at_s = now_s + pause_s
            log.warning("the scribe (%d) ended with %s", process.pid, process.returncode)
        elif now_s >= self._restart_at_s:
            self._restart_at_s = now_s + 1.0  # where the system lacks what it takes
            self.start()

    def stop(self) -> None:
        """Have it take in what the spool holds, and end."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            log.warning("the scribe is killed; the next one goes on where it stood")
            process.send_signal(signal.SIGKILL)
            process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # The scribe lets the signal through once it can act on it: one that is stopped while it
        # starts takes in the spool as well.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return self._popen()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _popen(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["nice", "-n", str(_NICE), *self._command.argv, str(os.getpid())],
            env={**os.environ, **self._command.environment},
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output is the announcement's
        )
