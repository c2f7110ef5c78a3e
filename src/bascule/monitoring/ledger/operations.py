"""What the control API does with outcomes and usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from bascule.monitoring.ledger.outcome_lines import Refused
from bascule.operations import Listing, Operation


@dataclass(frozen=True, slots=True)
class Added:
    """What became of the outcomes of a request.

    Attributes:
        taken: How many were kept.
        refused: Those that were not.
    """

    taken: int
    refused: Sequence[Refused]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The truth that counts about one row of a prediction."""

    id: str
    row: int
    truth: str
    truth_number: float | None
    time: datetime
    received_at: datetime


@dataclass(frozen=True, slots=True)
class CallerCount:
    """One caller of a version.

    Attributes:
        caller: The id of its key, or its name where it was looked up; empty without keys.
        requests: How many of its requests the ledger has.
        last: The time of the last one.
    """

    caller: str
    requests: int
    last: datetime


_PATH = "models/{model}/outcomes"
OUTCOMES = Listing(f"GET {_PATH}", "outcome", "{model}", Outcome, "outcomes")
ADD_OUTCOMES = Operation(
    f"POST {_PATH}", "outcome", "{model}", Added, "outcomes", max_body_bytes=32 << 20
)


By = Literal["caller", "model", "project"]


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The usage of a caller, model or project.

    Attributes:
        id: Of the caller's key, or the name of the model or project; empty for callers without a
            key, and for models without a project.
        name: The same for people: the name of the key.
        day: The UTC day; null for all of them.
        requests: Those that were answered, also with an error.
        rows: Rows that were answered without an error.
        refused: Requests that were answered with a status from 400 to 499.
        errors: Requests that were answered with a status of 500 or more.
        server_s: The sum over requests of the time from the last byte to the answer, in seconds; it
            includes waiting for the answers of others.
        cost: In the currency; null where no price is set.
    """

    id: str
    name: str
    day: date | None
    requests: int
    rows: int
    refused: int
    errors: int
    server_s: float
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of the UTC days from `since` to `until`, both included.

    Attributes:
        by: What a line is of.
        currency: Of costs; empty where no price is set.
        total: Of all requests, each once; null where usage is not known.
        lines: Of all days, the most requests first. A model of two projects is in both.
        days: By day; a day without requests has no line.
        notes: What is not in these figures.
    """

    by: By
    since: date
    until: date
    currency: str
    total: UsageLine | None
    lines: Sequence[UsageLine]
    days: Sequence[UsageLine]
    notes: Sequence[str]


# Of the models that the caller may read: asked then.
USAGE = Operation("GET usage", "read", "", Usage, "monitoring")
EXPORT_USAGE = Operation("GET usage/export", "read", "", bytes, "monitoring")
