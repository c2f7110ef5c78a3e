"""What the control API does with people: erasures, and exports of what is held about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.jobs import Job
from bascule.operations import Operation


@dataclass(frozen=True, slots=True)
class HeldPlaces:
    """Where data of a person is: `place`, `rows`, `outcomes` and `files` of each."""

    places: Sequence[Mapping[str, Any]]


# Of which model is in the body: asked then.
ERASE = Operation("POST erasures", "erase", "", Job, status=201, history="erasure_requested")
FIND_SUBJECT = Operation("POST subjects/find", "erase", "", HeldPlaces, is_once=True)
EXPORT_SUBJECT = Operation("POST subjects/export", "private", "", bytes, is_once=True)
