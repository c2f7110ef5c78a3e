"""The months after the training, replayed: predictions first, the truth days later, then drift.

The ledger records the minute of the replay, because that is when the server answered. Which day of
2013 a flight belongs to is in its outcome: `time` is the landing.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bascule.core import Unavailable
from bascule.demo import flights
from bascule.documents import Table, bars, table_for
from bascule.monitoring import Ledger, measure_drift, measure_performance
from bascule_client import Client

if TYPE_CHECKING:
    from rich.console import Console

    from bascule.bundle import Bundle
    from bascule.demo.server import Server
    from bascule.monitoring import DriftReport

_FLIGHTS_A_DAY = 300
_LATE_DAYS = 3
_RECORDED_WITHIN_S = 30.0
_NO_ALARM = "none"


class MonthlyResult(NamedTuple):
    """One month of the replay.

    Attributes:
        month: Its first day.
        rows: Flights whose outcome is known.
        late: The share that was late.
        expected: The mean probability of that.
        auc: The area under the ROC curve; NaN where there is one class alone.
        is_worse: Whether that is an alarm: worse than on the held-out rows, and not by chance.
        drifted: Columns that raise an alarm, the strongest first.
    """

    month: pd.Timestamp
    rows: int
    late: float
    expected: float
    auc: float
    is_worse: bool
    drifted: tuple[str, ...]


def replay(server: Server, model: str, later: pd.DataFrame) -> tuple[int, int]:
    """Ask about each day in one request, and tell its truth three days later.

    Returns:
        The rows that were answered, and the truths that were kept.
    """
    days = [
        day.sample(min(len(day), _FLIGHTS_A_DAY), random_state=0)
        for _, day in later.groupby(later["departs_at"].dt.date)
    ]
    ids: list[list[str]] = []
    truths = 0
    with Client(server.url, model=model, timeout_s=60) as client:
        for today in range(len(days) + _LATE_DAYS):
            if today < len(days):
                ids.append(client.predict(days[today][flights.FEATURES]).ids)
            if (known := today - _LATE_DAYS) >= 0:
                truths += client.add_outcomes(_outcomes(ids[known], days[known])).taken
    return sum(map(len, ids)), truths


def _outcomes(ids: list[str], day: pd.DataFrame) -> list[tuple[str, int, str]]:
    landed = _landed_at(day).dt.strftime("%Y-%m-%dT%H:%M:%S")
    return [*zip(ids, day[flights.TARGET].tolist(), landed.tolist(), strict=True)]


def _landed_at(day: pd.DataFrame) -> pd.Series[Any]:
    planned = (day["arrives_minute"] - day["departs_minute"]) % (24 * 60)
    return day["departs_at"] + pd.to_timedelta(planned + day["arr_delay"], unit="min")


def recorded(home: Path, model: str, rows: int) -> pd.DataFrame:
    """The predictions and their outcomes, of the ledger, when all are there.

    Raises:
        Unavailable: They are not, after 30 s.
    """
    until = time.perf_counter() + _RECORDED_WITHIN_S
    sql = "SELECT count(*) AS n FROM predictions_with_outcomes"
    while (found := Ledger(home).query(sql)["n"][0].as_py()) < rows:
        if time.perf_counter() > until:
            raise Unavailable(f"the ledger has {found:,} of {rows:,} predictions")
        time.sleep(0.2)
    fields = ", ".join(f'"input.{name}" AS "{name}"' for name in flights.FEATURES)
    table = Ledger(home).query(
        "SELECT date_trunc('month', truth_time)::DATE AS month, truth_number AS truth, "
        f'"output.label" AS label, "output.probabilities"[2] AS probability, {fields} '
        "FROM predictions_with_outcomes ORDER BY truth_time",
        model=model,
    )
    return table.to_pandas()


def by_month(bundle: Bundle, rows: pd.DataFrame) -> tuple[list[MonthlyResult], DriftReport]:
    """The quality and the drift of each month."""
    sizes = rows.groupby("month")["truth"].transform("size")
    rows = rows[sizes >= len(rows) / 100]  # some flights of 31 December land in January
    drift = measure_drift(bundle, rows, windows_a_year=12, time_column="month")
    alarms = {str(window.day): [one.name for one in window.alarms] for window in drift.windows}
    made = []
    for month, part in rows.groupby("month"):
        first = pd.Timestamp(month)
        (auc,) = measure_performance(
            part, bundle, by="all", metrics=["auc"], truth_column="truth",
            prediction_column="label", probability_column="probability",
        ).windows[0].metrics  # fmt: skip
        made.append(
            MonthlyResult(
                first, len(part), float(part["truth"].mean()), float(part["probability"].mean()),
                math.nan if auc.found.value is None else auc.found.value, auc.is_alarm,
                tuple(alarms.get(str(first.date()), ())),
            )
        )  # fmt: skip
    return made, drift


def show(console: Console, months: list[MonthlyResult], drift: DriftReport) -> None:
    """The months as a table, their lines, and the strongest drift in a sentence."""
    rows = []
    for one in months:
        auc = f"{one.auc:.3f}" + (" worse" if one.is_worse else "")
        shown = ", ".join(one.drifted[:2]) + (" ..." if len(one.drifted) > 2 else "")
        drift_of = f"{len(one.drifted)}: {shown}" if one.drifted else _NO_ALARM
        shares = (f"{one.late:.0%}", f"{one.expected:.0%}")
        rows.append((f"{one.month:%B}", f"{one.rows:,}", *shares, auc, drift_of))
    heads = ("month", "flights", "late", "expected", "ROC AUC", "columns with drift")
    console.print(table_for(Table(heads, tuple(rows))))
    for title, values in (
        ("late", [one.late for one in months]),
        ("expected", [one.expected for one in months]),
        ("ROC AUC", [one.auc for one in months]),
    ):
        console.print(f"{title:<9} {bars(values)}  {min(values):.2f} to {max(values):.2f}")
    worst = max(months, key=lambda one: abs(one.expected - one.late))
    console.print(
        f"most off in {worst.month:%B}: {worst.expected:.0%} expected late, {worst.late:.0%} were"
    )
    found = [column for window in drift.windows for column in window.alarms]
    if found:
        strongest = max(found, key=lambda one: one.share or 0.0)
        said = strongest.sentence.partition(" (")[0]
        console.print(f"the drift that weighs most: {said}", markup=False)
