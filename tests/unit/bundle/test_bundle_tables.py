from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bascule.bundle.tables import conform, read_table
from bascule.core.errors import Invalid
from bascule.core.fields import Dates, DType, Field, Signature

TABLE = Signature(
    (
        Field("carrier", DType.BYTES, categories=("AA", "BB")),
        Field("airport", DType.BYTES, nullable=True),
        Field("hour", DType.INT64),
        Field("wind", DType.FP64, nullable=True),
        Field("rain", DType.BOOL),
    ),
    (),
)
MATRIX = Signature((Field("input", DType.FP64, (3,)),), (), ("a", "b", "c"))
GOOD = {
    "carrier": ["AA", "BB"],
    "airport": ["JFK", None],
    "hour": [7, 8],
    "wind": [1.5, None],
    "rain": [True, False],
}


@pytest.mark.parametrize(
    "table",
    [
        GOOD,
        {name: np.array(values, object) for name, values in GOOD.items()},
        pd.DataFrame(GOOD),
        pd.DataFrame(GOOD).astype({"carrier": "category", "airport": "category"}),
        pd.DataFrame(GOOD).astype({"hour": "Int64", "wind": "Float64", "rain": "boolean"}),
        pd.DataFrame(GOOD).convert_dtypes(),
        pl.DataFrame(GOOD),
        pl.DataFrame(GOOD, schema_overrides={"carrier": pl.Categorical, "airport": pl.Categorical}),
        pl.DataFrame(GOOD).lazy(),
        pa.table(GOOD),
        pa.table({**GOOD, "carrier": pa.array(GOOD["carrier"]).dictionary_encode()}),
        pa.table(GOOD).to_batches()[0],
    ],
    ids=[
        "dict of lists",
        "dict of objects",
        "pandas",
        "pandas categories",
        "pandas nullable",
        "pandas converted",
        "polars",
        "polars categories",
        "polars lazy",
        "arrow",
        "arrow dictionary",
        "arrow batch",
    ],
)
def test_one_table_in_every_dress_is_the_same_columns(table):
    columns = conform(table, TABLE)
    assert columns["carrier"].tolist() == ["AA", "BB"]
    assert columns["airport"].tolist() == ["JFK", None]
    assert columns["hour"].dtype == np.int64
    assert columns["hour"].tolist() == [7, 8]
    np.testing.assert_array_equal(columns["wind"], [1.5, np.nan])
    assert columns["rain"].dtype == np.bool_
    assert list(columns) == list(GOOD)


def test_columns_that_the_model_does_not_know_are_left_out():
    assert "note" not in conform({**GOOD, "note": ["x", "y"]}, TABLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hour": [7.5, 8]}, "column 'hour' holds a number in row 0 that is not INT64"),
        ({"hour": [7, 2.0**70]}, "column 'hour' holds a number in row 1 that is not INT64"),
        ({"hour": ["7", "8"]}, "column 'hour' holds text, and the model takes INT64 there"),
        ({"hour": [7, None]}, "column 'hour' has 1 missing values, the first in row 1"),
        ({"rain": [1, 2]}, "column 'rain' holds a number in row 1 that is not BOOL"),
        ({"wind": ["a", "b"]}, "column 'wind' holds text, and the model takes FP64"),
        ({"airport": [1, 2]}, "column 'airport' holds int64, and the model takes text"),
        ({"airport": ["JFK", 2]}, "column 'airport' holds int and str"),
        ({"carrier": ["AA", None]}, "column 'carrier' has 1 missing values"),
        ({"carrier": ["AA", "ZZ"]}, "column 'carrier' holds 'ZZ' in row 1, which is none of the 2"),
        ({"wind": [1.5]}, r"the columns of the table differ in length: \[1, 2\]"),
        ({"wind": "12"}, "column 'wind' is one value, not a list"),
        ({"wind": [object(), 1.0]}, "column 'wind' holds float and object"),
    ],
)
def test_a_value_that_does_not_fit_names_its_column(change, message):
    with pytest.raises(Invalid, match=message):
        conform({**GOOD, **change}, TABLE)


def test_missing_columns_are_all_named():
    table = {name: GOOD[name] for name in ("airport", "wind", "rain")}
    with pytest.raises(Invalid, match="columns 'carrier', 'hour' are missing") as raised:
        conform(table, TABLE)
    assert raised.value.facts["field"] == "carrier"


def test_dates_are_refused_where_the_model_takes_none():
    table = pd.DataFrame({**GOOD, "hour": pd.to_datetime(["2013-01-01", "2013-01-02"])})
    with pytest.raises(Invalid, match="column 'hour' holds dates") as raised:
        conform(table, TABLE)
    assert "convert" in raised.value.hint


