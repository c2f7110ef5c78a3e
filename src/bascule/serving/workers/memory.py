"""Which models stay in memory. Pure, but for the reading of how much is used.

A worker may be told how much memory its models may take. What does not fit is not refused: the
models that nobody has asked for the longest make room, and are loaded again when somebody asks.
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
        name: Whatever it is known by.
        size_bytes: What it takes.
        last_used_s: When it was last asked, by any clock.
        is_busy: Whether calls of it wait or run: it cannot go now.
    """

    name: Name
    size_bytes: int
    last_used_s: float
    is_busy: bool


def choose_evicted(
    residents: Sequence[Resident[Name]], needed_bytes: int, budget_bytes: int
) -> list[Name] | None:
    """Who makes room for `needed_bytes` more: those that were not asked for the longest.

    Returns:
        Their names, none where there is room; None where even all that are idle are not enough.
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
