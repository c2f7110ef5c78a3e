"""What the ledger and the registry say of served models: days, hours, drift, contacts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.core import NotFound
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Contacts
from bascule.monitoring.alerts.sources.daily import SETTLED, drift_findings
from bascule.monitoring.drift import measure_drift
from bascule.monitoring.ledger import Ledger, newest_days

if TYPE_CHECKING:
    from bascule.registry import Registry

DRIFT_DAYS = 90
"""Detectors of slow changes begin so many days before the judged one."""


def finished_days(home: Path, now: datetime) -> Mapping[str, date]:
    """By model, the newest finished day that has answers in the ledger.

    A day is finished a few minutes after its end, when the scribe has taken in its last answers.
    """
    return newest_days(home, (now - SETTLED).date())


def rows_by_hour(home: Path, hours: Sequence[datetime]) -> dict[str, dict[datetime, int]]:
    """By model: how many rows of each of these whole hours are in the ledger."""
    parts = [
        f"SELECT model, {number} AS number, count(*) AS rows FROM predictions WHERE "
        f"time >= '{hour.isoformat()}'::TIMESTAMPTZ AND "
        f"time < '{(hour + timedelta(hours=1)).isoformat()}'::TIMESTAMPTZ GROUP BY model"
        for number, hour in enumerate(hours)
    ]
    found: dict[str, dict[datetime, int]] = {}
    for row in Ledger(home).query(" UNION ALL ".join(parts)).to_pylist():
        found.setdefault(row["model"], {})[hours[row["number"]]] = row["rows"]
    return found


def judge_drift(
    home: Path,
    open_registry: Callable[[], Registry],
    budget: float,
    model: str,
    day: date,
    now: datetime,
) -> list[Finding]:
    """The drift of a model's day by version, for versions in the registry."""
    ledger = Ledger(home)
    known = ledger.query(
        f"SELECT DISTINCT version FROM predictions WHERE time::DATE = '{day}'", model=model
    )
    found: list[Finding] = []
    for version in known["version"].to_pylist():
        found += _drift_of_version(ledger, open_registry(), model, version, day, budget, now)
    return found


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


JUDGED: Mapping[str, Callable[..., Sequence[Finding]]] = {"drift": judge_drift}
"""What is judged of a finished day, by its source."""


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
