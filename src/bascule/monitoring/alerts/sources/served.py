"""What the ledger and the registry say of served models: days, hours, drift, contacts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.core import NotFound
from bascule.monitoring.alerts.findings import Finding
from bascule.monitoring.alerts.routing import Contacts
from bascule.monitoring.alerts.sources.daily import (
    SETTLED,
    drift_findings,
    performance_findings,
)
from bascule.monitoring.ledger import Ledger, newest_days

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.registry import Registry

PERFORMANCE_DAYS = 30
"""Truths come late: so far back the newest day with enough of them is looked for."""

BundleOf = Callable[[str], "Bundle | None"]
"""The bundle of a version; None where it is gone."""


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
    home: Path, model: str, bundle_of: BundleOf, budget: float, day: date, now: datetime
) -> list[Finding]:
    """The drift of a model's day by version; versions without a bundle are left out."""
    from bascule.monitoring import measure_production_drift

    def open_bundle(version: str) -> Bundle:
        found = bundle_of(version)
        if found is None:
            raise NotFound(f"{model}/{version} is gone", hint="push its bundle")
        return found

    report = measure_production_drift(
        home, model, open_bundle, now=now, since=now - _start_of(day), budget=budget
    )
    return [
        finding
        for version in report.versions
        for finding in drift_findings(version, model, version.version, day, now)
    ]


def judge_performance(
    home: Path, model: str, bundle_of: BundleOf, budget: float, day: date, now: datetime
) -> list[Finding]:
    """The performance of a model by version, in the newest day whose truths suffice."""
    from bascule.monitoring import measure_performance

    since = _start_of(day) - timedelta(days=PERFORMANCE_DAYS)
    report = measure_performance(
        home, model, bundle_of=bundle_of, since=since, budget=budget, now=now
    )
    return list(performance_findings(report, model, now))


def _start_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


JUDGED: Mapping[str, Callable[..., Sequence[Finding]]] = {
    "drift": judge_drift,
    "performance": judge_performance,
}
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
