"""What the p-values of watermarks and the bound of a membership audit promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.tiers import first_of

from bascule.stats import binomial_tails, epsilon_bound, shares_p_value
from bascule.stats.membership import guesses_p_value


def test_a_p_value_of_shares_is_uniform_whatever_an_innocent_model_answers() -> None:
    draw = np.random.default_rng(1)
    for answers in (draw.random(8), np.zeros(8), np.full(8, 0.5)):
        values = [shares_p_value(answers, draw.integers(0, 71, 8), 70) for _ in range(80)]
        assert stats.kstest(values, "uniform").pvalue > 0.001


def test_a_p_value_of_shares_is_the_one_that_all_draws_count_out() -> None:
    answers, votes = np.array([0.2, 0.9]), np.array([1, 2])
    grid = np.arange(4) / 3
    sums = np.abs(answers[0] - grid)[:, None] + np.abs(answers[1] - grid)
    expected = (sums <= sums[1, 2] + 2e-3).mean()
    assert shares_p_value(answers, votes, 3) == pytest.approx(expected)


def test_tails_are_those_of_scipy() -> None:
    for trials, share in ((1, 0.5), (40, 0.1), (3_000, 0.73)):
        expected = stats.binom.sf(np.arange(trials + 1) - 1, trials, share)
        np.testing.assert_allclose(binomial_tails(trials, share), expected, rtol=1e-9, atol=1e-300)


def test_the_p_value_of_guesses_is_that_of_the_theorem() -> None:
    """Steinke et al. 2023, theorem 5.2, counted out term by term."""
    rows, guesses, right, epsilon, delta = 1_000, 300, 200, 0.5, 1e-5
    law = stats.binom(guesses, 1 / (1 + np.exp(-epsilon)))
    beta = law.sf(right - 1)
    alpha = max((law.sf(right - i - 1) - beta) / i for i in range(1, right + 1))
    expected = beta + 2 * rows * delta * alpha
    assert guesses_p_value(rows, guesses, right, epsilon, delta) == pytest.approx(expected)


def test_an_attack_by_chance_shows_nothing_and_a_sure_one_shows_much() -> None:
    draw = np.random.default_rng(2)
    members = draw.random(1_000) < 0.5
    assert epsilon_bound(members, draw.random(1_000), delta=1e-5) < 0.5
    assert epsilon_bound(members, members + 0.1 * draw.random(1_000), delta=1e-5) > 3


@pytest.mark.parametrize("epsilon", first_of([0.5, 2.0]))
def test_the_bound_is_under_the_truth_as_often_as_it_says(epsilon: float) -> None:
    """Randomised response is as bad as a mechanism of this epsilon can be."""
    draw = np.random.default_rng(3)
    over = 0
    for _ in range(300):
        members = draw.random(400) < 0.5
        is_told = draw.random(400) < 1 / (1 + np.exp(-epsilon))
        scores = np.where(is_told, members, ~members) + 1e-3 * draw.random(400)
        over += epsilon_bound(members, scores, delta=0.0, confidence=0.9) > epsilon
    assert over <= 300 * 0.1 + 3 * np.sqrt(300 * 0.09)
