"""What the control API does with outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

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
