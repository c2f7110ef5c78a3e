"""Durations in bins of equal ratio, and from which bin on an answer counts as slow."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tests.tiers import examples

from bascule.stats.durations import (
    BINS,
    BOUNDS_NS,
    CLASSES,
    PLACES,
    beyond,
    dense,
    limits,
    place_of,
    sparse,
)


@pytest.mark.parametrize(
    ("rows", "of"),
    [(0, 0), (1, 0), (3, 0), (4, 1), (15, 1), (16, 2), (1_023, 4), (1_024, 5), (10**6, 6)],
)
def test_classes_of_work_are_powers_of_four(rows, of):
    assert divmod(place_of(0, rows), BINS) == (of, 0)
    assert divmod(place_of(10**12, rows), BINS) == (of, BINS - 1)


def test_five_bins_are_a_factor_of_1_2():
    bounds = np.array(BOUNDS_NS, float)
    assert bounds[5:] / bounds[:-5] == pytest.approx(1.2, rel=1e-4)
    assert (bounds[0], round(bounds[-1] / 1e9)) == (10_000, 100)


@given(st.lists(st.integers(0, 3), min_size=PLACES, max_size=PLACES))
@settings(max_examples=5, deadline=None)
def test_sparse_counts_are_the_same_counts(counts):
    made = sparse(np.array(counts))
    assert dense(made).tolist() == np.reshape(counts, (CLASSES, BINS)).tolist()
    assert sum(made[1::2]) == sum(counts)


def counted(durations_ns):
    return np.bincount([place_of(int(one), 1) for one in durations_ns], minlength=BINS)[:BINS]


DURATIONS = st.lists(st.integers(0, 2 * 10**11), min_size=1, max_size=60)
ALLOWED = st.sampled_from([(1.2, 0.0), (1.03, 0.0), (2.0, 0.0), (1.0, 0.005), (1.0, 3.0)])


@given(DURATIONS, ALLOWED, st.sampled_from([0.5, 0.05, 0.01]))
@settings(max_examples=examples(200), deadline=None)
def test_limits_are_rounded_so_that_neither_test_promises_too_much(durations_ns, allowed, slower):
    """Harm: the candidate's limit is what is allowed, or more. Proof: that, or less."""
    factor, more_s = allowed
    begins = [0.0, *BOUNDS_NS, np.inf]
    counts = counted(durations_ns)
    current, candidate = limits(counts, slower, allowed, proves=False)
    may_be = begins[current] * factor + more_s * 1e9
    assert begins[candidate] >= may_be * (1 - 2e-4)
    assert beyond(counts)[current] <= slower * counts.sum()
    current, candidate = limits(counts, slower, allowed, proves=True)
    may_be = begins[current] * factor + more_s * 1e9
    assert begins[candidate] <= may_be * (1 + 2e-4)
    assert beyond(counts)[current] >= 0.8 * slower * counts.sum()


def test_durations_that_are_alike_are_below_the_limit_of_harm_and_above_that_of_a_proof():
    counts = counted([30_000_000] * 1_000)
    of_harm, of_proof = (limits(counts, 0.05, (1.2, 0.0), proves=one)[0] for one in (False, True))
    assert beyond(counts)[[of_harm, of_proof]].tolist() == [0, 1_000]
    assert BOUNDS_NS[of_harm - 1] < 1.04 * 30_000_000


def test_limits_of_many_counts_at_once_are_those_of_each():
    random = np.random.default_rng(0)
    many = np.stack([counted(random.lognormal(15, spread, 500)) for spread in (0.1, 0.5, 1)])
    for proves in (False, True):
        at_once = np.transpose(limits(many, 0.05, (1.2, 0.0), proves=proves))
        each = [limits(one, 0.05, (1.2, 0.0), proves=proves) for one in many]
        assert at_once.tolist() == np.array(each).tolist()
