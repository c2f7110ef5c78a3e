from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

import bascule
from bascule.bundle.disk.manifest import CALIBRATION
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import BasculeWarning, Invalid, Untrusted


@pytest.fixture(scope="module")
def fitted(iris):
    X, y = iris
    return LogisticRegression(max_iter=500).fit(X[::2], y[::2])


@pytest.fixture
def packed_iris(pack, fitted, iris):
    X, y = iris
    return pack(fitted, X[::2], (X[1::2], y[1::2]))


def test_a_classifier_answers_a_set_that_holds_the_truth_as_often_as_asked(packed_iris, iris):
    X, y = (part[1::2] for part in iris)
    for confidence in (0.5, 0.8, 0.95):
        answer = packed_iris.predict(X, confidence=confidence)
        assert list(answer) == ["label", "probabilities", "prediction_set"]
        assert answer["prediction_set"].dtype == np.bool_
        # On its own rows the share is the rank over the rows, but for ties.
        share = answer["prediction_set"][np.arange(len(y)), y].mean()
        assert confidence <= share <= confidence + 2 / len(y)


def test_a_regressor_answers_an_interval(pack, diabetes):
    X, y = diabetes
    bundle = pack(Ridge().fit(X[:200], y[:200]), X[:200], (X[200:], y[200:]))
    answer = bundle.predict(X[200:], confidence=0.9)
    assert list(answer) == ["prediction", "lower", "upper"]
    inside = (answer["lower"] <= y[200:]) & (y[200:] <= answer["upper"])
    assert 0.9 <= inside.mean() <= 0.91
    assert answer["upper"].shape == answer["prediction"].shape == (242,)


def test_without_a_confidence_the_answer_is_what_it_was(packed_iris, iris):
    assert list(packed_iris.predict(iris[0][:2])) == ["label", "probabilities"]


def test_the_adaptive_method_is_asked_for_by_name(packed_iris, iris):
    X, y = (part[1::2] for part in iris)
    sets = packed_iris.predict(X, confidence=0.9, conformal="aps")["prediction_set"]
    assert 0.9 <= sets[np.arange(len(y)), y].mean() <= 0.93
    with pytest.raises(Invalid, match="'cqr' is not one of lac, aps"):
        packed_iris.predict(X, confidence=0.9, conformal="cqr")


def test_a_rows_set_does_not_depend_on_its_company(packed_iris, iris):
    X = iris[0]
    for method in ("lac", "aps"):
        together = packed_iris.predict(X, confidence=0.7, conformal=method)["prediction_set"]
        alone = [
            packed_iris.predict(row[None], confidence=0.7, conformal=method)["prediction_set"][0]
            for row in X
        ]
        assert np.array_equal(together, alone)


def test_rows_of_its_own_are_used_and_the_card_says_so(pack, fitted, iris):
    X, y = iris
    bundle = pack(fitted, X[::2], (X[1::4], y[1::4]), calibration=(X[3::4], y[3::4]))
    assert (bundle.calibration.rows, bundle.calibration.source) == (37, "calibration")
    assert "37 rows: rows of their own" in (bundle.path / "card.md").read_text()


def test_the_card_says_when_the_rows_also_judge_quality(packed_iris):
    assert packed_iris.calibration.source == "test"
    assert "the test rows, which also judge quality" in (packed_iris.path / "card.md").read_text()


def test_the_calibration_is_sealed_and_the_same_each_time(pack, fitted, iris):
    X, y = iris
    first, again = (pack(fitted, X[::2], (X[1::2], y[1::2])) for _ in range(2))
    assert first.digest == again.digest
    assert CALIBRATION in first.manifest.files
    other = pack(fitted, X[::2], (X[1::2], y[1::2][::-1]))
    assert other.manifest.files[CALIBRATION] != first.manifest.files[CALIBRATION]


def test_held_out_rows_need_not_be_kept_to_calibrate(pack, fitted, iris):
    X, y = iris
    bundle = pack(fitted, X[::2], (X[1::2], y[1::2]), keep_test=False)
    assert bundle.test_data() is None
    assert bundle.calibration.rows == 75


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ("rows", "calibration is not a pair"),
        ((np.zeros((3, 4)), np.zeros(2)), "calibration has 3 rows in X, and y has the shape"),
        ((np.zeros((3, 5)), np.zeros(3)), "has shape"),
        ((np.zeros((0, 4)), np.zeros(0)), "no rows"),
    ],
)
def test_rows_of_its_own_that_cannot_be_used_are_refused(pack, fitted, iris, calibration, said):
    X, y = iris
    with pytest.raises(Invalid, match=said):
        pack(fitted, X, (X, y), calibration=calibration)


def test_a_model_without_probabilities_is_packed_without_and_says_why(pack, iris):
    X, y = iris
    bundle = pack(LinearSVC().fit(X, y), X, (X, y))
    assert bundle.calibration is None
    assert "No calibration: the model answers neither" in (bundle.path / "card.md").read_text()
    with pytest.raises(Invalid, match="confidence: the model has no calibration") as refused:
        bundle.predict(X, confidence=0.9)
    assert "test=(X, y) or calibration=(X, y)" in refused.value.hint
    with pytest.raises(Invalid, match="neither probabilities nor a single number"):
        pack(LinearSVC().fit(X, y), X, (X, y), calibration=(X, y))


def test_a_model_without_held_out_rows_has_no_calibration(pack, fitted, iris):
    assert pack(fitted, iris[0]).calibration is None
    with pytest.warns(BasculeWarning, match="test has no truth"):
        assert pack(fitted, iris[0], iris[0]).calibration is None


def test_a_label_of_the_test_rows_that_the_model_never_saw_does_not_stop_the_packing(
    pack, fitted, iris
):
    X, y = iris
    truth = np.where(np.arange(len(y)) == 0, 7, y)
    bundle = pack(fitted, X, (X, truth))
    assert bundle.calibration.largest_confidence == pytest.approx(149 / 151)


def test_more_confidence_than_the_rows_support_is_refused(packed_iris, iris):
    with pytest.raises(Invalid, match="more than 75 calibration rows can support"):
        packed_iris.predict(iris[0], confidence=0.99)


def resealed(bundle, value) -> bascule.Bundle:
    """The bundle with another calibration, as somebody could have made it."""
    data = value if isinstance(value, bytes) else canonical_json(value)
    (bundle.path / CALIBRATION).write_bytes(data)
    manifest = json.loads((bundle.path / "bundle.json").read_bytes())
    manifest["files"][CALIBRATION] = {"bytes": len(data), "sha256": sha256_bytes(data)}
    (bundle.path / "bundle.json").write_bytes(canonical_json(manifest))
    return bascule.load(bundle.path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"{", "is not a calibration: it is not JSON"),
        (b"[]", "cannot be read"),
        (
            {
                "format": 1,
                "rows": 1,
                "source": "test",
                "methods": [{"name": "absolute", "ranks": None, "values": [1.0]}],
            },
            "holds absolute, which the model's outputs do not allow",
        ),
    ],
)
def test_a_made_up_calibration_is_not_trusted(packed_iris, iris, value, said):
    with pytest.raises(Untrusted, match=said):
        resealed(packed_iris, value).predict(iris[0], confidence=0.5)
