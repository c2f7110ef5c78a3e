"""Tells processes of this machine apart, so that a holder that has died is known at once."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path


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
