"""What the control API does with reviews."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bascule.operations import Listing, Operation


@dataclass(frozen=True, slots=True)
class Review:
    """One answered row that a person is asked about.

    Attributes:
        id: Of the review.
        model: Of the answer, as its version.
        version: See `model`.
        prediction_id: Of the request.
        row: Of the request, from 0.
        predicted_at: When it was answered.
        reason: Why it was chosen: `outlying`, `uncertain`, or `sample`.
        probability: With which rows like it are chosen; measures weigh it by the reciprocal.
        state: `open` or `answered`.
        reviewer: Who has answered it.
        truth: The answer, as text.
        answered_at: When.
    """

    id: str
    model: str
    version: str
    prediction_id: str
    row: int
    predicted_at: datetime
    reason: Literal["outlying", "uncertain", "sample"]
    probability: float
    state: Literal["open", "answered"] = "open"
    reviewer: str | None = None
    truth: str | None = None
    answered_at: datetime | None = None


REVIEWS = Listing("GET models/{model}/reviews", "review", "{model}", Review, "reviews")
ANSWER = Operation(
    "POST models/{model}/reviews/{review}/answer", "review", "{model}", Review, "reviews",
    history="reviewed", is_once=True,
)  # fmt: skip
