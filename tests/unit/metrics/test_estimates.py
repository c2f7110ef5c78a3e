"""Values are those of scikit-learn, and intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from bascule.core import Invalid
from bascule.metrics import (
    METRICS,
    Labelled,
    calibration_error,
    estimate,
    isotonic,
    metric_of,
    reliability_curve,
    score,
    wilson_interval,
)
from bascule.metrics.estimates import _INFLUENCES
from bascule.metrics.intervals import skewed_interval


def classes(rows, random, *, count=2, labels=(0, 1, 2)):
    logits = random.normal(size=(rows, count)) * 1.5
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (chances.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1)
    return Labelled("classification", truth, chances.argmax(axis=1), labels[:count], chances)


def numbers(rows, random, noise=1.0):
    truth = random.gamma(3, 2, rows)
    return Labelled("regression", truth, truth + noise * random.standard_t(10, rows))


@pytest.fixture
def random():
    return np.random.default_rng(5)


FAST = sorted({*_INFLUENCES, "accuracy", "precision", "recall"} - {"ece"})


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("count", [2, 3])
def test_a_value_is_that_of_the_scorer(random, name, count):
    of_numbers = metric_of(name).of_numbers
    rows = numbers(300, random) if of_numbers else classes(300, random, count=count)
    if count > 2 and metric_of(name).with_more_classes:
        assert metric_of(name).with_more_classes in estimate(name, rows).note
        return
    if of_numbers:
        known = score(name, rows.truth, {"prediction": rows.answers}, task="regression")
    else:
        outputs = {"label": rows.answers, "probabilities": rows.probabilities}
        known = score(name, rows.truth, outputs, task="classification", classes=range(count))
    found = estimate(name, rows)
    assert found.value == pytest.approx(known.value, rel=1e-9)
    assert found.lower < found.value < found.upper
    assert found.rows == 300


@pytest.mark.parametrize("name", FAST)
def test_the_error_is_that_of_many_samples(random, name):
    """The deviation of the values of 300 samples, within what 300 samples can tell."""
    make = numbers if metric_of(name).of_numbers else classes
    found = [estimate(name, make(400, random)) for _ in range(300)]
    deviation = np.std([one.value for one in found])
    claimed = np.mean([one.error for one in found])
    heavy = name in ("mse", "rmse", "r2")  # squares of long tails
    assert claimed == pytest.approx(deviation, rel=0.3 if heavy else 0.15)


def coverage(name, make, truth, draws):
    found = [estimate(name, make()) for _ in range(draws)]
    return np.mean([one.lower <= truth <= one.upper for one in found])


CASES = [
    ("accuracy", 30), ("accuracy", 500), ("auc", 60), ("auc", 500), ("f1", 200), ("log_loss", 200),
    ("brier", 100), ("mae", 100), ("rmse", 200), ("r2", 200), ("pinball_90", 200),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows"), CASES)
def test_an_interval_at_95_percent_holds_the_truth_that_often(random, name, rows):
    make = numbers if metric_of(name).of_numbers else classes
    truth = estimate(name, make(2_000_000, random)).value
    found = coverage(name, lambda: make(rows, random), truth, 2_000)
    assert 0.925 <= found <= 0.975


def test_an_interval_of_few_rows_holds_a_rare_failure(random):
    """The normal interval of a share of 0.99 of 50 rows misses it in 60 % of the samples."""
    found = [wilson_interval(random.binomial(50, 0.99), 50) for _ in range(2_000)]
    assert np.mean([low <= 0.99 <= high for low, high in found]) >= 0.9


def test_the_interval_of_a_skewed_loss_is_longer_on_the_side_of_the_tail(random):
    found = estimate("mse", numbers(200, random))
    assert found.upper - found.value > 1.2 * (found.value - found.lower)


@pytest.mark.slow
def test_a_scorer_without_an_influence_has_the_interval_of_a_bootstrap(random):
    found = estimate("matthews_corrcoef", classes(200, random))
    assert found.method == "bootstrap"
    assert found.lower < found.value < found.upper
    assert found == estimate("matthews_corrcoef", classes(200, np.random.default_rng(5)))


@pytest.mark.parametrize(
    ("name", "rows", "why"),
    [
        ("rmse", Labelled("classification", np.array([0]), np.array([0]), ("a",)), "of numbers"),
        ("accuracy", Labelled("regression", np.ones(1), np.ones(1)), "of classes"),
        ("auc", Labelled("classification", np.array([0]), np.array([0]), (0, 1)), "probabilities"),
        ("f1", Labelled("classification", np.array([0]), np.array([0]), ("a", "b")), "class 1"),
        ("r2", Labelled("regression", np.ones(3), np.ones(3)), "no value"),
        ("mae", Labelled("regression", np.ones(0), np.ones(0)), "no rows"),
    ],
)
def test_a_metric_without_a_value_says_why(name, rows, why):
    found = estimate(name, rows)
    assert found.value is None
    assert why in found.note


def test_a_truth_that_is_no_class_counts_as_wrong(random):
    rows = classes(100, random)
    rows.truth[:10] = -1
    for name in ("accuracy", "log_loss", "brier", "auc", "f1"):
        better = estimate(name, rows.take(np.arange(10, 100))).value
        worse = estimate(name, rows).value
        assert (worse > better) == METRICS[name].is_error, name


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(Invalid, match="no metric 'acuracy'") as caught:
        metric_of("acuracy")
    assert "did you mean 'accuracy'?" in caught.value.hint


def test_the_calibration_error_is_small_for_true_probabilities_and_the_gap_for_others(random):
    chances = random.random(20_000)
    happened = random.random(20_000) < chances
    assert calibration_error(happened, chances) < 0.02
    assert calibration_error(happened, chances * 0.5) == pytest.approx(0.25, abs=0.01)
    curve = reliability_curve(happened, chances * 0.5)
    assert [one.rows for one in curve] == [2_000] * 10
    assert curve[-1].observed == pytest.approx(2 * curve[-1].predicted, rel=0.05)


def test_rows_of_one_probability_are_in_one_bin():
    curve = reliability_curve(np.array([1, 0, 1, 1]), np.array([0.5, 0.5, 0.5, 0.9]), bins=4)
    assert [(one.rows, one.observed) for one in curve] == [(3, pytest.approx(2 / 3)), (1, 1.0)]


def test_the_isotonic_fit_is_that_of_scikit_learn(random):
    scores = np.round(random.random(500), 2)
    events = random.random(500) < scores**2
    ours = isotonic(scores, events)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, events)
    asked = np.linspace(-0.5, 1.5, 1_001)
    assert ours(asked) == pytest.approx(theirs.predict(asked), abs=1e-12)


@pytest.mark.parametrize(
    "skewness", [sign * 10.0**-power for sign in (1, -1) for power in range(1, 20)]
)
def test_an_interval_contains_its_value_where_losses_are_as_good_as_symmetric(skewness):
    """Digits were lost to a skewness of 1e-17: 18.04 had the interval 18.04 to -135.9."""
    lower, upper = skewed_interval(18.04, 3.0, skewness, rows=60)
    exact = skewed_interval(18.04, 3.0, 0.0, rows=60)

    assert lower < 18.04 < upper
    assert (lower, upper) == pytest.approx(exact, abs=abs(skewness) + 1e-9)


@pytest.mark.parametrize("name", ["log_loss", "brier"])
def test_a_loss_of_very_few_rows_has_no_interval_and_says_so(random, name):
    few = estimate(name, classes(3, random))

    assert few.value is not None
    assert (few.lower, few.upper, few.note) == (None, None, "too few rows for an interval")
    assert estimate(name, classes(4, random)).lower is not None
