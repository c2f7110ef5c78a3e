"""Detectors over many windows: slow changes, weekdays, and windows that depend on one another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.tiers import first_of

from bascule.stats import WINDOWS, SlowDetector, weekday_test
from bascule.stats.tails import Atoms


def law() -> Atoms:
    scores = np.linspace(-2.5, 2.5, 101)
    shares = np.exp(-(scores**2) / 2)
    shares /= shares.sum()
    return Atoms(scores / math.sqrt(shares @ scores**2), shares)


def windows_until(detector, shift, rows, random, most=400):
    for window in range(1, most + 1):
        evidence = detector.add(random.normal(shift, rows**-0.5), rows)
        if evidence >= math.log(365 * 30):
            return window
    return most


def test_a_shift_that_no_window_shows_is_found_over_several():
    random = np.random.default_rng(3)
    waited = [windows_until(SlowDetector(law(), 10**6), 0.1, 500, random) for _ in range(21)]
    assert 4 <= np.median(waited) <= 12


def test_windows_without_a_shift_raise_no_alarm_in_a_year():
    random = np.random.default_rng(4)
    found = [windows_until(SlowDetector(law(), 10**6), 0.0, 500, random, 365) for _ in range(40)]
    assert sum(one < 365 for one in found) <= 1


@pytest.mark.parametrize(("others", "tolerance"), [(10**6, 0.02), (900, 0.1), (20, 3 / 20**0.5)])
def test_the_error_of_a_small_baseline_is_no_change(others, tolerance):
    detector = SlowDetector(law(), others)
    assert detector.tolerance == pytest.approx(tolerance)
    for _ in range(365):
        evidence = detector.add(tolerance * 0.99, 5_000)
    assert evidence < math.log(365 * 30)


def test_an_alarm_starts_it_again():
    detector = SlowDetector(law(), 10**6)
    assert detector.add(1.0, 500) > 50
    detector.restart()
    assert detector.add(0.0, 500) < 1


def test_a_mean_of_evidence_under_no_drift_is_at_most_the_windows_so_far():
    """The promise of an e-detector: E[M] <= number of windows."""
    random, means = np.random.default_rng(5), []
    for _ in range(2_000):
        detector = SlowDetector(law(), 10**6)
        for _ in range(5):
            evidence = detector.add(
                float(random.choice(law().values, 40, p=law().shares).mean()), 40
            )
        means.append(math.exp(evidence))
    assert np.mean(means) <= 5


def judged(series, value, day=None):
    days = np.arange(len(series)) % 7
    day = len(series) % 7 if day is None else day
    found = weekday_test(
        days, np.asarray(series)[:, None], day, np.array([value]), np.array([0.01])
    )
    return None if found is None else found[0]


def test_there_is_no_reference_before_56_windows():
    assert judged(np.zeros(WINDOWS - 1), 1.0) is None
    assert judged(np.zeros(WINDOWS), 1.0) is not None


def test_a_weekend_is_compared_with_weekends():
    random = np.random.default_rng(6)
    series = np.where(np.arange(WINDOWS) % 7 >= 5, 0.5, 0.0) + random.normal(size=WINDOWS) * 0.02
    assert judged(series, 0.5, day=6).p_value > 0.01
    assert judged(series, 0.5, day=2).p_value < 1e-6
    assert judged(series, 0.0, day=6).p_value < 1e-6


def test_a_series_that_never_moved_is_as_uncertain_as_its_rows():
    """Zero missing values in 56 days, and then one: no division by nothing."""
    found = judged(np.zeros(WINDOWS), 0.02)
    assert found.p_value > 0.05
    assert found.overdispersion == pytest.approx(0, abs=1e-6)


def autoregressive(phi, length, random):
    made = random.normal(size=length)
    for place in range(1, length):
        made[place] = phi * made[place - 1] + math.sqrt(1 - phi * phi) * made[place]
    return made * 0.05


@pytest.mark.parametrize("phi", first_of([0.0, 0.7]))
def test_days_that_depend_on_one_another_keep_the_level(phi):
    random, hits, runs = np.random.default_rng(7), 0, 4_000
    for _ in range(runs):
        series = autoregressive(phi, WINDOWS + 1, random)
        hits += judged(series[:-1], series[-1]).p_value < 0.005
    assert hits / runs < 0.01


def test_days_that_hardly_change_from_one_to_the_next_are_not_alarmable():
    random = np.random.default_rng(8)
    flags = {
        phi: np.mean(
            [not judged(autoregressive(phi, WINDOWS, random), 0).is_alarmable for _ in range(200)]
        )
        for phi in (0.5, 0.99)
    }
    assert flags[0.5] < 0.05
    assert flags[0.99] > 0.4
