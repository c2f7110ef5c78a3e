"""Two-sample tests on profiles: how often they err, what they find, and what a sketch costs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.tiers import first_of

from bascule.stats import CategoryBaseline, ColumnProfile, NumberBaseline, missing_test, range_test
from bascule.stats.two_sample import Scores


def numbers(values) -> ColumnProfile:
    made = ColumnProfile("number")
    made.add(np.asarray(values, np.float64))
    return made


def texts(counts) -> ColumnProfile:
    made = ColumnProfile("text")
    made.add(np.array([one for one, count in counts.items() for _ in range(count)], object))
    return made


@pytest.fixture
def random():
    return np.random.default_rng(11)


def test_the_distance_is_that_of_scipy_where_sketches_are_exact(random):
    then, now = random.normal(size=400), random.normal(0.3, size=90)
    found = NumberBaseline(numbers(then)).score(numbers(now))
    assert found.distance == pytest.approx(stats.ks_2samp(then, now).statistic)
    assert found.slack == 0


def test_a_sketch_takes_its_own_error_off_the_distance(random):
    then, now = random.normal(size=100_000), random.normal(0.1, size=50_000)
    baseline, window = numbers(then), numbers(now)
    found = NumberBaseline(baseline).score(window)
    true = stats.ks_2samp(then, now).statistic
    errors = baseline.quantiles.error / 100_000 + window.quantiles.error / 50_000
    assert true - 2 * errors <= found.distance <= true
    assert found.slack > 0


@pytest.mark.parametrize(
    ("draw", "test"),
    [
        (lambda r: r.normal(0.5, size=500), "location"),
        (lambda r: r.normal(size=500) * 1.3, "spread"),
        (lambda r: np.where(r.random(500) < 0.5, -1, 1) * (0.9 + 0.1 * r.random(500)), "shape"),
    ],
)
def test_each_change_of_a_number_is_found_by_the_test_made_for_it(random, draw, test):
    baseline = NumberBaseline(numbers(random.normal(size=20_000)))
    found = baseline.test(baseline.score(numbers(draw(random))))
    assert found.test == test
    assert found.p_value < 1e-6


@pytest.mark.parametrize("rows", [50, 400])
@pytest.mark.parametrize("law", first_of(["rare", "lognormal", "normal", "poisson"], 2))
def test_numbers_without_drift_are_called_drifted_as_often_as_the_level_says(random, rows, law):
    draws = {
        "normal": lambda n: random.normal(size=n),
        "lognormal": lambda n: random.lognormal(size=n),
        "poisson": lambda n: random.poisson(2.0, n),
        "rare": lambda n: (random.random(n) < 0.03) * random.integers(1, 4, n),
    }
    hits, runs = 0, 1_500
    for _ in range(3):
        baseline = NumberBaseline(numbers(draws[law](2_000)))
        for _ in range(runs // 3):
            values, counts = np.unique(draws[law](rows).astype(float), return_counts=True)
            hits += baseline.test(baseline.score_values(values, counts)).p_value < 0.02
    assert stats.binom.sf(hits - 1, runs, 0.02) > 1e-4


def test_a_small_baseline_counts_with_its_own_error(random):
    """A test that takes 300 rows as exact would call most of these windows drifted."""
    hits = 0
    for _ in range(60):
        baseline = NumberBaseline(numbers(random.normal(size=300)))
        hits += baseline.test(baseline.score(numbers(random.normal(size=20_000)))).p_value < 0.05
    assert hits <= 9


def test_a_constant_baseline_finds_other_values(random):
    baseline = NumberBaseline(numbers(np.full(1_000, 7.0)))
    same = baseline.test(baseline.score(numbers(np.full(100, 7.0))))
    other = baseline.test(baseline.score(numbers(np.r_[np.full(60, 7.0), np.full(40, 8.0)])))
    assert same.p_value == 1
    assert other.p_value < 1e-9


def test_two_categories_have_the_exact_test_of_fisher():
    then, now = texts({"a": 900, "b": 100}), texts({"a": 160, "b": 40})
    found = CategoryBaseline(then).test(now)
    table = [[40, 160], [100, 900]]
    sides = [stats.fisher_exact(table, side).pvalue for side in ("greater", "less")]
    assert found.p_value == pytest.approx(2 * min(sides), rel=1e-6)
    assert found.effect == pytest.approx(0.1)


def test_several_categories_have_the_smallest_exact_p_value_of_one_against_the_others():
    then, now = {"a": 500, "b": 300, "c": 200}, {"a": 40, "b": 60, "c": 50}
    found = CategoryBaseline(texts(then)).test(texts(now))
    table = [[40, 110], [500, 500]]
    assert found.what == "a"
    assert found.p_value == pytest.approx(3 * 2 * stats.fisher_exact(table, "less").pvalue)
    assert found.effect == pytest.approx(40 / 150 - 0.5)


@pytest.mark.parametrize(
    ("shares", "rows", "others"),
    first_of(
        [
            ([0.001] * 1_000, 50, 30),
            ([0.001] * 1_000, 500, 100),
            ([0.98, 0.01, 0.01], 500, 20_000),
            ([0.5, *[0.025] * 20], 50, 20_000),
            ([0.9, *[0.01] * 10], 50, 30),
            ([0.02] * 50, 50, 500),
        ]
    ),
)
def test_sparse_categories_raise_no_more_alarms_than_the_level_says(random, shares, rows, others):
    runs, hits = 2_000, 0
    names = [f"v{place}" for place in range(len(shares))]
    for then, now in zip(
        random.multinomial(others, shares, runs), random.multinomial(rows, shares, runs),
        strict=True,
    ):  # fmt: skip
        baseline, window = (counted(names, counts) for counts in (then, now))
        hits += CategoryBaseline(baseline).test(window).p_value < 0.005
    assert stats.binom.sf(hits - 1, runs, 0.005) > 1e-3


def counted(names, counts) -> ColumnProfile:
    made = ColumnProfile("text")
    made.rows = int(counts.sum())
    present = np.flatnonzero(counts)
    made.frequent.add([names[place] for place in present], counts[present])
    return made


@pytest.mark.parametrize("rows", [50, 500, 50_000])
@pytest.mark.parametrize("categories", [65, 100, 1_000])
@pytest.mark.parametrize("tilt", [0.0, 1.0])
def test_more_categories_than_a_sketch_keeps_raise_no_alarm(random, rows, categories, tilt):
    """The values that are not kept lack the error of each that is kept."""
    shares = np.arange(1, categories + 1) ** -tilt
    names = [f"v{place}" for place in range(categories)]
    baseline = counted(names, random.multinomial(20_000, shares / shares.sum()))
    for _ in range(40):
        window = counted(names, random.multinomial(rows, shares / shares.sum()))
        assert CategoryBaseline(baseline).test(window).p_value > 1e-3


def test_a_change_among_many_categories_is_still_found(random):
    shares = np.arange(1.0, 201.0) ** -1.0
    names = [f"v{place}" for place in range(200)]
    baseline = counted(names, random.multinomial(20_000, shares / shares.sum()))
    shares[1] *= 4
    window = counted(names, random.multinomial(500, shares / shares.sum()))
    found = CategoryBaseline(baseline).test(window)
    assert found.what == "v1"
    assert found.p_value < 1e-6


@pytest.mark.parametrize(("others", "rows"), [(30, 500), (30, 50), (100, 2_000)])
@pytest.mark.parametrize("law", first_of(["pareto", "normal", "poisson"]))
def test_a_baseline_of_few_rows_keeps_the_level(random, others, rows, law):
    """Scores by the quantiles of 30 rows have no law that these rows could tell."""
    draws = {
        "normal": lambda n: random.normal(size=n),
        "pareto": lambda n: random.pareto(1.0, n),
        "poisson": lambda n: random.poisson(2.0, n).astype(float),
    }
    runs, hits = 500, 0
    for _ in range(runs):
        baseline = NumberBaseline(numbers(draws[law](others)))
        values, counts = np.unique(draws[law](rows), return_counts=True)
        hits += baseline.test(baseline.score_values(values, counts)).p_value < 0.01
    assert stats.binom.sf(hits - 1, runs, 0.01) > 1e-3


def test_windows_whose_means_vary_keep_the_level_if_told_by_how_much(random):
    rows = 4_000
    baseline, runs, hits = NumberBaseline(numbers(random.normal(size=20_000))), 300, 0
    for _ in range(runs):
        values = np.sort(random.normal(random.normal(0, 0.1), 1, rows))
        window = numbers(values)
        hits += baseline.test(baseline.score(window), 0.1**2, 0.1**2).p_value < 0.02
    assert stats.binom.sf(hits - 1, runs, 0.02) > 1e-3


def test_a_change_of_shape_says_where(random):
    baseline = NumberBaseline(numbers(random.normal(size=20_000)))
    values = np.where(random.random(2_000) < 0.5, -1, 1) * (0.9 + 0.1 * random.random(2_000))
    found = baseline.test(baseline.score(numbers(values)))
    assert found.test == "shape"
    assert abs(abs(float(found.what)) - 0.9) < 0.02


def test_a_category_of_few_expected_rows_is_found():
    found = CategoryBaseline(texts({"a": 980, "b": 10, "c": 10})).test(texts({"a": 30, "c": 20}))
    assert found.p_value < 1e-9
    assert (found.what, round(found.effect, 2)) == ("c", 0.39)


@pytest.mark.parametrize(("now", "is_found"), [(5, False), (40, True)])
def test_missing_values_are_judged_by_how_many_are_missing_in_all(now, is_found):
    then, window = numbers(np.r_[np.full(50, np.nan), np.zeros(950)]), numbers([])
    window.add(np.r_[np.full(now, np.nan), np.zeros(100 - now)])
    found = missing_test(then, window)
    assert (found.p_value < 1e-6) is is_found
    assert found.effect == pytest.approx(now / 100 - 0.05)
    more = stats.hypergeom.sf(now - 1, 1_100, 50 + now, 100)
    fewer = stats.hypergeom.cdf(now, 1_100, 50 + now, 100)
    assert found.p_value == pytest.approx(min(1, more / 0.9, fewer / 0.1), rel=1e-6)


def test_unseen_rows_are_judged_beside_the_categories_seen_once():
    then = {"a": 900, "b": 97, "c": 1, "d": 1, "e": 1}
    now = {"a": 90, "b": 6, "x": 3, "y": 1}
    found = CategoryBaseline(texts(then)).unseen(texts(now))
    assert found is not None
    assert found.p_value == pytest.approx(stats.nbinom.sf(3, 4, 1_000 / 1_100), rel=1e-9)
    assert (found.statistic, found.what) == (4, "x")
    again = CategoryBaseline(texts(then)).unseen(texts(now), frozenset({"x", "y"}))
    assert again is not None
    assert again.p_value == 1


def test_unseen_rows_are_counted_though_the_sketch_keeps_none_of_them():
    found = CategoryBaseline(texts({"a": 500, "b": 500})).unseen(
        texts({"a": 50, **{f"new{place}": 1 for place in range(450)}})
    )
    assert found is not None
    assert found.effect > 0.8


def test_a_baseline_with_more_categories_than_it_keeps_says_nothing_of_unseen_ones():
    many = CategoryBaseline(texts({f"c{place}": 2 for place in range(100)}))
    assert many.unseen(texts({"new": 10})) is None


def test_values_over_the_range_have_the_law_of_exceedances(random):
    then = numbers(np.linspace(0, 1, 99))
    found = range_test(then, numbers([0.5, 2.0, 3.0]))
    assert found is not None
    assert found.p_value == pytest.approx(2 * (3 / 102) * (2 / 101))
    assert found.effect == pytest.approx(2 / 3)
    inside = range_test(then, numbers([0.0, 1.0]))
    assert inside is not None
    assert inside.p_value == 1


def test_infinite_values_are_out_of_range_where_the_baseline_has_none():
    found = range_test(numbers(np.linspace(0, 1, 1_000)), numbers([0.5] * 17 + [np.inf] * 3))
    assert found is not None
    assert found.p_value < 1e-4
    assert found.effect == pytest.approx(3 / 20)


def test_scores_are_in_deviations_of_the_baseline(random):
    baseline = NumberBaseline(numbers(random.normal(100, 15, 20_000)))
    found = baseline.score(numbers(random.normal(107.5, 15, 20_000)))
    assert isinstance(found, Scores)
    assert found.location == pytest.approx(0.5, abs=0.03)
