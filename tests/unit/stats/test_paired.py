from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as other_mcnemar
from tests.tiers import examples, first_of

from bascule.core.errors import Invalid
from bascule.stats.paired import (
    MAX_EXACT_PAIRS,
    MIN_ROWS,
    RESAMPLES,
    Comparison,
    bootstrap,
    compare_right,
    mcnemar,
    roc_auc_difference,
    student_quantile,
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
    assert many.lower > -0.01
    assert few.lower <= -0.01


def test_the_margin_is_met_only_by_a_lower_end_that_is_over_it():
    compared = Comparison(0.0, -0.01, 0.01, 0.9, "")
    assert compared.lower > -math.nextafter(0.01, 1)
    assert compared.lower <= -0.01


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
            passed[gained, lost] = compared.lower > -margin
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


def share_asked(rows):
    """At which an end is asked, so that it errs once in twenty times."""
    return 0.05 * rows / (rows + 40)


@pytest.mark.parametrize("kind", ["normal", "gaining", "losing"])
def test_the_farther_of_two_intervals_of_scipy_counts(kind):
    """Of few rows neither alone errs as seldom as was promised, so the interval had to change."""
    random = np.random.default_rng(2)
    values = random.normal(size=80) if kind == "normal" else random.exponential(size=80)
    values = -values if kind == "losing" else values
    ours = bootstrap(mean_difference(values), 80, resamples=9_000)
    low = stats.t.ppf(share_asked(80), 79)
    expanded = stats.norm.cdf(low * math.sqrt(80 / 79))
    bca = stats.bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * expanded, n_resamples=9_000, method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    half = -low * stats.sem(values)
    width = bca.high - bca.low
    assert ours.lower == pytest.approx(min(bca.low, values.mean() - half), abs=0.04 * width)
    assert ours.upper == pytest.approx(max(bca.high, values.mean() + half), abs=0.04 * width)
    assert ours.test == "paired bootstrap, the wider of BCa and Student's t, 9000 draws"


@pytest.mark.parametrize("degrees", [MIN_ROWS - 1, 40, 199, 5_000])
@pytest.mark.parametrize("share", [0.001, 0.0167, 0.05])
def test_the_quantile_of_student_is_that_of_scipy(share, degrees):
    assert student_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), abs=2e-3)
    assert student_quantile(1 - share, degrees) == pytest.approx(
        -student_quantile(share, degrees), rel=1e-9
    )


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


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=MIN_ROWS, max_size=50))
def test_the_other_way_round_the_ends_of_the_bootstrap_change_places(numbers):
    values = np.array(numbers, float)
    one, other = (
        bootstrap(mean_difference(sign * values), len(values), reach=1.0, resamples=100)
        for sign in (1, -1)
    )
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-9)


def squared_errors(random, rows, own=0.3):
    """Differences of squared errors, as two regressors have them: skewed, and correlated.

    The mean of the candidate's is larger by the square of `own`.
    """
    shared, noise = random.normal(size=(2, rows))
    return shared**2 - (shared + own * noise) ** 2


def shares_of_rows(gained, lost):
    """Of a scorer that says right or wrong of each row, and is not `accuracy`."""

    def values(random, rows):
        found = random.random(rows)
        return np.where(found < lost, -1.0, np.where(found < lost + gained, 1.0, 0.0))

    return values


DIFFERENCES = {
    # Differences of a row, and by how much the candidate is worse on average.
    "normal": (lambda random, rows: random.normal(-0.3, 1, rows), 0.3),
    "squared errors": (squared_errors, 0.09),
    "skewed squared errors": (lambda random, rows: squared_errors(random, rows, 1.0), 1.0),
    "heavy tails": (lambda random, rows: random.standard_t(3, rows) - 0.3, 0.3),
    "exponential losses": (lambda random, rows: -random.exponential(size=rows), 1.0),
    "lognormal losses": (lambda random, rows: -random.lognormal(size=rows), math.exp(0.5)),
    "rare losses": (shares_of_rows(0.0, 0.05), 0.05),
    "as many gains": (shares_of_rows(0.05, 0.05), 0.0001),
    "few gains": (shares_of_rows(0.05, 0.1), 0.05),
}


