"""Shares follow the rewards."""

import numpy as np
import pytest
from scipy import integrate, stats

from bascule.core import Invalid
from bascule.stats.bandits import (
    best_arm_probabilities,
    thompson_shares,
)


@pytest.mark.parametrize(
    ("won", "tried"),
    [([0, 0], [0, 0]), ([3, 9], [10, 20]), ([500, 540, 10], [10_000, 10_000, 500])],
)
def test_the_probability_of_the_best_arm_is_the_integral_of_its_posterior(won, tried):
    laws = [stats.beta(1 + w, 1 + t - w) for w, t in zip(won, tried, strict=True)]

    def density(x, arm):
        return laws[arm].pdf(x) * np.prod([law.cdf(x) for n, law in enumerate(laws) if n != arm])

    middle = [law.mean() for law in laws]
    expected = [
        integrate.quad(density, 0, 1, args=(arm,), points=middle, limit=400)[0]
        for arm in range(len(laws))
    ]
    assert best_arm_probabilities(won, tried) == pytest.approx(expected, abs=1e-3)


def test_every_arm_keeps_its_floor():
    shares = thompson_shares([1_000, 10], [2_000, 2_000], floor=0.1)
    assert shares == pytest.approx([0.9, 0.1], abs=1e-6)
    assert shares.sum() == pytest.approx(1)


def test_a_bandit_earns_more_than_equal_shares():
    random = np.random.default_rng(1)
    rates = np.array([0.05, 0.08, 0.03])
    won, tried = np.zeros(3), np.zeros(3)
    for _ in range(100):
        played = random.multinomial(200, thompson_shares(won, tried, floor=0.02))
        won += random.binomial(played, rates)
        tried += played
    assert won.sum() / tried.sum() > 0.9 * rates.max() > rates.mean()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: thompson_shares([2], [1]), "rewards of an arm"),
        (lambda: thompson_shares([0, 0, 0], [0, 0, 0], floor=0.5), "exceeds 1"),
    ],
)
def test_what_cannot_be_shared_is_refused(call, words):
    with pytest.raises(Invalid, match=words):
        call()
