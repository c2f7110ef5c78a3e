"""A kind of job: what it does, who may submit it, what its process may take.

Kinds are above this room, one file each; a table of their names is given to what needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bascule.core import Limits, NotFound, load_named
from bascule.security import ANY, Action

HOUR = timedelta(hours=1)


def half_of_memory() -> int:
    """Bytes that a child may take so that the server beside it stays."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _as_it_is(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return content


def _anywhere(_content: Mapping[str, Any], _places: Sequence[str], _folder: str) -> None:
    """An input that names no place."""


def _model(content: Mapping[str, Any]) -> str:
    return str(content.get("model") or ANY)


_HALF_AN_HOUR = Limits(1_800.0, memory_bytes=half_of_memory(), is_nice=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind.

    Attributes:
        name: As callers write it.
        run: Does it, in a process of its own: the settings, the task, and what it tells meanwhile;
            gives a result of JSON. See `Task` and `Live`.
        parse: The input that is kept, from that of a caller; raises `Invalid`.
        confine: Raises `Refused` where an input leads out of the places of the settings; its
            paths are relative to a folder.
        right: What a caller must be allowed, of the model that `model_of` finds in the input.
        model_of: See `right`; `*` for all models.
        limits: Of the process; `within` makes them.
        places: How many run at once in one control process.
        can_resume: Whether another process goes on where one ended, rather than begin anew.
        retries: How often it is started again by itself after its process died.
        kept: How long it is kept after its end; None for ever, or until its subject is done again.
        is_open: Whether callers of the API may submit it, and schedules run it.
        pause_s: Of work that waits for another server, on a thread of the control process: `run`
            makes its `Child`. What was refused for now is tried again, as often as `retries`,
            after pauses that grow to this. 0 for work in a process of its own.
        is_private: Whether its owner alone sees it: its input or result has rows of people.
        logger: What it logs with.
    """

    name: str
    run: Callable[[Any, Any, Any], Any]
    parse: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _as_it_is
    confine: Callable[[Mapping[str, Any], Sequence[str], str], None] = _anywhere
    right: Action = "manage"
    model_of: Callable[[Mapping[str, Any]], str] = _model
    limits: Limits = _HALF_AN_HOUR
    places: int = 2
    can_resume: bool = False
    retries: int = 0
    kept: timedelta | None = HOUR
    is_open: bool = False
    pause_s: float = 0.0
    is_private: bool = False
    logger: str = "bascule.jobs"


@dataclass(frozen=True, slots=True)
class Kinds:
    """A table of kinds: by name, `module:attribute`. A line adds a kind."""

    places: Mapping[str, str]

    def __getitem__(self, name: str) -> Kind:
        """Raises `NotFound`."""
        if name not in self.places:
            raise NotFound(
                f"there is no kind of job {name!r}", hint=f"kinds are {', '.join(self.places)}"
            )
        kind: Kind = load_named(self.places[name])
        return kind
