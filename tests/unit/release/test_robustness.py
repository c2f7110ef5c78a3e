"""Robustness of a linear model, whose distances to its boundary are known exactly."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import bascule
from bascule.core import Invalid
from bascule.release import Criterion
from bascule.release.measure import measure
from bascule.release.robustness import MovingNumbers


@pytest.fixture(scope="module")
def linear(packed):
    """A model of four numbers, and of each held-out row its distances in standard deviations."""
    random = np.random.default_rng(4)
    X = random.normal(size=(500, 4)) * [1, 5, 0.1, 20]
    y = (X @ [1, 0.3, 4, 0.02] + random.normal(size=500) > 0.3).astype(int)
    model = LogisticRegression(max_iter=1_000).fit(X[:400], y[:400])
    test = X[400:]
    weights = model.coef_[0] * test.std(axis=0)
    away = np.where(model.predict(test) == y[400:], np.abs(model.decision_function(test)), -1.0)
    return SimpleNamespace(
        bundle=bascule.load(packed("linear", model, (X[:400], y[:400]), (test, y[400:]))),
        test=(test, y[400:]), spread=test.std(axis=0), weights=model.coef_[0],
        l2=away / np.linalg.norm(weights), linf=away / np.abs(weights).sum(),
    )  # fmt: skip


def fact(bundle, text, **options):
    criterion = Criterion.parse(text)
    assert Criterion.parse(str(criterion)) == criterion
    return measure(bundle, [criterion], **options)[criterion.measure]


@pytest.mark.slow  # ART imports torch
def test_an_attack_evades_the_rows_near_the_boundary_alone(linear):
    """Twelve rows, half of them nearer than 0.4 deviations of these rows."""
    rows, truth = linear.test[0][:12], linear.test[1][:12]
    distance = linear.l2[:12] * np.linalg.norm(linear.weights * linear.spread)
    distance /= np.linalg.norm(linear.weights * rows.std(axis=0))
    size = float(np.median(distance))
    options = {"test": (rows, truth)}
    found = fact(linear.bundle, f"robust_accuracy[l2={size:.3f}] >= 0.5", **options)
    assert found.value == 0.5
    assert "upper bound" in found.note
    state = np.random.get_state()[1].copy()
    assert found == fact(linear.bundle, f"robust_accuracy[l2={size:.3f}] >= 0.5", **options)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("l2", 0.2), ("l2", 0.5), ("linf", 0.1), ("linf", 0.3)])
def test_an_attack_finds_nearly_every_row_that_can_be_evaded_and_no_other(linear, kind, size):
    found = fact(linear.bundle, f"robust_accuracy[{kind}={size}] >= 0.5")
    robust = float((getattr(linear, kind) > size).mean())
    assert robust <= found.value <= robust + 0.03


def test_a_certificate_is_below_what_is_true_and_near_it(linear):
    found = fact(linear.bundle, "certified_accuracy[l2=0.5] >= 0.5")
    robust = float((linear.l2 >= 0.5).mean())
    assert robust - 0.08 <= found.value <= robust
    assert "lower bound" in found.note


def test_more_noise_leaves_fewer_right_and_none_leaves_what_was(linear):
    accuracy = fact(linear.bundle, "accuracy >= 0").value
    values = [
        fact(linear.bundle, f"robust_accuracy[noise={size}] >= 0").value
        for size in (1e-9, 0.1, 1, 10)
    ]
    assert values[0] == accuracy
    assert sorted(values, reverse=True) == values
    assert values[-1] < 0.2
    assert fact(linear.bundle, "robust_accuracy[out_of_range=0.2] >= 0").value < accuracy


def test_only_numbers_with_a_fraction_move_and_missing_ones_stay_missing(packed):
    table = pd.DataFrame(
        {
            "size": [0.5, np.nan, 2.25, 1.0],
            "count": [1.0, 2.0, 3.0, 4.0],
            "kind": ["a", "b", "a", "b"],
        }
    )
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=2),
    )
    rows, y = pd.concat([table] * 10, ignore_index=True), [0, 1, 1, 0] * 10
    bundle = bascule.load(packed("mixed", model.fit(rows, y), (rows, y), (rows, y)))
    columns, _ = bundle.test_data()
    changing = MovingNumbers(columns, bundle.signature)
    for row in range(2):
        moved = changing.rows(row, changing.points[row] + np.array([[0.5], [-1.0]]))
        assert moved["count"].tolist() == [row + 1.0] * 2
        assert moved["kind"].tolist() == [table.kind[row]] * 2
        expected = table["size"][row] + np.array([0.5, -1.0]) * np.nanstd(table["size"])
        np.testing.assert_allclose(moved["size"], expected)
    missing = fact(bundle, "robust_accuracy[missing=1] >= 0")
    assert missing.value <= fact(bundle, "accuracy >= 0").value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("robust_accuracy >= 0.8", "says no change of the rows"),
        ("robust_accuracy[l3=1] >= 0.8", "there are linf, l2, noise, missing, out_of_range"),
        ("robust_accuracy[linf=0] >= 0.8", "says no change"),
        ("robust_accuracy[missing=5] >= 0.8", "5 is no share"),
        ("certified_accuracy[linf=0.1] >= 0.8", "there are l2"),
    ],
)
def test_what_is_no_change_of_rows_is_refused(text, complaint):
    with pytest.raises(Invalid) as refused:
        Criterion.parse(text)
    assert re.search(re.escape(complaint), f"{refused.value.message} {refused.value.hint}")
