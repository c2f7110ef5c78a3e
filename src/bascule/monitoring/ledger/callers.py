"""Which callers a version has: asked before it ends."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from bascule.core import BasculeError
from bascule.monitoring.ledger.operations import CallerCount
from bascule.monitoring.ledger.query import Ledger


def callers_of(home: Path, model: str, version: str, since: datetime) -> list[CallerCount] | None:
    """The callers of a version since a time, the busiest first; None where no rows are kept."""
    try:
        found = Ledger(home).query(
            "SELECT caller, count(DISTINCT id) AS requests, max(time) AS last FROM predictions "
            f"WHERE version = '{int(version)}' AND time >= TIMESTAMPTZ '{since.isoformat()}' "
            "GROUP BY caller ORDER BY requests DESC, caller",
            model=model,
        )
    except BasculeError:
        return None
    return [
        CallerCount(one["caller"] or "", one["requests"], one["last"]) for one in found.to_pylist()
    ]
