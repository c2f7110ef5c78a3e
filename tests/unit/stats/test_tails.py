"""Tails beside scipy's, and the saddlepoint beside sums that were drawn."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import special, stats

from bascule.stats.tails import (
    Atoms,
    hypergeometric_tail,
    kolmogorov_tail,
    mean_difference_tail,
    negative_binomial_tail,
    student_tail,
)


@given(st.floats(0, 0.9), st.integers(10, 10**9))
def test_the_law_of_kolmogorov_is_that_of_scipy_at_the_distance_of_stephens(distance, rows):
    x = distance * (math.sqrt(rows) + 0.12 + 0.11 / math.sqrt(rows))
    assert kolmogorov_tail(distance, rows) == pytest.approx(
        special.kolmogorov(x), rel=1e-9, abs=1e-300
    )


@given(st.floats(-30, 30), st.floats(2, 200))
def test_the_tail_of_student_is_that_of_scipy(t, degrees):
    near = abs(t) < 1  # 1 + t^2 has no more digits
    expected = stats.t.sf(t, degrees)
    assert student_tail(t, degrees) == pytest.approx(expected, rel=1e-8, abs=1e-7 if near else 0)


@given(st.data(), st.integers(1, 5_000), st.integers(1, 50_000))
def test_the_hypergeometric_tail_is_that_of_scipy(data, drawn, others):
    marked = data.draw(st.integers(0, drawn + others))
    count = data.draw(st.integers(0, min(drawn, marked) + 1))
    theirs = stats.hypergeom.sf(count - 1, drawn + others, marked, drawn)
    assert hypergeometric_tail(count, drawn, marked, drawn + others) == pytest.approx(
        theirs, rel=1e-6, abs=1e-9 if theirs > 0.1 else 1e-280
    )


def test_a_rare_mark_among_a_billion_rows_has_the_binomial_tail_given_the_sum():
    found = hypergeometric_tail(30, 10_000_000, 1_000, 1_000_000_000)
    assert found == pytest.approx(stats.binom.sf(29, 1_000, 0.01), rel=1e-2)


@given(st.integers(0, 60), st.integers(1, 30), st.floats(0.5, 0.999))
def test_the_negative_binomial_tail_is_that_of_scipy(count, successes, share):
    assert negative_binomial_tail(count, successes, share) == pytest.approx(
        stats.nbinom.sf(count - 1, successes, share), rel=1e-8, abs=1e-290
    )


def spread_law() -> Atoms:
    scores = np.array([NormalDist().inv_cdf((place + 0.5) / 200) for place in range(200)])
    scores /= scores.std()
    return Atoms(scores**2 - 1, np.full(200, 1 / 200))


@pytest.mark.parametrize("share", [1e-2, 1e-3, 1e-4])
def test_the_tail_of_a_spread_of_50_rows_is_that_of_drawn_ones(share):
    """The normal curve, beside it, is several times too low."""
    law, rows, others, runs = spread_law(), 50, 5_000, 400_000
    random = np.random.default_rng(1)
    sums = np.zeros(runs)
    for _ in range(rows):
        sums += law.values[random.integers(0, 200, runs)]
    # So many other rows have a mean that is normal.
    means = sums / rows - random.normal(size=runs) * math.sqrt(law.cumulants(0.0)[2] / others)
    at = float(np.quantile(means, 1 - share))
    assert mean_difference_tail(law, at, rows, others) == pytest.approx(
        share, rel=4 / math.sqrt(share * runs) + 0.03
    )
    z = at / math.sqrt(law.cumulants(0.0)[2] * (1 / rows + 1 / others))
    assert share > 1e-4 or stats.norm.sf(z) < share / 3


def test_the_tail_of_a_share_counts_whole_rows():
    """A law of two values is a binomial one; half a row is the continuity correction."""
    law = Atoms(np.array([-0.1, 0.9]), np.array([0.9, 0.1]))
    for count in (40, 45, 52):
        found = mean_difference_tail(law, count / 200 - 0.1, 200, 10**9)
        assert found == pytest.approx(stats.binom.sf(count - 1, 200, 0.1), rel=0.1)


def test_a_difference_that_no_rows_can_have_is_as_rare_as_the_largest_one():
    law = Atoms(np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
    assert mean_difference_tail(law, 5.0, 10, 10**9) == pytest.approx(2**-10)
