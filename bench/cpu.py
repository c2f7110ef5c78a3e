"""What a server costs, counted by the kernel over its whole process tree.

CPU-seconds per request are the robust figure on a machine whose clock drifts: they do not depend
on how fast the load tool is, and a server that spreads its work over helper processes pays for
all of them.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_QUIET_S = 0.5
_QUIET_SHARE = 0.04
# Positions after the command name, which may itself hold spaces and brackets (see proc(5)).
_PPID, _UTIME, _STIME, _CUTIME, _CSTIME = 1, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class Process:
    """One line of `/proc/PID/stat`: its parent, and the CPU time of it and its reaped children."""

    pid: int
    parent: int
    own_ticks: int
    reaped_ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MB; `proportional` shares out the pages that processes have in common."""

    resident: float
    proportional: float


def parse_stat(text: str) -> Process:
    """Parse the content of `/proc/PID/stat`."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=int(head.partition("(")[0]),
        parent=int(fields[_PPID]),
        own_ticks=int(fields[_UTIME]) + int(fields[_STIME]),
        reaped_ticks=int(fields[_CUTIME]) + int(fields[_CSTIME]),
    )


def members(root: int, processes: list[Process]) -> list[Process]:
    """`root` and everything that descends from it; empty when `root` is gone."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    found = [process for process in processes if process.pid == root]
    for process in found:  # grows while it is walked
        found += children.get(process.pid, [])
    return found


def tree(root: int) -> list[Process]:
    """The living process tree below and including `root`."""
    processes = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                processes.append(parse_stat((folder / "stat").read_text()))
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
    return members(root, processes)


def cpu_seconds(processes: list[Process]) -> float:
    """User and system time of these processes, and of the children that they have reaped."""
    return sum(one.own_ticks + one.reaped_ticks for one in processes) / TICKS_PER_SECOND


def wait_until_idle(root: int, at_most_s: float = 20.0) -> None:
    """Wait until the tree below `root` has spent next to no CPU for half a second.

    A server may answer while it still starts: that cost belongs to no request. A server that polls
    is never idle, and is measured after `at_most_s`.
    """
    give_up_at = time.monotonic() + at_most_s
    spent = cpu_seconds(tree(root))
    while time.monotonic() < give_up_at:
        time.sleep(_QUIET_S)
        before, spent = spent, cpu_seconds(tree(root))
        if spent - before <= _QUIET_S * _QUIET_SHARE:
            return


def busiest(before: list[Process], after: list[Process]) -> int:
    """The process that worked most in between: the worker, whatever the server calls it."""
    then = {process.pid: process.own_ticks for process in before}
    return max(after, key=lambda process: process.own_ticks - then.get(process.pid, 0)).pid


def memory(pid: int) -> Memory:
    """The memory of one living process."""
    kilobytes = {
        name: int(value.split()[0])
        for name, _, value in (
            line.partition(":")
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
        )
    }
    return Memory(kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6)