def bootstrapped_passing_share(kind, rows, trials, *, better=0.0, resamples=RESAMPLES):
    """How often a candidate passes that is at the margin, or `better` than that."""
    draw, margin = DIFFERENCES[kind]
    passed = 0
    for trial in range(trials):
        values = draw(np.random.default_rng([trial, rows]), rows)
        compared = bootstrap(mean_difference(values), rows, reach=1.0, resamples=resamples)
        passed += compared.lower > -(margin + better)
    return passed / trials


@pytest.mark.parametrize(
    ("kind", "rows"), first_of([("few gains", 20), ("heavy tails", 120), ("squared errors", 40)])
)
def test_a_bootstrapped_candidate_at_the_margin_passes_once_in_twenty(kind, rows):
    """The short form of the measurement below, within three standard errors of 200 trials."""
    share = bootstrapped_passing_share(kind, rows, 200, resamples=300)
    assert share < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [MIN_ROWS, 40, 120, 500])
@pytest.mark.parametrize("kind", sorted(DIFFERENCES))
def test_on_few_rows_too_it_passes_once_in_twenty(kind, rows):
    """At most 6 %, and two standard errors of two thousand trials, which are 1 %.

    Losses with one very long tail are the exception, and criteria.md tells of it.
    """
    most = 0.075 if kind == "lognormal losses" and rows < 500 else 0.06
    assert bootstrapped_passing_share(kind, rows, 2_000) < most + 0.01


@pytest.mark.slow
def test_on_many_rows_it_passes_nearly_as_often_as_before():
    """Plain BCa passed 80 of 100 candidates that are better than the margin by so much."""
    better = (stats.norm.ppf(0.8) + stats.norm.ppf(0.95)) / math.sqrt(500)
    assert bootstrapped_passing_share("normal", 500, 1_000, better=better) > 0.72


def ranks_passing_share(rows, share_of_yes, trials, resamples):
    """Of candidates whose area under the ROC curve is smaller by the margin; it is no mean."""
    noises = (0.5, 0.9)
    areas = [stats.norm.cdf(1.2 / math.sqrt(2 * (1 + noise**2))) for noise in noises]
    passed = judged = 0
    for trial in range(trials):
        random = np.random.default_rng(trial)
        truth = random.random(rows) < share_of_yes
        base = random.normal(size=rows) + 1.2 * truth
        champion, candidate = (base + noise * random.normal(size=rows) for noise in noises)
        fewest = int(min(truth.sum(), (~truth).sum()))
        if fewest < MIN_ROWS:
            continue
        difference = roc_auc_difference(truth, champion, candidate)
        compared = bootstrap(difference, rows, fewest=fewest, reach=0.5, resamples=resamples)
        passed += compared.lower > -(areas[0] - areas[1])
        judged += 1
    return passed / judged


@pytest.mark.slow
def test_a_candidate_whose_ranks_are_at_the_margin_passes_once_in_twenty():
    assert ranks_passing_share(100, 0.4, 150, 200) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "share_of_yes"), [(70, 0.4), (300, 0.1), (500, 0.4)])
def test_on_few_rows_of_a_class_ranks_pass_once_in_twenty_too(rows, share_of_yes):
    assert ranks_passing_share(rows, share_of_yes, 2_000, 300) < 0.07


# -- what was not seen --


