"""Counts outcomes by the time of their predictions: what rollouts compare.

The unit is a request. A request of several rows has one arm and often one cause of error, so it
counts once, with the mean of its rows; its rows without a truth count by their share. Where a
request has a sticky key, the unit is that of its key: the first request of a stage counts, and no
other one (see `release.rollouts.keys`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bascule.endpoints import KEY_UNITS
from bascule.monitoring.ledger.query import DRAW_BITS, DRAW_DIGITS, Ledger, quoted

_DIGITS = 6
"""Of sums, so that the same rows in another order make the same sums."""
_COUNTED = """
WITH answered AS (
    SELECT id, time, unit, truth_received_at IS NOT NULL AS is_known, {columns}
    FROM newest_predictions
    WHERE endpoint = {endpoint} AND arm = {arm} AND status BETWEEN 200 AND 299
        AND time >= TIMESTAMPTZ '{first}' AND time < TIMESTAMPTZ '{last}' {sampled}
), requests AS (
    SELECT id, min(time) AS time, min(unit) AS unit,
        avg(CAST(NOT is_known AS INT)) AS unknown, {means}
    FROM answered GROUP BY id
), counted AS (
    SELECT * FROM requests ASOF JOIN (VALUES {spans}) AS spans(number, start, low, high)
        ON requests.time >= spans.start
    WHERE unit IS NULL OR unit >= low AND unit < high
    QUALIFY unit IS NULL
        OR row_number() OVER (PARTITION BY unit, low, high ORDER BY time, id) = 1
)
SELECT number, unit IS NOT NULL AS of_keys, count(*) AS predictions, sum(unknown) AS unknown, {sums}
FROM counted GROUP BY number, of_keys ORDER BY number, of_keys
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time whose predictions make a cohort.

    Attributes:
        number: Of the span.
        start: When it begins.
        end: When it is over.
        units: Of keys, those that count: the first one, and the one after the last. Each counts
            once in all spans of the same units.
    """

    number: int
    start: datetime
    end: datetime
    units: tuple[int, int] = (0, KEY_UNITS)


@dataclass(frozen=True, slots=True)
class CohortCount:
    """The predictions of one arm in one span, with the newest truths about them.

    Attributes:
        number: Of the span.
        predictions: Requests.
        unknown: Of them, those without a truth.
        losses: The sum of the known losses, by loss.
        is_of_keys: Whether they are first requests of units of keys, which are counted apart.
    """

    number: int
    predictions: int
    unknown: float
    losses: tuple[float, ...]
    is_of_keys: bool = False


def count_cohorts(
    ledger: Ledger, *, model: str, endpoint: str, arm: str, spans: Sequence[Span],
    losses: Sequence[str], sample: float = 1.0,
) -> list[CohortCount]:  # fmt: skip
    """Count the predictions of an arm, and what is known of them now.

    Args:
        ledger: With its outcomes.
        model: That answered in this arm.
        endpoint: That was asked.
        arm: Its name.
        spans: In the order of time, without gaps.
        losses: What each prediction lost, from 0 to 1: expressions over a row of
            `newest_predictions`, which are read where there is a truth.
        sample: The share of ids that get outcomes, by `outcome_draw`.

    Raises:
        Invalid: The ledger lacks a column that a loss names.
    """
    if not spans:
        return []
    numbered = list(enumerate(losses))
    first, last = spans[0].start.astimezone(UTC), spans[-1].end.astimezone(UTC)
    sql = _COUNTED.format(
        endpoint=quoted(endpoint), arm=quoted(arm), first=first.isoformat(), last=last.isoformat(),
        columns=", ".join(
            f"CASE WHEN truth_received_at IS NULL THEN 0 ELSE CAST({loss} AS DOUBLE) END AS l{n}"
            for n, loss in numbered
        ),
        means=", ".join(f"avg(l{n}) AS l{n}" for n, _ in numbered),
        sums=", ".join(f"sum(l{n}) AS l{n}" for n, _ in numbered),
        sampled=f"AND outcome_draw(id) < {sample!r}" if sample < 1 else "",
        spans=", ".join(
            f"({span.number}, TIMESTAMPTZ '{span.start.astimezone(UTC).isoformat()}', "
            f"{span.units[0]}, {span.units[1]})"
            for span in spans
        ),
    )  # fmt: skip
    rows = ledger.query(sql, model=model, days=(str(first.date()), str(last.date()))).to_pylist()
    return [
        CohortCount(
            row["number"], row["predictions"], round(row["unknown"], _DIGITS),
            tuple(round(row[f"l{n}"], _DIGITS) for n, _ in numbered), row["of_keys"],
        )
        for row in rows
    ]  # fmt: skip


def outcome_draw(prediction_id: str) -> float:
    """A number from 0 to below 1 that depends on the id alone, as `outcome_draw` of SQL has it.

    The ids below a rollout's `outcomes_sample` are those whose outcomes it waits for: the first
    52 bits of the SHA-256 of the id.
    """
    digits = hashlib.sha256(prediction_id.encode()).hexdigest()[:DRAW_DIGITS]
    return int(digits, 16) / 2.0**DRAW_BITS
