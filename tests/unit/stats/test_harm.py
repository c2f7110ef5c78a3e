"""The detector of harm: its bound, its false alarms, and how soon it finds a higher loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.tiers import first_of

from bascule.stats import HarmDetector, risk_bounds


def test_the_bounds_hold_for_all_bins_at_once_in_all_but_a_few_samples():
    random, rates, misses = np.random.default_rng(0), np.array([0.02, 0.1, 0.4]), 0
    for _ in range(400):
        bins = random.integers(0, 3, 600)
        losses = (random.random(600) < rates[bins]).astype(float)
        misses += bool((risk_bounds(losses, bins, 3, 0.05) < rates).any())
    assert misses / 400 < 0.05


def test_a_bin_without_rows_can_show_no_harm():
    bounds = risk_bounds(np.zeros(100), np.zeros(100, np.int64), 2, 0.05)
    assert bounds[1] == 1
    assert 0 < bounds[0] < 0.05
    detector = HarmDetector(bounds)
    assert detector.add(np.array([0, 500]), np.array([0.0, 500.0])) == pytest.approx(0)


def alarms_in_a_year(random, draw, level):
    detector, found = HarmDetector(np.array([0.1, 0.3])), 0
    for _ in range(365):
        rows = random.multinomial(100, [0.5, 0.5])
        if detector.add(rows, draw(rows)) >= math.log(1 / level):
            found += 1
            detector.restart()
    return found


@pytest.mark.parametrize("law", first_of(["binary", "beta"]))
def test_false_alarms_at_the_bound_keep_the_level(law):
    """At 1/100 a window, 3.65 a year are allowed, for any law of losses with that mean."""
    random, means = np.random.default_rng(1), np.array([0.1, 0.3])

    def draw(rows):
        if law == "binary":
            return random.binomial(rows, means).astype(float)
        draws = [random.beta(2 * m, 2 * (1 - m), n) for n, m in zip(rows, means, strict=True)]
        return np.array([one.sum() for one in draws])

    found = [alarms_in_a_year(random, draw, 1 / 100) for _ in range(40)]
    assert np.mean(found) < 3.65


def test_a_higher_loss_is_found_within_days_also_after_a_good_year():
    random, detector = np.random.default_rng(2), HarmDetector(np.array([0.1]))
    rows = np.array([200])
    for _ in range(365):
        detector.add(rows, random.binomial(rows, 0.08).astype(float))
    days = 1
    while detector.add(rows, random.binomial(rows, 0.16).astype(float)) < math.log(1e4):
        days += 1
    assert 2 <= days <= 15


def test_harder_rows_with_the_loss_that_their_bin_has_are_no_harm():
    detector = HarmDetector(np.array([0.05, 0.4]))
    for _ in range(100):
        evidence = detector.add(np.array([0, 200]), np.array([0.0, 80.0]))
    assert evidence < math.log(1e3)


def test_days_that_differ_count_less_and_a_lasting_harm_does_not_count_as_such():
    random, rows = np.random.default_rng(3), np.array([2_000])
    alike, differ, harmed = (HarmDetector(np.array([0.2])) for _ in range(3))
    for day in range(40):
        alike.add(rows, random.binomial(rows, 0.15).astype(float))
        differ.add(rows, random.binomial(rows, random.choice([0.1, 0.2])).astype(float))
        harmed.add(rows, random.binomial(rows, 0.1 if day < 20 else 0.3).astype(float))
    assert alike.overdispersion < 1.6
    assert differ.overdispersion > 10
    assert harmed.overdispersion < differ.overdispersion / 2
