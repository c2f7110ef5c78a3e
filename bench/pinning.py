"""Servers on one core, load on another: neither steals from the other, and runs compare."""

from __future__ import annotations

import os


def two_cores() -> tuple[int, int]:
    """One core for the servers and one for the load; the same one where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def on_core(core: int, command: list[str]) -> list[str]:
    """`command`, confined to `core` with all that it starts (taskset is part of every Linux)."""
    return ["taskset", "--cpu-list", str(core), *command]
