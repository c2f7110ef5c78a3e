"""Metrics of an order, against scikit-learn and against pairs that are counted one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import ndcg_score

from bascule.metrics import concordance, ndcg, score


@pytest.mark.parametrize("first", [1, 3, 10, None])
@pytest.mark.parametrize("levels", [3, 1_000])
def test_ndcg_is_the_mean_of_scikit_learns_over_the_groups(first, levels):
    random = np.random.default_rng(levels)
    groups = np.repeat(np.arange(40), random.integers(2, 30, 40))
    relevance = random.integers(0, 4, len(groups)).astype(float)
    relevance[groups == 7] = 0
    scores = random.integers(0, levels, len(groups)).astype(float)  # with ties
    expected = [
        ndcg_score([relevance[groups == group]], [scores[groups == group]], k=first)
        for group in range(40)
        if group != 7
    ]
    order = random.permutation(len(groups))  # the rows of a group lie anywhere
    with pytest.warns(UserWarning, match="1 of 40 groups have no relevant row"):
        value = ndcg(relevance[order], scores[order], groups[order], first)
    assert value == pytest.approx(np.mean(expected), abs=1e-12)


def test_concordance_of_five_patients():
    """By hand: of 10 pairs, the two of the censored third with later ones drop out.

    Times 1, 2, 3+, 4, 5 with risks 5, 3, 4, 2, 2: comparable are 1 with 4 others, 2 with 3, 4 with
    5. Right are 4 + 2 (the third had a higher risk than the second); the tie of 4 and 5 is half.
    """
    times, events = np.array([1.0, 2, 3, 4, 5]), np.array([True, True, False, True, True])
    assert concordance(times, events, np.array([5.0, 3, 4, 2, 2])) == pytest.approx(6.5 / 8)


SUBJECTS = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=2, max_size=25
)


@given(SUBJECTS)
def test_concordance_counts_pairs_as_harrell_defines_them(subjects):
    right = pairs = 0.0
    for subject, rival in combinations(subjects, 2):
        (time, event, risk), (later, later_event, later_risk) = sorted(
            (subject, rival), key=lambda seen: (seen[0], not seen[1])
        )
        if not event or (time == later and later_event):
            continue
        pairs += 1
        right += (risk > later_risk) + (risk == later_risk) / 2
    times, events, risks = (np.array(column) for column in zip(*subjects, strict=True))
    if not pairs:
        with pytest.raises(ValueError, match="no two rows"):
            concordance(times, events, risks)
        return
    assert concordance(times, events, risks) == pytest.approx(right / pairs)


def test_what_an_order_cannot_be_measured_on_is_a_note():
    answers = {"prediction": np.arange(4.0)}
    alone = score("ndcg_5", np.arange(4), answers, task="ranking")
    assert alone.value is None
    assert "two columns, relevance and group" in alone.note
    negative = score("ndcg", np.array([[-1, 0], [1, 0]]), answers, task="ranking")
    assert "below 0" in negative.note


def test_a_time_is_ordered_the_other_way_than_a_risk():
    truth = np.array([[1, 1], [2, 1], [3, 0]])
    for name, values in (("risk", [3.0, 2, 1]), ("time", [1.0, 2, 3])):
        made = score("concordance", truth, {name: np.array(values)}, task="survival")
        assert made.value == 1.0
