from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as other_mcnemar

from bascule.core.errors import Invalid
from bascule.stats.paired import (
    MAX_EXACT_PAIRS,
    Comparison,
    bootstrap,
    compare_right,
    mcnemar,
    roc_auc_difference,
    tango_score,
)


@given(st.integers(0, 80), st.integers(0, 80))
def test_the_exact_test_of_mcnemar_is_that_of_statsmodels(gained, lost):
    ours = mcnemar(gained, lost)
    theirs = other_mcnemar([[5, lost], [gained, 5]], exact=True).pvalue
    assert ours.exact
    assert ours.p_value == pytest.approx(theirs if gained + lost else 1.0, rel=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(600, 401), (800, 790), (5_000, 5_300)])
def test_beyond_the_exact_bound_the_corrected_test_is_that_of_statsmodels(gained, lost):
    ours = mcnemar(gained, lost)
    theirs = other_mcnemar([[5, lost], [gained, 5]], exact=False, correction=True).pvalue
    assert not ours.exact
    assert ours.p_value == pytest.approx(theirs, rel=1e-9)


def test_the_exact_bound_counts_the_pairs_that_differ():
    assert mcnemar(MAX_EXACT_PAIRS, 0).exact
    assert not mcnemar(MAX_EXACT_PAIRS, 1).exact
    assert mcnemar(520, 480).p_value == pytest.approx(mcnemar(521, 480).p_value, abs=0.02)


def restricted_score(gained: int, lost: int, rows: int, difference: float) -> float:
    """Tango's statistic by its definition: the likelihood's slope is nought where it is largest."""
    same = rows - gained - lost

    def slope(losing: float) -> float:
        cells = ((gained, losing + difference, 1), (lost, losing, 1))
        risen = sum(count / share * sign for count, share, sign in cells if count)
        return risen - 2 * same / (1 - 2 * losing - difference)

    low, high = max(0.0, -difference), (1 - difference) / 2
    inner = 1e-13
    best = low
    if slope(low + inner) > 0:
        best = optimize.brentq(slope, low + inner, high - inner, xtol=1e-15, rtol=1e-14)
    variance = rows * (2 * best + difference - difference**2)
    return (gained - lost - rows * difference) / math.sqrt(variance)


@pytest.mark.parametrize("difference", [-0.3, -0.05, -0.01, 0.02, 0.2])
@pytest.mark.parametrize(
    ("gained", "lost", "rows"),
    [(5, 9, 100), (40, 12, 300), (3, 1, 44), (0, 5, 60), (5, 0, 60), (0, 0, 50)],
)
def test_the_score_of_tango_is_that_of_its_definition(gained, lost, rows, difference):
    ours = tango_score(gained, lost, rows, difference)
    assert ours == pytest.approx(restricted_score(gained, lost, rows, difference), rel=1e-7)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_the_other_way_round_the_ends_change_places(gained, lost, same):
    """So what is measured of the lower end is true of the upper one."""
    rows = gained + lost + same
    one = compare_right(*right(gained, lost, rows))
    other = compare_right(*right(lost, gained, rows))
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-12)
    assert one.lower <= one.difference <= one.upper


def test_at_no_difference_the_score_is_that_of_mcnemar():
    assert tango_score(30, 18, 400, 0) == pytest.approx((30 - 18) / math.sqrt(48))


def right(gained: int, lost: int, rows: int):
    champion = np.zeros(rows, bool)
    candidate = np.zeros(rows, bool)
    candidate[:gained] = True
    champion[gained : gained + lost] = True
    return champion, candidate


def test_the_interval_ends_where_the_score_reaches_its_quantile():
    compared = compare_right(*right(14, 9, 200))
    z = stats.norm.ppf(0.95)
    assert tango_score(14, 9, 200, compared.lower) == pytest.approx(z, abs=1e-9)
    assert tango_score(14, 9, 200, compared.upper) == pytest.approx(-z, abs=1e-9)
    assert compared.difference == 5 / 200
    assert "exact McNemar p = 0.405" in compared.test


def test_the_same_answers_are_not_worse_by_more_than_their_number_can_tell():
    few, many = (compare_right(*right(0, 0, rows)) for rows in (20, 2_000))
    assert few.difference == many.difference == 0
    assert many.is_not_worse_by(0.01)
    assert not few.is_not_worse_by(0.01)


def test_the_margin_is_met_only_by_a_lower_end_that_is_over_it():
    compared = Comparison(0.0, -0.01, 0.01, 0.9, "")
    assert compared.is_not_worse_by(math.nextafter(0.01, 1))
    assert not compared.is_not_worse_by(0.01)


def passing_share(rows: int, margin: float, truth: float, trials: int = 4_000) -> float:
    """How often a candidate passes that is better by `truth` than its champion."""
    random = np.random.default_rng(8)
    losing = 0.06 + max(0.0, -truth)
    shares = (losing + truth, losing, 1 - 2 * losing - truth)
    passed: dict[tuple[int, int], bool] = {}
    count = 0
    for gained, lost, _ in random.multinomial(rows, shares, trials):
        if (gained, lost) not in passed:
            compared = compare_right(*right(gained, lost, rows))
            passed[gained, lost] = compared.is_not_worse_by(margin)
        count += passed[gained, lost]
    return count / trials


@pytest.mark.parametrize("rows", [60, 200, 1_000])
@pytest.mark.parametrize("margin", [0.02, 0.05])
def test_a_candidate_at_the_margin_passes_once_in_twenty(rows, margin):
    """Four thousand trials scatter by a third of a hundredth about the promised 0.05."""
    assert passing_share(rows, margin, -margin) < 0.065


def test_enough_rows_pass_a_candidate_that_is_as_good():
    assert passing_share(2_000, 0.05, 0.0) > 0.99


