"""The months after the training, replayed: predictions first, the truth days later, then drift.

The ledger records the minute of the replay, because that is when the server answered. Which day of
2013 a flight belongs to is in its outcome: `time` is the landing.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def by_month(bundle: Bundle, rows: pd.DataFrame) -> tuple[pd.DataFrame, DriftReport]:
    """The quality and the drift of each month.

    Returns:
        By the first day of the month: `flights` whose outcome is known, the shares that were `late`
        and that were `expected` to be, `auc` (NaN where there is one class alone), whether that
        `is_worse` than on the held-out rows and not by chance, and the columns that `drifted`.
    """
    sizes = rows.groupby("month")["truth"].transform("size")
    rows = rows[sizes >= len(rows) / 100]  # some flights of 31 December land in January
    drift = measure_drift(bundle, rows, windows_a_year=12, time_column="month")
    alarms = {str(window.day): [one.name for one in window.alarms] for window in drift.windows}
    months = rows.groupby("month").agg(
        flights=("truth", "size"), late=("truth", "mean"), expected=("probability", "mean")
    )
    months.index = pd.to_datetime(months.index)
    quality = [
        measure_performance(
            part, bundle, by="all", metrics=["auc"], truth_column="truth",
            prediction_column="label", probability_column="probability",
        ).windows[0].metrics[0]
        for _, part in rows.groupby("month")
    ]  # fmt: skip
    return months.assign(
        auc=[math.nan if auc.found.value is None else auc.found.value for auc in quality],
        is_worse=[auc.is_alarm for auc in quality],
        drifted=[alarms.get(str(first.date()), []) for first in months.index],
    ), drift


def show(console: Console, months: pd.DataFrame, drift: DriftReport) -> None:
    """The months as a table, their lines, and the strongest drift in a sentence."""
    rows = []
    for one in months.itertuples():
        auc = f"{one.auc:.3f}" + (" worse" if one.is_worse else "")
        shown = ", ".join(one.drifted[:2]) + (" ..." if len(one.drifted) > 2 else "")
        drift_of = f"{len(one.drifted)}: {shown}" if one.drifted else _NO_ALARM
        shares = (f"{one.late:.0%}", f"{one.expected:.0%}")
        rows.append((f"{one.Index:%B}", f"{one.flights:,}", *shares, auc, drift_of))
    heads = ("month", "flights", "late", "expected", "ROC AUC", "columns with drift")
    console.print(table_for(Table(heads, tuple(rows))))
    for title, column in (("late", "late"), ("expected", "expected"), ("ROC AUC", "auc")):
        values = months[column].tolist()
        console.print(f"{title:<9} {bars(values)}  {min(values):.2f} to {max(values):.2f}")
    first = (months["expected"] - months["late"]).abs().idxmax()
    late, expected = months.loc[first, ["late", "expected"]]
    console.print(f"most off in {first:%B}: {expected:.0%} expected late, {late:.0%} were")
    found = [column for window in drift.windows for column in window.alarms]
    if found:
        strongest = max(found, key=lambda one: one.share or 0.0)
        said = strongest.sentence.partition(" (")[0]
        console.print(f"the drift that weighs most: {said}", markup=False)
