"""Keeps reviews in the catalogue, and gives what a reviewer says to the outcomes of the home."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, events, put, put_new
from bascule.core import Conflict, Invalid, NotFound
from bascule.monitoring.ledger import Ledger, OutcomeSpool, quoted, read_outcomes
from bascule.monitoring.reviews.choosing import Look
from bascule.monitoring.reviews.operations import Review
from bascule.monitoring.reviews.rules import ReviewRule
from bascule.monitoring.reviews.schema import review_marks, reviews

LATE = timedelta(minutes=10)
"""Answers of other hosts, and of the spool, come into a ledger within this time."""
FIRST_LOOK = timedelta(days=1)
KEPT = timedelta(days=90)
"""Reviews of older answers are deleted, answered or not; what was answered is an outcome."""
_CHUNK = 500


class ReviewStore:
    """The reviews of a catalogue, of answers in the ledger of one home."""

    def __init__(self, catalogue: Catalogue, home: Path) -> None:
        self._catalogue = catalogue
        self._home = home

    def look(
        self, model: str, place: str, now: datetime, choose: Callable[[datetime, datetime], Look]
    ) -> int:
        """Add what is chosen since the last look in this place; returns how many were chosen.

        A row is added once, and stays as it was first chosen.
        """
        key = {"model": model, "place": place}
        with self._catalogue.read() as connection:
            mark = connection.scalar(sa.select(review_marks.c.until).filter_by(**key))
        since, count = now - FIRST_LOOK if mark is None else mark - LATE, 0
        while since < now:
            chosen, known, until = choose(since, now)
            count, since = count + len(chosen), until if chosen else now
            if not (chosen or known) and mark is not None and until - mark < LATE:
                break  # without a write, which would wake every watch
            with self._catalogue.write() as connection:
                for review in chosen:
                    content = asdict(review)
                    put_new(connection, reviews, {"id": content.pop("id")}, content)
                for start in range(0, len(known), _CHUNK):
                    is_known = reviews.c.id.in_(known[start : start + _CHUNK])
                    connection.execute(_open(is_known).values(state="closed"))
                put(connection, review_marks, key, {"until": until})
                connection.execute(sa.delete(reviews).where(reviews.c.predicted_at < now - KEPT))
        return count

    def reviews(self, model: str, state: str = "open", *, limit: int = 1_000) -> list[Review]:
        """Those of a model, the oldest answer first; outlying ones are not preferred."""
        query = sa.select(reviews).filter_by(model=model, state=state).limit(limit)
        return list(map(_review, self._catalogue.rows(query.order_by("predicted_at", "id"))))

    def recorded(self, model: str, listed: Sequence[Review]) -> list[tuple[dict[str, Any], ...]]:
        """Inputs and outputs by row; without private fields, empty once the ledger lacks it."""
        if not listed:
            return []
        keys = ", ".join(quoted(f"{review.prediction_id}#{review.row}") for review in listed)
        sql = f"""SELECT * FROM predictions WHERE id || '#' || "row" IN ({keys}) ORDER BY time"""
        times = [review.predicted_at.astimezone(UTC) for review in listed]
        days = str(min(times).date()), str(max(times).date())
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        with suppress(NotFound):
            for row in Ledger(self._home).query(sql, model=model, days=days).to_pylist():
                rows[row["id"], row["row"]] = row
        return [
            tuple(
                {
                    name.removeprefix(kind): value
                    for name, value in rows.get((review.prediction_id, review.row), {}).items()
                    if name.startswith(kind) and value is not None
                }
                for kind in ("input.", "output.")
            )
            for review in listed
        ]

    def claim(
        self, model: str, review: str, *, by: str, now: datetime, rule: ReviewRule | None = None
    ) -> Review:
        """Have a row for oneself for a time; again for longer.

        Raises:
            NotFound: The model has no such review.
            Conflict: Another reviewer has it, or it is answered or closed.
        """
        until = now + timedelta(minutes=(rule or ReviewRule()).claim_min)
        with self._catalogue.write() as connection:
            self._take(connection, model, review, by, now, claimed_by=by, claimed_until=until)
            return _find(connection, model, review)

    def answer(self, model: str, review: str, truth: object, *, by: str, now: datetime) -> Review:
        """Say what is true of a row that no other reviewer has: it becomes an outcome.

        The outcome is on the disk before the review is answered: after a crash between the two, the
        row is open still, and the next answer counts. A review whose truth came otherwise is
        closed, and this answer is not kept.

        Raises:
            NotFound: The model has no such review.
            Conflict: Another reviewer has it, or it was answered otherwise.
            Invalid: It is no truth.
        """
        with self._catalogue.read() as connection:
            said = _find(connection, model, review)
        lines, refused = read_outcomes([{"id": f"{said.prediction_id}#{said.row}", "truth": truth}])
        if refused:
            raise Invalid(
                refused[0].reason, hint="give a number, true, false or a text", field="truth"
            )
        (line,) = lines
        if said.state == "answered" and (said.claimed_by, said.truth) == (by, line.truth):
            return said
        is_known = said.state == "open" and self._is_known(said)
        with self._catalogue.write() as connection:
            if is_known:
                connection.execute(_open(reviews.c.id == review).values(state="closed"))
                return _find(connection, model, review)
            self._take(
                connection, model, review, by, now,
                claimed_by=by, state="answered", truth=line.truth, answered_at=now,
            )  # fmt: skip
            body = {"review": review, "probability": said.probability}
            subject = events.Subject("model", model)
            events.append(connection, events.Event(subject, "reviewed", now, by, "", body))
            with closing(OutcomeSpool(self._home)) as spool:
                reviewed = line._replace(reviewer=by, probability=said.probability)
                spool.append(model, [[reviewed]])
            return _find(connection, model, review)

    def _is_known(self, review: Review) -> bool:
        """Whether the truth came without a review."""
        found = Ledger(self._home).query(
            f"SELECT 1 FROM outcomes WHERE id = {quoted(review.prediction_id)} "
            f'AND "row" = {review.row} AND probability IS NULL LIMIT 1'
        )
        return bool(found.num_rows)

    def _take(
        self, connection: sa.Connection, model: str, review: str, by: str, now: datetime,
        **values: Any,
    ) -> None:  # fmt: skip
        """Change an open review that no other reviewer has; of two at once, one does."""
        until = reviews.c.claimed_until
        is_free = sa.or_(until.is_(None), until <= now, reviews.c.claimed_by == by)
        change = _open(sa.and_(reviews.c.id == review, reviews.c.model == model, is_free))
        if not connection.execute(change.values(**values)).rowcount:
            there = _find(connection, model, review)
            said = f"{there.claimed_by} has it" if there.state == "open" else f"it is {there.state}"
            raise Conflict(f"review {review}: {said}", hint="take another one")


def _open(condition: Any) -> sa.Update:
    return sa.update(reviews).where(condition, reviews.c.state == "open")


def _find(connection: sa.Connection, model: str, review: str) -> Review:
    row = connection.execute(sa.select(reviews).filter_by(id=review, model=model)).one_or_none()
    if row is None:
        raise NotFound(f"{model} has no review {review[:64]!r}", hint="bascule review list MODEL")
    return _review(row)


def _review(row: sa.Row[Any]) -> Review:
    return Review(**{field.name: row._mapping[field.name] for field in fields(Review)})
