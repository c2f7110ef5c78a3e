"""Rows as people hold them beside tables with names: sparse, dicts, and columns called 0, 1, 2."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import bascule
from bascule.bundle.tables import read_table
from bascule.core.errors import Invalid

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
