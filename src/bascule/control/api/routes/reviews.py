"""The routes about reviews: which answers wait for a person, and what a person says is true."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from fastapi import FastAPI, Request

from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import caller_of, serves
from bascule.monitoring.reviews import Review, operations as of_reviews

if TYPE_CHECKING:
    from bascule.monitoring.reviews import ReviewStore


class ReviewAnswer(Taken):
    """What is true of the row."""

    truth: bool | int | float | str


def add_reviews(app: FastAPI, open_reviews: Callable[[], ReviewStore]) -> None:
    """Add the routes to `app`."""

    @serves(app, of_reviews.REVIEWS)
    def reviews(
        model: str, paged: Paged, state: Literal["open", "answered"] = "open"
    ) -> Page[Review]:
        """The reviews of a model, at most 1,000, the oldest prediction first."""
        listed = open_reviews().reviews(model, state)
        return paged.page(listed, lambda review: f"{review.predicted_at.isoformat()} {review.id}")

    @serves(app, of_reviews.ANSWER)
    def answer(model: str, review: str, answer: ReviewAnswer, request: Request) -> Review:
        """Say what is true: it becomes an outcome of the prediction."""
        by, now = caller_of(request).user, datetime.now(UTC)
        return open_reviews().answer(model, review, answer.truth, by=by, now=now)
