"""The share of prediction sets and intervals that hold the truth, as a gate."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bascule
from bascule.core.errors import Invalid
from bascule.release import Criterion, check
from bascule.stats.conformal import Scores, rank

T0 = datetime(2026, 3, 1, tzinfo=UTC)
GATE = "conformal_coverage[0.9] >= 0.8"


@pytest.fixture(scope="module")
def rows():
    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(4).permutation(len(X))
    parts = np.split(order, [180, 300])
    return [(X[part], y[part]) for part in parts]


@pytest.fixture(scope="module")
def make(tmp_path_factory, rows):
    def pack(**how):
        (X, y), _, _ = rows
        place = tmp_path_factory.mktemp("packed") / "m"
        model = Ridge().fit(X, y)
        return bascule.pack(model, name="m", train=(X, y), to=place, measure=False, **how)

    return pack


@pytest.fixture(scope="module")
def apart(make, rows):
    """Calibrated on rows of their own, with other rows for the gates."""
    _, calibration, test = rows
    return make(calibration=calibration, test=test)


@pytest.fixture(scope="module")
def circular(make, rows):
    """Calibrated on its test rows."""
    return make(test=rows[2])


def judged(bundle, text=GATE, **how):
    report = check(bundle, [text], now=T0, by="ada", record=lambda report: None, **how)
    (result,) = report.results
    return result


def test_coverage_is_the_share_of_the_rows_whose_truth_is_inside(apart, rows):
    X, y = rows[2]
    answer = apart.predict(X, confidence=0.9)
    inside = (answer["lower"] <= y) & (y <= answer["upper"])

    result = judged(apart)
    assert result.value == pytest.approx(inside.mean())
    assert result.passed
    assert f"{inside.sum()} of {len(y)} rows that did not calibrate it" in result.reason


def test_the_reason_says_exactly_how_sure_the_share_is(apart):
    from scipy import stats

    reason = judged(apart).reason
    covered, asked = round(judged(apart).value * 142), 142
    law = stats.betabinom(asked, rank(120, 0.9), 121 - rank(120, 0.9))
    ends = stats.binomtest(covered, asked).proportion_ci(0.95, "exact")
    assert f"covers {ends.low:.4g} to {ends.high:.4g} of such rows (Clopper-Pearson" in reason
    assert f"{law.cdf(covered):.2g} cover so few or fewer" in reason
    assert "(their coverage is Beta(109, 12))" in reason


def test_a_classifier_is_asked_for_its_sets_in_which_no_unknown_label_is(tmp_path):
    X, y = load_breast_cancer(return_X_y=True)
    words = np.where(y == 1, "good", "bad").astype(object)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:200], words[:200])
    bundle = bascule.pack(
        model, name="m", train=X[:200], calibration=(X[200:380], words[200:380]),
        test=(X[380:], words[380:]), to=tmp_path / "m", measure=False,
    )  # fmt: skip
    sets = bundle.predict(X[380:], confidence=0.9)["prediction_set"]
    assert judged(bundle).value == pytest.approx(sets[np.arange(len(sets)), y[380:]].mean())
    strange = words[380:].copy()
    strange[:20] = "new"
    assert judged(bundle, test=(X[380:], strange)).value <= 1 - 20 / len(strange)


# -- rows that calibrated cannot be asked --


def test_test_rows_that_calibrated_cannot_measure_and_the_gate_fails(circular):
    result = judged(circular)
    assert (result.value, result.passed) == (None, False)
    assert "the rows are those that it was calibrated on" in result.reason
    assert "--test" in result.reason


def test_given_the_very_rows_that_calibrated_the_gate_fails(apart, circular, rows):
    _, calibration, test = rows
    for bundle, own in ((apart, calibration), (circular, test)):
        assert judged(bundle, test=own).value is None
        X, y = own
        assert judged(bundle, test=(X[::-1], y[::-1])).value is None, "in another order"


def test_rows_that_calibrated_are_left_out_of_those_that_are_given(circular, rows):
    _, (X, y), (own_X, own_y) = rows
    alone = judged(circular, test=(X, y))
    mixed = judged(circular, test=(np.vstack([X, own_X]), np.concatenate([y, own_y])))
    assert alone.value == mixed.value
    assert f"({len(own_y)} that calibrated it are left out)" in mixed.reason


def test_rows_are_known_again_where_the_bundle_does_not_hold_them(make, rows):
    bundle = make(test=rows[2], keep_test=False)
    assert judged(bundle, test=rows[2]).value is None
    assert judged(bundle, test=rows[1]).passed


def test_a_bundle_that_says_nothing_of_its_calibration_rows_fails(apart, tmp_path):
    place = shutil.copytree(apart.path, tmp_path / "m")
    for file in (place / "statements").glob("calibration-*.json"):
        file.unlink()
    assert "nothing says which rows" in judged(bascule.load(place)).reason


def test_where_the_rows_are_too_many_to_know_each_a_shared_one_fails_it(make, rows, monkeypatch):
    from bascule.packing.statements import training

    monkeypatch.setattr(training, "KEPT_HASHES", 60)
    _, (X, y), (other_X, other_y) = rows
    bundle = make(calibration=(X, y))
    assert judged(bundle, test=(other_X, other_y)).passed
    mixed = np.vstack([other_X, X[:60]]), np.concatenate([other_y, y[:60]])
    assert "of so many it is not kept which" in judged(bundle, test=mixed).reason


@pytest.mark.parametrize("seed", range(5))
def test_leaving_one_out_would_measure_nothing(seed):
    """Why it is not done: the share is k / n for any scores at all, good or bad."""
    scores = np.random.default_rng(seed).lognormal(sigma=3, size=50)
    covered = sum(scores[at] <= Scores.of(np.delete(scores, at)).threshold(0.9) for at in range(50))
    assert covered == rank(49, 0.9) == 45


# -- what cannot be measured fails --


def test_without_a_calibration_or_with_too_small_a_one_the_gate_fails(make, rows, apart):
    assert "has no calibration" in judged(make(), test=rows[1]).reason
    too_sure = judged(apart, "conformal_coverage[0.999] >= 0.9")
    assert not too_sure.passed
    assert "is more than 120 calibration rows can support" in too_sure.reason


# -- how it is written --


def test_it_is_written_with_its_confidence_in_brackets():
    made = Criterion.parse("conformal_coverage[0.9] >= 0.88")
    assert (str(made), made.measure) == (
        "conformal_coverage[0.9] >= 0.88", "conformal_coverage[0.9]"
    )  # fmt: skip


@pytest.mark.parametrize("inside", ["", "[]", "[1]", "[0]", "[1.0]", "[0.0]", "[x]", "[-0.5]"])
def test_without_a_confidence_between_0_and_1_it_is_refused(inside):
    with pytest.raises(Invalid, match="confidence") as caught:
        Criterion.parse(f"conformal_coverage{inside} >= 0.88")
    assert "conformal_coverage[0.9]" in caught.value.hint
