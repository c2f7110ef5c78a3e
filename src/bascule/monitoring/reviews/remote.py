"""The reviews over the control API of a server; see `store.ReviewStore` for the methods."""

from __future__ import annotations

from datetime import datetime

from bascule.monitoring.reviews.operations import ANSWER, REVIEWS, Review
from bascule.operations import Remote


class RemoteReviews(Remote):
    """What commands do with reviews, at a server, whose clock counts."""

    def reviews(self, model: str, state: str = "open") -> list[Review]:
        return self.items(REVIEWS, model=model, state=state)

    def answer(
        self, model: str, review: str, truth: object, *, by: str, now: datetime  # noqa: ARG002
    ) -> Review:  # fmt: skip
        return self.ask(ANSWER, {"truth": truth}, by=by, model=model, review=review)
