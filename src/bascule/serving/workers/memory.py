"""Which models stay in memory. Pure, but for the reading of how much is used.

`serving.memory_budget_mb` bounds the memory of a worker's models. A model that does not fit is not
refused: the models with the oldest last request are unloaded, and loaded again at the next request.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Resident(NamedTuple, Generic[Name]):
    """A model in memory.

    Attributes:
        name: Identifies it, of any type.
        size_bytes: What it takes.
        last_used_s: When its last request came, by any clock.
        is_busy: Whether its calls wait or run: it cannot be unloaded now.
    """

    name: Name
    size_bytes: int
    last_used_s: float
    is_busy: bool


def choose_evicted(
    residents: Sequence[Resident[Name]], needed_bytes: int, budget_bytes: int
) -> list[Name] | None:
    """The models to unload for `needed_bytes` more: those with the oldest last request first.

    Returns:
        Their names, empty if there is room; None if unloading all idle models is not enough.
    """
    over_bytes = sum(one.size_bytes for one in residents) + needed_bytes - budget_bytes
    evicted: list[Name] = []
    for one in sorted(residents, key=lambda one: one.last_used_s):
        if over_bytes <= 0:
            break
        if not one.is_busy:
            evicted.append(one.name)
            over_bytes -= one.size_bytes
    return evicted if over_bytes <= 0 else None


def resident_bytes(pid: int | None = None) -> int:
    """What a process (None: this one) has in memory; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/statm").read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
