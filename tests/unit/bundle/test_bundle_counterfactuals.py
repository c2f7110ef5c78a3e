"""Counterfactuals: the smallest changes with which any function of columns answers otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from bascule.bundle.explaining import ColumnPlace, Range, counterfactuals, ranges_of
from bascule.core import DType, Field, Invalid, Signature

FIELDS = (
    Field("age", DType.INT64),
    Field("income", DType.FP64),
    Field("city", DType.BYTES, categories=("rome", "oslo", "bern")),
)
PLACES = tuple(ColumnPlace(field.name, field) for field in FIELDS)
RANGES = {
    "age": Range(18, 90, 40.0),
    "income": Range(0, 100, 50.0),
    "city": Range(values=["rome", "oslo", "bern"]),
}


def row():
    return {
        "age": np.array([30], np.int64),
        "income": np.array([40.0]),
        "city": np.array(["rome"], object),
    }


def reaches(rows):
    """By an income of 60 alone, or by 50 in Oslo, and not by age."""
    return rows["income"] >= np.where(rows["city"] == "oslo", 50.0, 60.0)


def test_the_smallest_change_is_first_and_each_result_reaches_the_goal():
    first, second = counterfactuals(reaches, PLACES, RANGES, row())
    assert list(first.changes) == ["income"]
    assert first.changes["income"][0] == 40.0
    assert 60 <= first.changes["income"][1] < 60.1
    assert first.distance == pytest.approx(0.4, abs=0.01)
    assert set(second.changes) == {"income", "city"}
    assert second.changes["city"] == ("rome", "oslo")
    assert reaches(first.row)[0]
    assert reaches(second.row)[0]


def test_only_the_columns_that_may_change_do():
    assert (
        counterfactuals(reaches, PLACES, {"age": RANGES["age"], "city": RANGES["city"]}, row())
        == []
    )
    with pytest.raises(Invalid, match="no column of the model may change"):
        counterfactuals(reaches, PLACES, {}, row())


def test_a_whole_number_stays_one_and_a_missing_number_may_get_a_value():
    def older(rows):
        return ~np.isnan(rows["income"]) & (rows["age"] > 47.5)

    missing = {**row(), "income": np.array([np.nan])}
    (found,) = counterfactuals(older, PLACES, RANGES, missing)
    assert found.changes["age"] == (30, 48)
    assert set(found.changes) == {"age", "income"}


def test_a_row_that_reaches_the_goal_is_refused():
    with pytest.raises(Invalid, match="answers so already"):
        counterfactuals(reaches, PLACES, RANGES, {**row(), "income": np.array([70.0])})


def test_ranges_are_those_of_the_training_rows():
    told = {
        "age": {"min": 18, "max": 90, "p05": 20, "p95": 60},
        "income": {"min": 1.0, "max": 1.0, "p05": 1.0, "p95": 1.0},
    }
    ranges = ranges_of(Signature(FIELDS, ()), told)
    assert ranges["age"] == Range(18, 90, 40)
    assert ranges["income"].usual == 1.0
    assert ranges["city"].values == ["rome", "oslo", "bern"]
