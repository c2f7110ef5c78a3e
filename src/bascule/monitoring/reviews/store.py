"""Keeps reviews in the catalogue, and gives what a reviewer says to the outcomes of the home."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, events, put_new
from bascule.core import Conflict, Invalid, NotFound
from bascule.monitoring.ledger import Ledger, OutcomeSpool, quoted, read_outcomes
from bascule.monitoring.reviews.choosing import MOST_CHOSEN, choose, known_since
from bascule.monitoring.reviews.operations import Review
from bascule.monitoring.reviews.rules import ReviewRule
from bascule.monitoring.reviews.schema import reviews

LATE = timedelta(minutes=10)
"""Answers of other hosts, and of the spool, come into a ledger within this time."""
KEPT = timedelta(days=90)
"""Reviews of older answers are deleted, answered or not; what was answered is an outcome."""
_CHUNK = 500


class ReviewStore:
    """The reviews of a catalogue, of answers in the ledger of one home."""

    def __init__(self, catalogue: Catalogue, home: Path) -> None:
        self._catalogue = catalogue
        self._home = home

    def look(self, model: str, rule: ReviewRule, since: datetime, now: datetime) -> datetime:
        """Add the rows answered since then that are chosen; returns since when to look next.

        A row is added once, and stays as it was first chosen. Open reviews whose truth came
        otherwise are deleted, and so are old ones.
        """
        ledger, old = Ledger(self._home), reviews.c.predicted_at < now - KEPT
        known = known_since(ledger, model, since)
        with self._catalogue.read() as connection:
            has_old = connection.scalar(sa.select(sa.exists().where(old)))
        while True:
            chosen = choose(ledger, model, rule, since, now)
            if chosen or known or has_old:  # else no write: it would wake every watch
                with self._catalogue.write() as connection:
                    for review in chosen:
                        content = asdict(review)
                        put_new(connection, reviews, {"id": content.pop("id")}, content)
                    for start in range(0, len(known), _CHUNK):
                        is_known = reviews.c.id.in_(known[start : start + _CHUNK])
                        is_open = reviews.c.state == "open"
                        connection.execute(sa.delete(reviews).where(is_known, is_open))
                    connection.execute(sa.delete(reviews).where(old))
            if len(chosen) < MOST_CHOSEN:
                return now - LATE
            since = chosen[-1].predicted_at

    def reviews(self, model: str, state: str = "open", *, limit: int = 1_000) -> list[Review]:
        """Those of a model, the oldest answer first; outlying ones are not preferred."""
        query = sa.select(reviews).filter_by(model=model, state=state).limit(limit)
        return list(map(_review, self._catalogue.rows(query.order_by("predicted_at", "id"))))

    def recorded(self, model: str, listed: Sequence[Review]) -> list[tuple[dict[str, Any], ...]]:
        """Inputs and outputs by row; without private fields, empty once the ledger lacks it."""
        if not listed:
            return []
        keys = [f"{review.prediction_id}#{review.row}" for review in listed]
        sql = (
            """SELECT *, id || '#' || "row" AS key FROM predictions """
            f"WHERE key IN ({', '.join(map(quoted, keys))}) ORDER BY time"
        )
        times = [review.predicted_at.astimezone(UTC) for review in listed]
        days = str(min(times).date()), str(max(times).date())
        rows: dict[str, dict[str, Any]] = {}
        with suppress(NotFound):
            table = Ledger(self._home).query(sql, model=model, days=days)
            rows = {row["key"]: row for row in table.to_pylist()}
        return [
            tuple(
                {
                    name.removeprefix(kind): value
                    for name, value in rows.get(key, {}).items()
                    if name.startswith(kind) and value is not None
                }
                for kind in ("input.", "output.")
            )
            for key in keys
        ]

    def answer(self, model: str, review: str, truth: object, *, by: str, now: datetime) -> Review:
        """Say what is true of an open row: it becomes an outcome.

        The outcome is on the disk before the review is answered: after a crash between the two, the
        row is open still, and the next answer counts.

        Raises:
            NotFound: The model has no such review.
            Conflict: It was answered otherwise, or its truth came without a review.
            Invalid: It is no truth.
        """
        with self._catalogue.read() as connection:
            row = connection.execute(sa.select(reviews).filter_by(id=review, model=model)).first()
        if row is None:
            raise NotFound(f"{model} has no review {review[:64]!r}", hint="see the page of reviews")
        before = _review(row)
        prediction = f"{before.prediction_id}#{before.row}"
        lines, refused = read_outcomes([{"id": prediction, "truth": truth}])
        if refused:
            hint = "give a number, true, false or a text"
            raise Invalid(refused[0].reason, hint=hint, field="truth")
        (line,) = lines
        if (before.reviewer, before.truth) == (by, line.truth):
            return before
        if self._is_known(before):
            raise Conflict(f"the truth of {prediction} has come otherwise", hint="take another one")
        answered = replace(before, state="answered", reviewer=by, truth=line.truth, answered_at=now)
        is_open = sa.update(reviews).where(reviews.c.id == review, reviews.c.state == "open")
        with self._catalogue.write() as connection:
            if not connection.execute(is_open.values(asdict(answered))).rowcount:
                raise Conflict(f"review {review} is answered", hint="take another one")
            body = {"review": review, "probability": before.probability}
            subject = events.Subject("model", model)
            events.append(connection, events.Event(subject, "reviewed", now, by, "", body))
            with closing(OutcomeSpool(self._home)) as spool:
                reviewed = line._replace(reviewer=by, probability=before.probability)
                spool.append(model, [[reviewed]])
        return answered

    def _is_known(self, review: Review) -> bool:
        """Whether the truth came without a review."""
        outcomes = Ledger(self._home).query(
            f"SELECT 1 FROM outcomes WHERE id = {quoted(review.prediction_id)} "
            f'AND "row" = {review.row} AND probability IS NULL LIMIT 1'
        )
        return bool(outcomes.num_rows)


def _review(row: sa.Row[Any]) -> Review:
    return Review(**{field.name: row._mapping[field.name] for field in fields(Review)})
