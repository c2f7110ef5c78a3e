"""What endpoints answered in the last 24 hours, by the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bascule.monitoring.ledger import Ledger

HOURS = 24
_QUERY = """
WITH requests AS (
    SELECT endpoint, id, {now}::TIMESTAMPTZ - any_value(time) AS age,
        any_value(status) >= 500 AS has_failed, any_value(latency_s) AS latency_s,
        count(*) / (max(row) + 1) / any_value(kept_share) AS answered
    FROM predictions
    WHERE time > {since}::TIMESTAMPTZ AND time <= {now}::TIMESTAMPTZ
        AND endpoint <> '' AND coalesce(arm, '') <> 'shadow' AND kept_share > 0
    GROUP BY endpoint, id
), ordered AS (
    SELECT *, sum(answered) OVER (PARTITION BY endpoint ORDER BY latency_s)
        / sum(answered) OVER (PARTITION BY endpoint) AS rank FROM requests
)
SELECT endpoint, floor(epoch(age) / 3600)::INTEGER AS hours_ago,
    round(sum(answered))::BIGINT AS requests,
    coalesce(round(sum(answered) FILTER (has_failed)), 0)::BIGINT AS errors,
    min(latency_s) FILTER (rank >= 0.99) AS p99_s
FROM ordered GROUP BY endpoint, hours_ago
"""
"""A request that the ledger kept stands for those that it did not; as in the report of a model."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an endpoint answered in the last 24 hours, shadows aside.

    Attributes:
        requests: By hour; the last one is the last 60 minutes.
        errors: Of these, with a status of 500 or more.
        p99_s: The 99th percentile of the latency of all, in seconds.
    """

    requests: tuple[int, ...]
    errors: tuple[int, ...]
    p99_s: float


def traffic_by_endpoint(ledger: Ledger, now: datetime) -> dict[str, Traffic]:
    """The traffic of each endpoint that answered. Raises as `Ledger.ask` does."""
    since = now - timedelta(hours=HOURS)
    sql = _QUERY.format(since=f"'{since.isoformat()}'", now=f"'{now.isoformat()}'")
    days = since.date().isoformat(), now.date().isoformat()
    rows = ledger.ask(
        lambda connection: connection.sql(sql).to_arrow_table().to_pylist(),
        days=days, is_ours=True,
    )  # fmt: skip
    hours: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        hours.setdefault(row["endpoint"], {})[HOURS - 1 - row["hours_ago"]] = row
    return {endpoint: _traffic(found) for endpoint, found in hours.items()}


def _traffic(hours: dict[int, dict[str, Any]]) -> Traffic:
    requests, errors = (
        tuple(int(hours[at][name]) if at in hours else 0 for at in range(HOURS))
        for name in ("requests", "errors")
    )
    p99s_s = [row["p99_s"] for row in hours.values() if row["p99_s"] is not None]
    return Traffic(requests, errors, min(p99s_s))
