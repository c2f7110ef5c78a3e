"""What the ledger and the registry say of served models: days, hours, drift, contacts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import NotFound
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Contacts
from bascule.monitoring.alerts.sources.daily import Measure, drift_findings
from bascule.monitoring.drift import measure_drift
from bascule.monitoring.ledger import Ledger

if TYPE_CHECKING:
    from bascule.registry import Registry

DRIFT_DAYS = 90
"""Detectors of slow changes begin so many days before the judged one."""


def finished_days(home: Path, now: datetime) -> Mapping[str, date]:
    """By model, the newest UTC day before today that has answers in the ledger."""
    found = Ledger(home).query(
        "SELECT model, max(time)::DATE AS day FROM predictions "
        f"WHERE time < '{now:%Y-%m-%d}'::TIMESTAMPTZ GROUP BY model"
    )
    return {row["model"]: row["day"] for row in found.to_pylist()}


def requests_by_hour(home: Path, since: datetime, until: datetime) -> dict[str, dict[Any, int]]:
    """By model: how many requests of each UTC hour are in the ledger, weighed by what was kept."""
    found = Ledger(home).query(
        "SELECT model, date_trunc('hour', time) AS hour, "
        "ceil(sum(1 / greatest(kept_share, 1e-9)))::BIGINT AS requests FROM predictions "
        f"WHERE row = 0 AND time >= '{since.isoformat()}'::TIMESTAMPTZ "
        f"AND time < '{until.isoformat()}'::TIMESTAMPTZ GROUP BY ALL"
    )
    hours: dict[str, dict[Any, int]] = {}
    for row in found.to_pylist():
        hours.setdefault(row["model"], {})[row["hour"]] = row["requests"]
    return hours


def drift_of(home: Path, open_registry: Callable[[], Registry], budget: float) -> Measure:
    """Measures the drift of a model's day, by version, after the days before it."""

    def measure(model: str, day: date, now: datetime) -> list[Finding]:
        ledger = Ledger(home)
        known = ledger.query(
            f"SELECT DISTINCT version FROM predictions WHERE time::DATE = '{day}'", model=model
        )
        found: list[Finding] = []
        for version in known["version"].to_pylist():
            found += _drift_of_version(ledger, open_registry(), model, version, day, budget, now)
        return found

    return measure


def _drift_of_version(
    ledger: Ledger,
    registry: Registry,
    model: str,
    version: str,
    day: date,
    budget: float,
    now: datetime,
) -> list[Finding]:
    from bascule.bundle import load

    try:
        bundle = load(registry.path(f"{model}/{version}"))
    except NotFound:
        return []  # served from a folder: the registry has no baseline of it
    rows = ledger.query(
        f"SELECT * FROM predictions WHERE version = '{version}' AND time::DATE <= '{day}' "
        f"AND time::DATE > '{day}'::DATE - {DRIFT_DAYS}",
        model=model,
    )
    rows = rows.rename_columns([name.removeprefix("input.") for name in rows.column_names])
    report = measure_drift(bundle, rows, budget=budget, time_column="time")
    return list(drift_findings(report, model, version, day, now))


def contacts_of(
    open_registry: Callable[[], Registry], models: Collection[str]
) -> dict[str, Contacts]:
    """The tags `owner`, `on_call` and `team` of each model: of its newest version that has them."""
    found = {}
    for model in models:
        tags: dict[str, str] = {}
        try:
            for version in open_registry().versions(model):  # in the order of their numbers
                tags |= open_registry().tags(version)
        except NotFound:
            continue
        found[model] = Contacts(*(tags.get(name, "") for name in ("owner", "on_call", "team")))
    return found