@pytest.mark.parametrize("rows", [MIN_ROWS, 200, 2_000])
def test_identical_answers_are_not_worse_by_more_than_their_number_can_tell(rows):
    """They had no width once, and passed at every margin; now the rule of three gives it one."""
    compared = bootstrap(lambda rows: 0.0, rows, reach=1.0, resamples=50)
    loses = 1 - 0.05 ** (1 / rows)
    assert (compared.difference, compared.lower) == (0, pytest.approx(-loses))
    assert compared.upper == pytest.approx(loses)
    assert loses == pytest.approx(3 / rows, rel=0.1)
    assert compared.test.endswith("the width is what so many cannot rule out")


def test_what_one_row_can_cost_scales_what_was_not_seen():
    whole, half = (
        bootstrap(lambda rows: 0.0, 100, reach=reach, resamples=50).lower for reach in (1.0, 0.5)
    )
    assert half == pytest.approx(whole / 2)


def test_the_rarest_class_tells_how_much_was_not_seen():
    compared = bootstrap(lambda rows: 0.0, 1_000, fewest=30, reach=1.0, resamples=50)
    assert compared.lower == pytest.approx(-(1 - 0.05 ** (1 / 30)))


@pytest.mark.parametrize("told", [0.0, -0.3])
def test_without_a_bound_identical_differences_are_not_judged(told):
    with pytest.raises(Invalid, match="tell the same difference"):
        bootstrap(lambda rows: told, 100, resamples=50)


def test_gains_alone_do_not_rule_out_losses():
    """No draw of these rows loses anything; the width comes from a row like those that gained."""
    values = np.zeros(40)
    values[:4] = 1
    compared = bootstrap(mean_difference(values), 40, resamples=400)
    assert compared.lower <= 0.1 - (1 - 0.05 ** (1 / 40)) + 1e-9


def test_rows_that_all_differ_need_no_bound():
    values = np.random.default_rng(4).normal(size=400)
    unbounded, bounded = (
        bootstrap(mean_difference(values), 400, reach=reach, resamples=50) for reach in (None, 50)
    )
    assert unbounded == bounded


# -- too few rows --


def test_the_fewest_rows_are_judged_and_one_less_is_not():
    values = np.random.default_rng(4).normal(size=MIN_ROWS)
    assert math.isfinite(bootstrap(mean_difference(values), MIN_ROWS).lower)
    with pytest.raises(Invalid, match=f"{MIN_ROWS - 1} rows are too few to compare on; {MIN_ROWS}"):
        bootstrap(mean_difference(values), MIN_ROWS - 1)


def test_the_fewest_rows_of_a_class_are_judged_and_one_less_is_not():
    values = np.random.default_rng(4).normal(size=500)
    assert math.isfinite(bootstrap(mean_difference(values), 500, fewest=MIN_ROWS).lower)
    with pytest.raises(Invalid, match=f"{MIN_ROWS - 1} rows of the rarest class are too few"):
        bootstrap(mean_difference(values), 500, fewest=MIN_ROWS - 1)


def test_fewer_rows_of_a_class_widen_the_interval():
    values = np.random.default_rng(4).normal(size=500)
    many, few = (bootstrap(mean_difference(values), 500, fewest=some) for some in (500, 30))
    assert few.lower < many.lower


def test_rows_that_are_not_the_same_are_refused():
    with pytest.raises(Invalid, match="0 rows of the champion"):
        compare_right(np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(Invalid, match="3 rows of the champion and 2 of the candidate"):
        compare_right(np.zeros(3, bool), np.zeros(2, bool))


def test_draws_without_a_difference_are_left_out_up_to_one_in_twenty():
    def sometimes(share):
        random = np.random.default_rng(0)
        return lambda rows: math.nan if len(rows) == 49 and random.random() < share else 1.0

    def whole_first(difference):
        calls = iter([1.0])
        return lambda rows: next(calls, None) or difference(rows)

    assert bootstrap(whole_first(sometimes(0.03)), 49, reach=1.0).difference == 1.0
    with pytest.raises(Invalid, match="draws of 49 rows have no difference"):
        bootstrap(whole_first(sometimes(0.10)), 49, reach=1.0)


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
