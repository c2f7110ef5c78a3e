"""The supervisor's side of the control process: starts it, watches it, asks it.

The control process has the API, the keys and the registry; the supervisor has none of them. It is
replaced when it ends, and killed when its beat in the shared counters stays the same for
`CONTROL_SILENT_S`. Connections to its port wait meanwhile in the socket, which the supervisor keeps
open. Workers need nothing of it to answer: keys hold for `authenticator.KEYS_SILENT_S` without a
word, and the next control process is there before that.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bascule.core import Unavailable
from bascule.serving.workers.channel import Message
from bascule.serving.workers.peer import AnswerFor, Peer

log = logging.getLogger(__name__)

CONTROL_SILENT_S = 1.2
"""After so long without a beat the process is killed; with its start that is under 3 s."""
_FIRST_BEAT_S = 30.0
"""For a process that is being started."""
_STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class ControlCommand:
    """How the control process is started.

    Attributes:
        argv: The command; the supervisor's process id and a descriptor of the socket to it follow.
        listener: The listening socket of the API, which the process inherits.
        config: What the process needs to know, beside what the supervisor adds; of JSON.
    """

    argv: tuple[str, ...]
    listener: socket.socket
    config: Message


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


class ControlChild:
    """The control process that there is now, and what is needed to start the next one."""

    def __init__(
        self,
        command: ControlCommand,
        inherited_fds: tuple[int, ...],
        answer: AnswerFor,
        spawning: ThreadPoolExecutor,
        on_restart: Callable[[], None],
    ) -> None:
        """Nothing is started yet.

        Args:
            command: How.
            inherited_fds: The descriptors that it needs, beside its own.
            answer: Answers its questions.
            spawning: One thread that stays: the system kills the process when it ends.
            on_restart: Called when it was started again.
        """
        self._command = command
        self._fds = (*inherited_fds, command.listener.fileno())
        self._answer = answer
        self._spawning = spawning
        self._on_restart = on_restart
        self._process: subprocess.Popen[bytes] | None = None
        self._peer: Peer | None = None
        self._backoff = Backoff()
        self._restart_at_s: float | None = None
        self._beat_ns, self._beat_s, self._has_beaten = 0, 0.0, False

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair()
        try:
            self._process = self._spawning.submit(self._spawn, theirs).result()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._started_s = time.monotonic()
        self._restart_at_s = None
        self._has_beaten = False
        self._peer = Peer(ours, self._answer, name="control process")
        self._peer.start()

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command.argv, str(os.getpid()), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output is the announcement's
            pass_fds=(*self._fds, theirs.fileno()),
            env={**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        )

    def ask(self, what: str, within_s: float, **arguments: Any) -> Any:
        """See `Peer.ask`."""
        if self._peer is None:
            raise Unavailable("the control process is not started", hint="try again")
        return self._peer.ask(what, within_s, **arguments)

    def look_after(self, beat_ns: int, watched_s: float) -> None:
        """Replace a process that has ended or is silent; never waits.

        Args:
            beat_ns: Its last beat.
            watched_s: Of a clock that stands still while the watching thread does.
        """
        process, now_s = self._process, time.monotonic()
        if process is None:
            return
        if process.poll() is None:
            self._kill_silent(process, beat_ns, watched_s)
        elif self._restart_at_s is None:
            lived_s = now_s - self._started_s
            log.warning(
                "the control process (%d) ended with %s after %.1f s and is started again",
                process.pid, process.returncode, lived_s,
            )  # fmt: skip
            self._restart_at_s = now_s + self._backoff.pause_s(lived_s)
            self._close()
        elif now_s >= self._restart_at_s:
            self._restart_at_s = now_s + 1.0  # where the system lacks what it takes
            self._beat_ns, self._beat_s = beat_ns, watched_s
            self.start()
            self._on_restart()

    def _kill_silent(
        self, process: subprocess.Popen[bytes], beat_ns: int, watched_s: float
    ) -> None:
        if beat_ns != self._beat_ns:
            self._beat_ns, self._beat_s, self._has_beaten = beat_ns, watched_s, True
        elif watched_s - self._beat_s > (CONTROL_SILENT_S if self._has_beaten else _FIRST_BEAT_S):
            log.error("the control process (%d) is silent and is killed", process.pid)
            process.kill()
            self._beat_s = watched_s

    def terminate(self) -> None:
        """Ask it to end; see `wait`."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def wait(self) -> None:
        """Return when it has ended; it is killed where it takes too long."""
        if self._process is not None:
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait(_STOP_S)
        self._close()

    def _close(self) -> None:
        if self._peer is not None:
            self._peer.close()
