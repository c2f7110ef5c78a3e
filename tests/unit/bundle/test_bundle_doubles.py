"""Doubles tested by floats: every value goes the way that it goes by the doubles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.bundle.programs.doubles import CodedTests

LARGEST = float(np.finfo(np.float32).max)
CLOSE = st.integers(0, 1 << 31).map(lambda steps: 1.0 + steps * 2.0**-52)
"""Up to 2**29 of these round to the same float."""
TINY = st.sampled_from([0.0, -0.0, 1e-50, -1e-50, 5e-324, -5e-324, 1.4e-45, -1.4e-45, 2e-45])
ENDS = st.sampled_from([LARGEST, -LARGEST, np.inf, -np.inf, -1e300])
THRESHOLDS = CLOSE | TINY | ENDS | st.floats(-LARGEST, LARGEST)


def values_beside(tests, coded):
    """At every threshold, at every code, one double beside them, one float, and what is odd."""
    places = np.array([threshold for _, threshold in tests])
    places = np.concatenate([places, coded.codes.astype(float)])
    with np.errstate(over="ignore", under="ignore"):
        near = places.astype(np.float32)
        floats = [np.nextafter(near, np.float32(end)).astype(float) for end in (-np.inf, np.inf)]
    places = np.concatenate([places, near.astype(float), *floats])
    beside = [np.nextafter(places, end) for end in (-np.inf, np.inf)]
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300]
    return np.concatenate([places, *beside, odd])


@given(tests=st.lists(st.tuples(st.integers(0, 2), THRESHOLDS), min_size=1, max_size=30))
def test_every_value_passes_the_tests_that_it_passes_in_doubles(tests):
    feature = np.array([column for column, _ in tests])
    threshold = np.array([value for _, value in tests])
    coded = CodedTests(feature, threshold)
    values = values_beside(tests, coded)
    rows = np.repeat(values[:, None], 4, axis=1)
    made = coded.coded(rows)
    for column, value, code in zip(feature, threshold, coded.codes, strict=True):
        assert ((values <= value) == (made[:, column] <= code)).all()
    assert (np.isnan(values)[:, None] == np.isnan(made)).all()


@pytest.mark.parametrize("threshold", [[1e300], [1e300, np.inf], [-1e300, 1e39], [-2e300, -1e300]])
def test_thresholds_beyond_the_largest_float_are_taken_while_there_are_floats_for_them(threshold):
    coded = CodedTests(np.zeros(len(threshold), int), np.array(threshold))
    values = values_beside([(0, value) for value in threshold], coded)
    made = coded.coded(values[:, None])[:, 0]
    for value, code in zip(threshold, coded.codes, strict=True):
        assert ((values <= value) == (made <= code)).all()


def test_a_missing_value_stays_one_whatever_the_thresholds_are():
    """Its place in the table of floats may be taken by one of them: of so many tables, in some."""
    random = np.random.default_rng(0)
    for _ in range(300):
        coded = CodedTests(np.zeros(200, int), random.normal(size=200))
        assert np.isnan(coded.coded(np.full((1, 1), np.nan))).all()


def test_what_is_near_no_threshold_is_left_as_it_is():
    rows = np.array([[0.3, -7.25], [1e300, np.nan], [-np.inf, 0.0]])
    made = CodedTests(np.array([0, 1]), np.array([0.1, 0.2])).coded(rows)
    assert made is not rows
    np.testing.assert_array_equal(made, rows)


def test_a_feature_with_more_thresholds_than_floats_in_their_place_keeps_their_order():
    threshold = 1.7e9 + np.arange(1000) * 0.01
    codes = CodedTests(np.zeros(1000, int), threshold).codes
    assert (np.diff(codes) > 0).all()


def test_rows_in_any_number_and_layout_are_taken():
    threshold = np.random.default_rng(0).normal(size=50)
    coded = CodedTests(np.arange(50) % 3, threshold)
    rows = np.asfortranarray(np.resize(threshold, (5000, 3)))
    whole = coded.coded(rows)
    assert (whole[:7] == coded.coded(rows[:7])).all()
    assert (whole[-7:] == coded.coded(rows[-7:])).all()
    assert coded.coded(rows[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("threshold", "word"),
    [
        ([0.1, np.nan], "NaN"),
        ([1e300, 2e300], "no floats are left"),
        ([LARGEST, 1e39], "no floats are left"),
    ],
)
def test_thresholds_that_no_floats_stand_for_are_refused(threshold, word):
    with pytest.raises(ValueError, match=word):
        CodedTests(np.zeros(len(threshold), int), np.array(threshold))
