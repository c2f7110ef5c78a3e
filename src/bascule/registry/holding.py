"""When a bundle's files may go. Pure: takes holds and marks, and does no I/O.

Removal has two phases. Unused bundles are *marked*; those still unused after the grace period are
*removed*. A process that starts to use a bundle (a push, a server) takes a hold under the same
lock, which removes the mark; so a bundle that came into use in between is never removed, and a
reader that resolved its path before the mark has the grace period to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from bascule.registry.versions import Alias, Version

State = Literal["kept", "marked", "removing"]

REMOVAL_LIMIT = timedelta(minutes=10)
"""How long a removal may take; after that its process is presumed dead."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One use of a bundle, until `until` unless renewed."""

    digest: str
    holder: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Marked:
    """How far the removal of a bundle has come, and since when."""

    state: State
    since: datetime


@dataclass(frozen=True, slots=True)
class Garbage:
    """An unused bundle, and the state of its files.

    Attributes:
        digest: The bundle's.
        reason: Why they are unused.
        size_bytes: What they take.
        state: `marked` (removed once the grace period is over), or `removed`.
        since: When it was marked.
    """

    digest: str
    reason: str
    size_bytes: int
    state: Literal["marked", "removed"]
    since: datetime


def why_unneeded(
    versions: Sequence[Version],
    aliases: Iterable[Alias],
    holds: Iterable[Hold],
    *,
    now: datetime,
) -> str | None:
    """Why a bundle's files may be removed; None if they are in use.

    Args:
        versions: Those that have the bundle's digest.
        aliases: Of their models.
        holds: On the digest.
        now: The time.
    """
    if any(hold.until > now for hold in holds):
        return None
    pointed_to = {(alias.model, alias.number) for alias in aliases}
    for version in versions:
        if version.retired is None or (version.model, version.number) in pointed_to:
            return None
    if not versions:
        return "no version has it: a push that did not end"
    retired = max(versions, key=lambda version: version.number)
    assert retired.retired is not None
    return f"{retired} was retired: {retired.retired.reason}"


def next_mark(marked: Marked, *, grace: timedelta, now: datetime) -> Marked:
    """The next step of removing an unused bundle; the same state while it has to wait."""
    if marked.state == "kept":
        marked = Marked("marked", now)
    if marked.state == "marked" and now - marked.since >= grace:
        return Marked("removing", now)
    if marked.state == "removing" and is_abandoned(marked, now=now):
        return Marked("removing", now)
    return marked


def is_abandoned(marked: Marked, *, now: datetime) -> bool:
    """Whether a removal has taken so long that its process is presumed dead."""
    return marked.state == "removing" and now - marked.since >= REMOVAL_LIMIT