# -- the bootstrap --


def mean_difference(values):
    return lambda rows: float(values[rows].mean())


@pytest.mark.parametrize("skewed", [False, True])
def test_the_bootstrap_interval_is_that_of_scipy(skewed):
    random = np.random.default_rng(2)
    values = random.exponential(size=80) if skewed else random.normal(size=80)
    ours = bootstrap(mean_difference(values), 80, resamples=9_000)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=9_000, method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours.lower == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.upper == pytest.approx(theirs.high, abs=0.03 * width)
    assert ours.test == "paired bootstrap, BCa, 9000 draws"


def test_groups_of_the_jackknife_change_the_interval_little(monkeypatch):
    values = np.random.default_rng(2).exponential(size=1_000)
    grouped = bootstrap(mean_difference(values), 1_000)
    monkeypatch.setattr("bascule.stats.paired._GROUPS", 1_000)
    whole = bootstrap(mean_difference(values), 1_000)
    assert grouped.lower == pytest.approx(whole.lower, abs=0.1 * (whole.upper - whole.lower))


def test_the_same_rows_give_the_same_interval():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap(mean_difference(values), 50) == bootstrap(mean_difference(values), 50)
    assert bootstrap(mean_difference(values), 50, seed=1) != bootstrap(mean_difference(values), 50)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30))
def test_the_other_way_round_the_ends_of_the_bootstrap_change_places(numbers):
    values = np.array(numbers, float)
    one = bootstrap(mean_difference(values), len(values), resamples=100)
    other = bootstrap(mean_difference(-values), len(values), resamples=100)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-9)


def bootstrapped_passing_share(rows: int, trials: int) -> float:
    """How often a candidate at the margin passes.

    Differences of squared errors, as two regressors have them: skewed, and correlated.
    """
    passed = 0
    for trial in range(trials):
        random = np.random.default_rng(trial)
        shared, own = random.normal(size=(2, rows))
        champion = shared**2
        candidate = (shared + 0.3 * own) ** 2
        # The mean of the candidate's squared error is larger by 0.09, which is the margin.
        values = champion - candidate
        passed += bootstrap(mean_difference(values), rows, resamples=300).is_not_worse_by(0.09)
    return passed / trials


def test_a_bootstrapped_candidate_at_the_margin_passes_once_in_twenty():
    assert bootstrapped_passing_share(120, 400) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "told"), [(20, 1 / 10), (40, 1 / 12), (120, 1 / 16)])
def test_with_few_rows_it_passes_as_often_as_is_told(rows, told):
    """Three standard errors of two thousand trials: 0.020 of the 0.1, 0.016 of the 0.0625."""
    scatter = math.sqrt(told * (1 - told) / 2_000)
    assert bootstrapped_passing_share(rows, 2_000) == pytest.approx(told, abs=3 * scatter)


def test_a_bootstrap_of_identical_answers_has_no_width():
    compared = bootstrap(lambda rows: 0.0, 30)
    assert (compared.difference, compared.lower, compared.upper) == (0, 0, 0)
    assert compared.is_not_worse_by(1e-9)


def test_too_few_rows_are_refused():
    with pytest.raises(Invalid, match="1 rows are too few"):
        bootstrap(lambda rows: 0.0, 1)
    assert bootstrap(lambda rows: 0.0, 2).difference == 0
    with pytest.raises(Invalid, match="0 rows of the champion"):
        compare_right(np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(Invalid, match="3 rows of the champion and 2 of the candidate"):
        compare_right(np.zeros(3, bool), np.zeros(2, bool))


def test_draws_without_a_difference_are_left_out_up_to_one_in_twenty():
    def sometimes(share):
        random = np.random.default_rng(0)
        return lambda rows: math.nan if len(rows) == 9 and random.random() < share else 1.0

    def whole_first(difference):
        calls = iter([1.0])
        return lambda rows: next(calls, None) or difference(rows)

    assert bootstrap(whole_first(sometimes(0.03)), 9).difference == 1.0
    with pytest.raises(Invalid, match="draws of 9 rows have no difference"):
        bootstrap(whole_first(sometimes(0.10)), 9)


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_under_the_curve_is_that_of_scikit_learn(ties):
    random = np.random.default_rng(5)
    truth = random.random(300) < 0.3
    champion, candidate = random.random((2, 300)) + truth * 0.4
    if ties:
        champion, candidate = champion.round(1), candidate.round(1)
    difference = roc_auc_difference(truth, champion, candidate)
    for rows in (np.arange(300), random.integers(0, 300, 300), np.arange(250)):
        expected = roc_auc_score(truth[rows], candidate[rows])
        expected -= roc_auc_score(truth[rows], champion[rows])
        assert difference(rows) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(difference(np.flatnonzero(truth)))


def test_the_interval_of_two_areas_is_near_that_of_delong():
    """DeLong, DeLong and Clarke-Pearson 1988, computed here from the placements."""
    random = np.random.default_rng(6)
    truth = random.random(500) < 0.4
    base = random.normal(size=500) + truth
    champion, candidate = base + random.normal(size=(2, 500)) * 0.7

    def placements(scores):
        yes, no = scores[truth], scores[~truth]
        above = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
        return above.mean(axis=1), above.mean(axis=0)

    (v1, w1), (v0, w0) = placements(candidate), placements(champion)
    variance = (v1 - v0).var(ddof=1) / len(v1) + (w1 - w0).var(ddof=1) / len(w1)
    half = stats.norm.ppf(0.95) * math.sqrt(variance)
    compared = bootstrap(roc_auc_difference(truth, champion, candidate), 500)
    assert compared.upper - compared.lower == pytest.approx(2 * half, rel=0.1)
    assert compared.difference == pytest.approx(v1.mean() - v0.mean())
