"""p-values against the law that they must follow, and rows that no training row is like."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from tests.tiers import first_of

from bascule.packing.statements.outlying import fit_outliers
from bascule.stats import OutlierScorer

LOADERS = (load_breast_cancer, load_diabetes, load_wine, load_digits)
SPLITS = 400


def in_three(load, seed=0):
    """Rows to fit on, and a pool that calibration and tests are drawn from."""
    X = np.random.default_rng(seed).permutation(load().data)
    return X[: len(X) // 3], X[len(X) // 3 :]


def drawn_p_values(pool_scores, rows, splits=SPLITS, seed=5):
    """Of one row each time, beside `rows` others of the same pool."""
    random = np.random.default_rng(seed)
    p = np.empty(splits)
    for split in range(splits):
        *held_out, new = pool_scores[random.permutation(len(pool_scores))[: rows + 1]]
        p[split] = scorer_of(held_out).p_values(np.array([new]))[0]
    return p


def scorer_of(held_out):
    return OutlierScorer((), (), {"held_out": np.sort(held_out)})


@pytest.mark.parametrize("load", first_of(LOADERS, 2), ids=lambda load: load.__name__)
def test_p_values_of_held_out_rows_are_uniform(load):
    fitted, pool = in_three(load)
    rows = 50
    scores = fit_outliers({"x": fitted}, {"x": pool}, (), "test").scores({"x": pool})
    p = drawn_p_values(scores, rows)
    # A grid of n + 1 values, made continuous within its steps.
    spread = p - np.random.default_rng(2).random(len(p)) / (rows + 1)
    assert stats.kstest(spread, "uniform").pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_p_values_are_uniform_over_splits_fits_and_rows(load):
    p, rows = np.empty(150), 60
    for split in range(len(p)):
        X = np.random.default_rng(split).permutation(load().data)
        scorer = fit_outliers({"x": X[rows + 1 :]}, {"x": X[:rows]}, (), "test")
        p[split] = scorer.p_values(scorer.scores({"x": X[rows : rows + 1]}))[0]
    spread = p - np.random.default_rng(2).random(len(p)) / (rows + 1)
    assert stats.kstest(spread, "uniform").pvalue > 0.01


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_a_bundles_own_calibration_and_its_new_rows_have_the_same_scores(load):
    fitted, pool = in_three(load, seed=3)
    half = len(pool) // 2
    scorer = fit_outliers({"x": fitted}, {"x": pool[:half]}, (), "test")
    new = scorer.scores({"x": pool[half:]})
    assert stats.ks_2samp(scorer.arrays["held_out"], new).pvalue > 0.01


@pytest.mark.parametrize("rows", [10, 19, 50])
@pytest.mark.parametrize("digits", first_of([6, 1]), ids=["few ties", "tied"])
def test_few_calibration_rows_and_ties_keep_the_bound(rows, digits):
    """P(p <= t) <= t at every t; the error of each share is within 4 of its standard errors."""
    fitted, pool = in_three(load_breast_cancer)
    scores = fit_outliers({"x": fitted}, {"x": pool}, (), "test").scores({"x": pool})
    p = drawn_p_values(np.round(scores, digits), rows, splits=1_000)
    assert p.min() >= 1 / (rows + 1)
    for t in np.arange(1, rows + 2) / (rows + 1):
        assert (p <= t).mean() <= t + 4 * np.sqrt(t * (1 - t) / len(p)) + 1e-9


def test_constant_rows_are_never_outliers():
    """Every score is tied: an untied rule would flag some of them."""
    same = {"x": np.ones((30, 3))}
    scorer = fit_outliers(same, same, (), "test")
    assert scorer.p_values(scorer.scores(same)).tolist() == [1.0] * 30


def test_trees_by_level_score_as_scikit_learn_does():
    rows = load_breast_cancer().data
    scorer = fit_outliers({"x": rows}, {"x": rows[:100]}, (), "test")
    encoded, beyond = scorer.encoded(rows, [])
    forest = IsolationForest(
        n_estimators=100, max_samples=128, max_features=encoded.shape[1], random_state=0
    ).fit(encoded)
    expected = -forest.score_samples(encoded) + beyond
    np.testing.assert_allclose(scorer.scores({"x": rows}), expected, atol=2e-6)


def mixed_rows(rows, seed=0):
    random = np.random.default_rng(seed)
    colours = np.array(["red", "green", "blue"], object)[random.integers(0, 3, rows)]
    return {"age": random.normal(40, 5, rows), "colour": colours}


@pytest.mark.parametrize(
    ("column", "value"),
    first_of([("age", 1e300), ("age", -90.0), ("age", np.inf), ("age", np.nan), ("colour", "plaid"),
     ("colour", None)], 2),
)  # fmt: skip
def test_a_value_that_training_never_had_reaches_the_smallest_p(column, value):
    scorer = fit_outliers(mixed_rows(400), mixed_rows(199, seed=1), (), "test")
    rows = mixed_rows(1, seed=2)
    usual = float(scorer.p_values(scorer.scores(rows))[0])
    rows[column] = np.array([value], rows[column].dtype)
    p = float(scorer.p_values(scorer.scores(rows))[0])
    assert p == scorer.smallest_p == 1 / 200 < usual


def test_what_training_rows_lack_too_is_no_outlier():
    train = mixed_rows(400)
    train["age"][::4] = np.nan
    held_out = mixed_rows(199, seed=1)
    held_out["age"][::4] = np.nan
    scorer = fit_outliers(train, held_out, (), "test")
    rows = mixed_rows(1, seed=2) | {"age": np.array([np.nan])}
    assert scorer.p_values(scorer.scores(rows))[0] > 0.05


def test_a_training_column_without_any_number_can_be_fitted():
    empty = {"x": np.full((20, 1), np.nan), "y": np.arange(20.0)}
    scorer = fit_outliers(empty, empty, (), "test")
    assert np.isfinite(scorer.scores(empty)).all()


def test_images_are_far_where_their_projections_are():
    fitted, pool = in_three(load_digits)
    noise = np.random.default_rng(0).integers(0, 17, (50, 64)).astype(float)
    scorer = fit_outliers({"image": fitted}, {"image": pool}, ("image",), "test")
    assert len(scorer.arrays["near"])
    assert not len(scorer.arrays["leaf"])
    assert np.median(scorer.p_values(scorer.scores({"image": noise}))) < 0.05
    assert np.median(scorer.p_values(scorer.scores({"image": pool}))) > 0.3


def test_a_scorer_is_the_same_after_json_and_in_floats():
    """A program may read floats: a row of the calibration must not become rarer by rounding."""
    fitted, pool = in_three(load_breast_cancer)
    made = fit_outliers({"x": fitted}, {"x": pool}, (), "test")
    again = OutlierScorer.from_json(json.loads(json.dumps(made.to_json())))
    assert np.array_equal(again.scores({"x": pool}), made.scores({"x": pool}))
    p, in_floats = (made.p_values(made.scores({"x": x})) for x in (pool, pool.astype(np.float32)))
    assert np.abs(p - in_floats).max() <= 3 / (len(pool) + 1)


def _no_rows(made):
    made["arrays"]["held_out"] = [[0], ""]


def _outside(made):
    made["arrays"]["feature"][1] = made["arrays"]["threshold"][1]


@pytest.mark.parametrize(
    ("spoil", "why"), [(_no_rows, "no rows calibrate"), (_outside, "do not go together")]
)
def test_a_spoiled_file_is_refused(spoil, why):
    fitted, pool = in_three(load_wine)
    made = fit_outliers({"x": fitted}, {"x": pool}, (), "test").to_json()
    spoil(made)
    with pytest.raises(ValueError, match=why):
        OutlierScorer.from_json(made)
