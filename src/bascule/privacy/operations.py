"""What the control API does with people: erasures, and exports of what is held about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bascule.jobs import Job
from bascule.operations import Listing, Operation
from bascule.security import ANY


@dataclass(frozen=True, slots=True)
class ErasureShown:
    """An erasure, without the person's value.

    Attributes:
        id: Of its job.
        field: Which field names the person.
        model: Of which model; `*` for all.
        state: That of its job.
        by: Who has asked.
        created_at: When.
        result: The proof, once it is done; of a trial, what would be erased.
    """

    id: str
    field: str
    model: str
    state: str
    by: str
    created_at: datetime
    result: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, job: Job) -> ErasureShown:
        asked = job.input
        return cls(
            job.id, asked["field"], asked["model"], job.state, job.by, job.created_at, job.result
        )


@dataclass(frozen=True, slots=True)
class HeldPlaces:
    """Where data of a person is: `place`, `rows`, `outcomes` and `files` of each."""

    places: Sequence[Mapping[str, Any]]


# Of which model is in the body: asked then.
ERASE = Operation(
    "POST erasures", "erase", "", ErasureShown, status=201, history="erasure_requested"
)
ERASURES = Listing("GET erasures", "erase", ANY, ErasureShown)
ERASURE = Operation("GET erasures/{erasure}", "erase", ANY, ErasureShown)
FIND_SUBJECT = Operation("POST subjects/find", "erase", "", HeldPlaces, is_once=True)
EXPORT_SUBJECT = Operation("POST subjects/export", "private", "", bytes, is_once=True)
