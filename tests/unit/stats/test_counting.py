"""Shares that were counted, beside scipy's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st
from scipy import stats

from bascule.core.errors import Invalid
from bascule.stats.counting import (
    beta_below,
    beta_binomial_below,
    beta_quantile,
    exact_interval,
)


@given(st.data(), st.integers(1, 3_000), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_exact_interval_is_that_of_clopper_and_pearson(data, trials, confidence):
    successes = data.draw(st.integers(0, trials))
    theirs = stats.binomtest(successes, trials).proportion_ci(confidence, "exact")
    assert exact_interval(successes, trials, confidence=confidence) == pytest.approx(
        (theirs.low, theirs.high), abs=1e-9
    )


def test_nothing_seen_and_everything_seen_leave_one_end_open():
    assert exact_interval(0, 10)[0] == 0
    assert exact_interval(10, 10)[1] == 1
    assert exact_interval(0, 1)[1] == pytest.approx(0.975)


@pytest.mark.parametrize("share", [(3, 2), (-1, 2), (0, 0)])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(Invalid, match="is no share"):
        exact_interval(*share)


# One step below 1 SciPy takes the double of what is left: for the arcsine law it is off by 3e-9.
@given(st.floats(0, 1 - 1e-12) | st.just(1.0), st.floats(0.5, 5_000), st.floats(0.5, 5_000))
def test_the_beta_law_is_that_of_scipy(x, a, b):
    assert beta_below(x, a, b) == pytest.approx(stats.beta(a, b).cdf(x), abs=1e-8)


def test_next_to_1_it_is_the_arcsine_law():
    x = math.nextafter(1.0, 0.0)
    expected = 1 - 2 / math.pi * math.asin(math.sqrt(1 - x))
    assert beta_below(x, 0.5, 0.5) == pytest.approx(expected, abs=1e-15)


def test_a_quantile_of_a_million_rows_is_found():
    found = beta_quantile(0.025, 900_000, 100_001)
    assert found == pytest.approx(stats.beta(900_000, 100_001).ppf(0.025), abs=1e-9)


@given(st.data(), st.integers(1, 2_000), st.integers(1, 2_000))
def test_the_law_of_the_covered_rows_is_that_of_scipy(data, trials, rows):
    rank = data.draw(st.integers(1, rows))
    count = data.draw(st.integers(-1, trials + 1))
    law = stats.betabinom(trials, rank, rows + 1 - rank)
    assert beta_binomial_below(count, trials, rank, rows + 1 - rank) == pytest.approx(
        law.cdf(count), abs=1e-9
    )