DATED = Signature((Field("when", DType.BYTES, dates=Dates.INSTANT),), ())


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["2024-03-01T12:00:00+02:00"]),
        pd.Series(pd.to_datetime(["2024-03-01T12:00:00+02:00"]).tz_convert("Asia/Tokyo")),
        pd.Series(pd.to_datetime(["2024-03-01T10:00:00Z"])).astype(
            "timestamp[ns, tz=UTC][pyarrow]"
        ),
        pd.Series([datetime(2024, 3, 1, 10, tzinfo=UTC)], dtype=object),
        pl.Series([datetime(2024, 3, 1, 10, tzinfo=UTC)]),
        pa.array([datetime(2024, 3, 1, 10, tzinfo=UTC)], pa.timestamp("s", "Asia/Tokyo")),
    ],
)
def test_an_instant_has_one_text_from_whatever_holds_it(column):
    of = {"polars": pl.DataFrame, "pyarrow": pa.table}.get(
        type(column).__module__.partition(".")[0], pd.DataFrame
    )
    assert conform(of({"when": column}), DATED)["when"].tolist() == ["2024-03-01T10:00:00Z"]


def test_objects_of_times_with_an_offset_are_refused_with_the_way_out():
    """What is kept of them is the instant, and code may read the hour on the clock."""
    moment = datetime(2024, 3, 1, 10, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(Invalid, match="the offset 2:00:00 from UTC") as refused:
        conform(pd.DataFrame({"when": pd.Series([moment], dtype=object)}), DATED)
    assert "to_datetime" in refused.value.hint


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 2, 3], [4, 5, 6]],
        np.array([[1, 2, 3], [4, 5, 6]], np.int8),
        {"c": [3, 6], "b": [2, 5], "a": [1, 4]},
        pd.DataFrame({"c": [3, 6], "b": [2, 5], "a": [1, 4]}),
        {"input": [[1, 2, 3], [4, 5, 6]]},
    ],
)
def test_a_matrix_comes_as_rows_or_as_named_columns(matrix):
    values = conform(matrix, MATRIX)["input"]
    assert values.dtype == np.float64
    assert values.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 2]], r"input has shape \[1, 2\], and the model takes \[rows, 3\]"),
        ([1, 2, 3], "input is one row of 3 numbers, not a matrix"),
        ([[1, 2, 3], [4, 5]], "the rows of the matrix differ in length"),
        ([["a", "b", "c"]], "not numbers"),
        ([[1, 2, None]], "has 1 missing values"),
        (np.zeros((0, 3)), "there are no rows to predict"),
        ({"a": [1], "b": [2]}, "column 'c' is missing"),
        (7, "builtins.int is not a table or matrix"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(matrix, message):
    with pytest.raises(Invalid, match=message):
        conform(matrix, MATRIX)


def test_too_large_for_a_float_is_infinite_as_in_any_cast():
    signature = Signature((Field("input", DType.FP32, (1,)),), ())
    assert conform([[1e300]], signature)["input"].tolist() == [[np.inf]]


def test_two_columns_of_one_name_are_refused():
    table = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(Invalid, match="two columns called 'a'"):
        read_table(table)


def test_names_that_are_whole_numbers_are_read_as_texts_where_all_of_them_are():
    assert list(read_table(pd.DataFrame([[1, 2]])).columns) == ["0", "1"]
    with pytest.raises(Invalid, match="column name 0 is not text"):
        read_table(pd.DataFrame([[1, 2]], columns=[0, "a"]))


IMAGES = Signature((Field("image", DType.FP32, (3, -1, 4)),), ())


@pytest.mark.parametrize("hand_in", [lambda rows: rows, lambda rows: {"image": rows}, list])
def test_arrays_of_many_dimensions_are_taken_bare_or_by_name(hand_in):
    rows = np.arange(96.0).reshape(2, 3, 4, 4)
    found = conform(hand_in(rows), IMAGES)["image"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 1, 4, 4)])
def test_an_array_of_another_shape_is_refused(shape):
    with pytest.raises(Invalid, match="image has shape"):
        conform({"image": np.zeros(shape)}, IMAGES)


def test_tensors_of_pytorch_are_read_though_they_want_gradients():
    import torch

    tensor = torch.ones((2, 3), requires_grad=True)
    for given in (tensor, {"input": tensor}):
        np.testing.assert_array_equal(conform(given, MATRIX)["input"], np.ones((2, 3)))


@pytest.mark.parametrize("dtype", [DType.BYTES, DType.FP64])
def test_a_column_of_polars_or_arrow_without_any_value_is_missing_in_every_row(dtype):
    signature = Signature((Field("a", dtype, nullable=True),), ())
    for table in (pl.DataFrame({"a": [None, None]}), pa.table({"a": [None, None]})):
        values = conform(table, signature)["a"]
        assert all(value is None or np.isnan(value) for value in values.tolist())
