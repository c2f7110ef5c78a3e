"""Queries that look for the model, and honest ones: the statistic and its false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bascule.stats import QUERIES, KnownRows, query_distances, shapiro_wilk

COLUMNS = 6


def world(kind, random, rows):
    if kind == "normal":
        return random.normal(size=(rows, COLUMNS))
    if kind == "skewed":
        return np.exp(random.normal(size=(rows, COLUMNS)))
    return random.integers(0, 4, (rows, COLUMNS)).astype(float)


def classes(rows):
    return (rows[:, 0] > np.e**0.2).astype(int) + (rows[:, 1] > 1.5)


def known(kind, random, rows=400):
    held_out = world(kind, random, rows)
    return KnownRows({"x": held_out}, classes(held_out))


def test_the_statistic_is_that_of_scipy():
    random = np.random.default_rng(0)
    for values in (random.normal(size=12), random.exponential(size=299), random.random(60)):
        assert shapiro_wilk(values) == pytest.approx(stats.shapiro(values)[0], abs=1e-6)
    assert shapiro_wilk(np.ones(20)) == 0


def test_a_query_is_compared_with_earlier_ones_of_its_class_that_are_far_enough():
    rows = np.array([[0.0], [10.0], [4.0], [4.1], [10.5]])
    assert query_distances(rows, np.zeros(5)) == pytest.approx([10, 4, 4.1, 0.5])
    assert query_distances(rows, np.array([0, 1, 0, 0, 1])) == pytest.approx([4, 0.1, 0.5])


@pytest.mark.parametrize("kind", ["normal", "skewed", "coded"])
def test_queries_that_fill_the_space_or_walk_about_are_found(kind):
    random = np.random.default_rng(1)
    rows, held_out = known(kind, random), world(kind, random, 400)
    filling = random.uniform(held_out.min(axis=0), held_out.max(axis=0), (QUERIES, COLUMNS))
    walking = np.cumsum(random.normal(0, 0.03, (QUERIES, COLUMNS)), axis=0) + held_out[0]
    for queries in (walking,) if kind == "coded" else (filling, walking):
        assert rows.p_value({"x": queries}, classes(queries)) < 1e-4
    honest = world(kind, random, QUERIES)
    assert rows.p_value({"x": honest}, classes(honest)) > 1e-3


def false_alarms(kind, trials, level):
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(trials):
        rows = known(kind, random)
        for _ in range(10):
            queries = world(kind, random, QUERIES)
            alarms += rows.p_value({"x": queries}, classes(queries)) <= level
    return alarms


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "skewed", "coded"])
def test_false_alarms_of_honest_callers_keep_their_level(kind):
    """1,500 tests at 1 %: no more alarms than chance has in one of 1,000 such simulations."""
    tests, level = 1_500, 0.01
    assert false_alarms(kind, tests // 10, level) <= stats.binom.isf(1e-3, tests, level)


def test_all_tests_of_a_day_together_have_the_budget():
    shares = [(rank * block) ** -2 for rank in range(1, 500) for block in range(1, 500)]
    assert 0.99 < 36 / math.pi**4 * sum(shares) < 1
