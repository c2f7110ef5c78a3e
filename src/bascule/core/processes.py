"""Tells processes of this machine apart, and lets a signal set an event.

A holder that has died is known at once.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar


class SignalEvent(threading.Event):
    """An event that the handler of a signal may set, once for all.

    `threading.Event.set` takes a lock that `wait` holds for a moment: a handler that runs then, on
    the same thread, waits for ever. A wait looks up every `RESTING_S`: a signal that arrives just
    before the system call does not end it, and Python runs the handler only afterwards.
    """

    RESTING_S: ClassVar[float] = 0.5

    def __init__(self) -> None:
        """It holds a file descriptor."""
        super().__init__()
        self._counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._counter)

    def set(self) -> None:
        os.eventfd_write(self._counter, 1)

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        poll = select.poll()
        poll.register(self._counter, select.POLLIN)
        ends = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left_s = ends - time.monotonic()
            if poll.poll(1e3 * max(0.0, min(self.RESTING_S, left_s))):
                return True
            if left_s <= self.RESTING_S:
                return False


def own_process() -> str:
    """This process for `is_alive`: machine (or container), number, and when it began."""
    return f"{_machine()} {os.getpid()} {_began(os.getpid())}"


def holder_name() -> str:
    """This process for people: `HOST:PID`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_alive(process: str) -> bool | None:
    """Whether a process that `own_process` named is there; None where that is not known here."""
    machine, pid, began = process.split(" ")
    try:
        return None if machine != _machine() else _began(int(pid)) == began
    except OSError:  # as where no file can be opened any more
        return None


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def _began(pid: int) -> str:
    """When a process began, in ticks since the boot; empty where it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = content.rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    return ""
