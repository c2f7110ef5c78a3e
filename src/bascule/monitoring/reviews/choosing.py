"""Chooses answered rows for review, each with a probability that is known exactly.

Outlying and uncertain rows are chosen at one rate and all others at a lower one, which is not 0:
so that a measure of the reviewed rows, each weighed by the reciprocal of its probability, is one of
all rows (Horvitz and Thompson 1952). Whether a row is chosen depends on a hash of its id alone, so
several processes choose the same rows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

from bascule.core import NotFound
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.reviews.operations import Review
from bascule.monitoring.reviews.rules import ReviewRule

MOST_CHOSEN = 5_000
"""At once: more than the ledger keeps of one request, whose rows have one time."""


def review_id(model: str, prediction_id: str, row: int) -> str:
    """The same for the same row, whichever process chooses it."""
    return sha256(f"{model}/{prediction_id}#{row}".encode()).hexdigest()[:16]


def choose(
    ledger: Ledger, model: str, rule: ReviewRule, since: datetime, until: datetime
) -> list[Review]:
    """The rows answered from `since` to `until` that are chosen, `MOST_CHOSEN` at most.

    The oldest answer is first. A row whose truth is there already is not chosen.
    """
    days = str(since.astimezone(UTC).date()), str(until.astimezone(UTC).date())
    try:
        sql = "SELECT * FROM predictions LIMIT 0"
        columns = ledger.query(sql, model=model, days=days).column_names
        sql = _chosen_sql(model, rule, columns, since, until)
        rows = ledger.query(sql, model=model, days=days).to_pylist()
    except NotFound:
        return []
    return [
        Review(
            review_id(model, row["id"], row["row"]), model, row["version"], row["id"], row["row"],
            row["time"], row["reason"], row["chance"],
        )
        for row in rows
    ]  # fmt: skip


def known_since(ledger: Ledger, model: str, since: datetime) -> list[str]:
    """Ids of reviews of the rows whose truth came without a review since then."""
    sql = (
        'SELECT id, "row" FROM outcome_history WHERE probability IS NULL '
        f"AND received_at > TIMESTAMPTZ {quoted(since.isoformat())}"
    )
    rows = ledger.query(sql).to_pylist()
    return [review_id(model, row["id"], row["row"]) for row in rows]


def _chosen_sql(
    model: str, rule: ReviewRule, columns: list[str], since: datetime, until: datetime
) -> str:
    low, high = rule.score_band
    conditions = {
        "output.outlier_p": f'"output.outlier_p" <= {rule.outlier_p!r}',
        "output.probabilities": (
            f'list_max(CAST("output.probabilities" AS DOUBLE[])) BETWEEN {low!r} AND {high!r}'
        ),
        "output.prediction_set": (
            f'list_sum(CAST(CAST("output.prediction_set" AS BOOLEAN[]) AS INT[])) > {rule.set_size}'
        ),
    }
    outlying, score, size = (
        f"coalesce({sql}, false)" if name in columns else "false"
        for name, sql in conditions.items()
    )
    return f"""
SELECT * FROM (
    SELECT id, "row", version, time, reason,
        CASE reason WHEN 'sample' THEN {rule.base_rate!r} ELSE {rule.rate!r} END::DOUBLE AS chance
    FROM (
        SELECT *, CASE WHEN {outlying} THEN 'outlying' WHEN {score} OR {size} THEN 'uncertain'
            ELSE 'sample' END AS reason
        FROM predictions AS answered
        WHERE model = {quoted(model)} AND id <> '' AND status BETWEEN 200 AND 299
            AND NOT EXISTS (
                SELECT 1 FROM outcome_history AS told WHERE told.id = answered.id
                AND told."row" = answered."row" AND told.model IN (endpoint, answered.model)
            )
            AND time >= TIMESTAMPTZ {quoted(since.isoformat())}
            AND time <= TIMESTAMPTZ {quoted(until.isoformat())}
    )
)
WHERE outcome_draw({quoted(f"review:{rule.seed}:")} || id || '#' || "row") < chance
ORDER BY time, id, "row" LIMIT {MOST_CHOSEN}
"""
