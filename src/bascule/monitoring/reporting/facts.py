"""What the ledger says of a model: health by day, truths and their delay, gaps; and its drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bascule.core import BasculeError
from bascule.monitoring.drift import (
    Effect,
    OpenBundle,
    measure_production_drift,
)
from bascule.monitoring.ledger import Ledger, quoted
from bascule.monitoring.performance import measure_performance
from bascule.monitoring.reporting.overview import DayHealth, Kept, Overview, TruthFacts


def look_at(
    home: Path,
    model: str,
    open_bundle: OpenBundle,
    *,
    now: datetime | None = None,
    since: timedelta = timedelta(days=7),
    budget: float = 4.0,
    effects: Mapping[str, Effect] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Overview:
    """Everything that is known of a model since some time ago.

    Args:
        home: With the ledger.
        model: Its name.
        open_bundle: Opens the bundle of a version.
        now: The time; that of the clock if None.
        since: How far back.
        budget: False alarms of drift a year of each version that are acceptable.
        effects: The least change that matters, by column.
        progress: Called with what begins.

    Raises:
        NotFound: The ledger has no answers of this model.
    """
    moment = now or datetime.now(UTC)
    progress("compares inputs and answers with the training data")
    drift = measure_production_drift(
        home, model, open_bundle, now=moment, since=since, budget=budget, effects=effects
    )
    first, ledger = (moment - since).date(), Ledger(home)
    where = f"p.model = {quoted(model)} AND p.time >= TIMESTAMPTZ '{first} 00:00:00+00'"
    progress("counts requests, errors and truths")
    total, *days = _health(ledger, where)
    truths, performance = _truths(ledger, where), None
    notes: tuple[str, ...] = ()
    if truths.truths:
        progress("compares answers with their truths")
        try:
            performance = measure_performance(
                home, model, bundle_of=open_bundle, since=moment - since, now=moment
            )
        except BasculeError as problem:
            notes = (f"performance is not measured: {problem.message}",)
    return Overview(
        model, first, moment.date(), total, tuple(days), drift, truths, _kept(ledger, where),
        performance, notes,
    )  # fmt: skip


_HEALTH = """
WITH requests AS (
    SELECT id, any_value(time)::DATE AS day, any_value(status) AS status,
        any_value(latency_s) AS latency,
        count(*) / (max(row) + 1) / any_value(kept_share) AS answered
    FROM predictions p WHERE {where} GROUP BY id
), periods AS (
    SELECT * FROM requests UNION ALL SELECT * REPLACE (NULL AS day) FROM requests
), ordered AS (
    SELECT *, sum(answered) OVER (PARTITION BY day ORDER BY latency)
        / sum(answered) OVER (PARTITION BY day) AS rank FROM periods
)
SELECT day, round(sum(answered))::BIGINT AS requests,
    coalesce(round(sum(answered) FILTER (status >= 500)), 0)::BIGINT AS errors,
    coalesce(round(sum(answered) FILTER (status >= 400 AND status < 500)), 0)::BIGINT AS refused,
    coalesce(min(latency) FILTER (rank >= 0.5), max(latency)) AS p50_s,
    coalesce(min(latency) FILTER (rank >= 0.99), max(latency)) AS p99_s
FROM ordered GROUP BY day ORDER BY day NULLS FIRST
"""
"""A request that the ledger kept stands for those that it did not: a busy second is kept at a lower
share. Of a large request some rows are kept, from `max(row)`."""


def _health(ledger: Ledger, where: str) -> list[DayHealth]:
    """The whole period, then each day."""
    found = [DayHealth(**one) for one in ledger.query(_HEALTH.format(where=where)).to_pylist()]
    return found or [DayHealth(None, 0, 0, 0, 0.0, 0.0)]


def _truths(ledger: Ledger, where: str) -> TruthFacts:
    (found,) = ledger.query(
        "SELECT count(*) AS predictions, count(truth_received_at) AS truths, "
        "median(epoch(p.truth_received_at) - epoch(p.time)) AS delay_s FROM newest_predictions p "
        f"WHERE {where} AND p.status < 400"
    ).to_pylist()
    return TruthFacts(**found)


def _kept(ledger: Ledger, where: str) -> Kept:
    (found,) = ledger.query(
        "SELECT count(*) AS kept, sum(1 / kept_share) AS answered FROM predictions p "
        f"WHERE {where} AND kept_share > 0"
    ).to_pylist()
    gaps = ledger.gaps()
    share = found["kept"] / found["answered"] if found["answered"] else 1.0
    return Kept(share, len(gaps), sum(one.requests for one in gaps))
