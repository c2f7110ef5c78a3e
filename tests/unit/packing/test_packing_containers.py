"""Rows as people hold them beside tables with names: sparse, dicts, and columns called 0, 1, 2."""

from __future__ import annotations

import json
from datetime import date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import bascule
from bascule.bundle.originals.frames import Frame
from bascule.bundle.tables import read_table
from bascule.core.errors import Invalid
from bascule.packing.flavors.tabular import frame_of

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)
DICTS = [
    {"size": float(size), "rooms": place % 5, **({"city": "Rome"} if other > 0 else {})}
    for place, (size, other, _) in enumerate(X)
]


@pytest.mark.parametrize("form", ["csr", "coo"])
def test_a_model_of_a_sparse_matrix_is_compiled_and_answers_one(pack, form):
    rows = scipy.sparse.random(60, 40, 0.1, format=form, random_state=0)
    model = LogisticRegression().fit(rows, Y)
    bundle = pack(model, (rows, Y))
    assert bundle.manifest.serves == "onnx"
    expected = model.predict_proba(rows)
    np.testing.assert_allclose(bundle.predict(rows)["probabilities"], expected, atol=1e-12)


def test_a_sparse_matrix_that_does_not_fit_filled_is_refused_with_the_way_out():
    with pytest.raises(Invalid, match="1,000,000 x 100,000 cells") as refused:
        read_table(scipy.sparse.csr_matrix((1_000_000, 100_000)))
    assert "pass fewer rows" in refused.value.hint


def test_columns_called_by_numbers_reach_the_model_under_these_names(pack):
    table = pd.DataFrame({0: X[:, 0], 1: np.where(X[:, 1] > 0, "a", "b")})
    steps = make_column_transformer((OneHotEncoder(), [1]), remainder="passthrough")
    model = make_pipeline(steps, LogisticRegression()).fit(table, Y)
    bundle = pack(model, (table, Y))
    assert [field.name for field in bundle.signature.inputs] == ["0", "1"]
    frame = bundle.manifest.original.frame
    assert frame["integer_names"] is True
    again = bascule.load(bundle.path).predict(table)
    np.testing.assert_allclose(again["probabilities"], model.predict_proba(table), atol=1e-12)


@pytest.mark.parametrize("step", [DictVectorizer(), FeatureHasher(32)], ids=["dict", "hash"])
def test_a_pipeline_that_reads_dicts_is_given_dicts_without_what_is_missing(pack, step):
    model = make_pipeline(step, LogisticRegression()).fit(DICTS, Y)
    bundle = pack(model, (DICTS, Y), serve_original=True)
    expected = model.predict_proba(DICTS)
    for rows in (DICTS, pd.DataFrame(DICTS)):
        answer = bascule.load(bundle.path).predict(rows)["probabilities"]
        np.testing.assert_allclose(answer, expected, atol=1e-12)


def test_a_chain_of_classifiers_has_the_chances_of_both_classes_of_each_output(pack):
    truth = np.c_[Y, X[:, 1] > 0]
    model = ClassifierChain(LogisticRegression()).fit(X, truth)
    answer = pack(model, (X, truth), serve_original=True).predict(X)
    second = answer["probabilities.1"]
    np.testing.assert_allclose(second[:, 1], model.predict_proba(X)[:, 1], atol=1e-12)
    np.testing.assert_allclose(second.sum(axis=1), 1)


WHEN = pd.Series([pd.Timestamp("2024-03-01 12:30:00.5"), pd.NaT, pd.Timestamp("2024-10-27")])
DAYS = [date(2024, 3, 1), None, date(2024, 10, 27)]
DATED = {
    "nanoseconds": pd.DataFrame({"when": WHEN.astype("datetime64[ns]")}),
    "a zone": pd.DataFrame({"when": WHEN.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")}),
    "Arrow's time": pd.DataFrame({"when": WHEN.astype("timestamp[us][pyarrow]")}),
    "Arrow's day": pd.DataFrame({"when": pd.Series(DAYS, dtype="date32[day][pyarrow]")}),
    "Python's days": pd.DataFrame({"when": pd.Series(DAYS, dtype=object)}),
    "a day of polars": pl.DataFrame({"when": DAYS}),
    "a time of polars": pl.DataFrame({"when": [datetime(2024, 3, 1, 12, 30), None]}),
    "a zone of polars": pl.DataFrame(
        {"when": pl.Series([datetime(2024, 3, 1, 12)]).dt.replace_time_zone("Asia/Tokyo")}
    ),
}


@pytest.mark.parametrize("case", DATED)
def test_dates_are_handed_over_in_the_type_of_the_training_table(case):
    table = DATED[case]
    read = read_table(table)
    frame = Frame.from_json(json.loads(json.dumps(frame_of(read).to_json())))
    rebuilt = frame.build(read.columns)
    assert rebuilt.equals(table)
    assert list(rebuilt.dtypes) == list(table.dtypes)


def test_what_a_sparse_matrix_leaves_out_is_missing_to_xgboost(pack):
    rows = scipy.sparse.random(200, 6, 0.3, format="csr", random_state=0)
    truth = (rows.toarray().sum(axis=1) > 0.8).astype(int)
    model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(rows, truth)
    bundle = pack(model, (rows, truth), test=(rows, truth))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    dense = np.where(rows.toarray() == 0, np.nan, rows.toarray())
    np.testing.assert_allclose(
        bundle.predict(dense)["probabilities"], model.predict_proba(rows), atol=1e-6
    )


def test_booleans_of_polars_of_which_some_are_missing_stay_booleans(pack):
    table = pl.DataFrame({"flag": [True, None, False] * 20, "x": [float(row) for row in range(60)]})
    steps = make_column_transformer((OneHotEncoder(), ["flag"]), remainder="passthrough")
    model = make_pipeline(steps, LogisticRegression()).fit(table, [0, 1, 1] * 20)
    bundle = pack(model, table)
    assert bundle.signature.inputs[0].booleans
    np.testing.assert_allclose(
        bundle.predict(table)["probabilities"], model.predict_proba(table), atol=1e-6
    )
