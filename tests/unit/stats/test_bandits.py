"""Shares follow the rewards, and another policy's reward is estimated without bias."""

import numpy as np
import pytest
from scipy import integrate, stats

from bascule.core import Invalid
from bascule.stats.bandits import (
    best_arm_probabilities,
    doubly_robust,
    ips,
    snips,
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


def logged(random, n=20_000):
    """Two contexts, three arms; what was logged, and a policy that knows better."""
    truth = np.array([[0.1, 0.5, 0.3], [0.4, 0.2, 0.3]])
    played_by = np.array([0.5, 0.3, 0.2])
    wanted = np.array([[0.05, 0.9, 0.05], [0.9, 0.05, 0.05]])
    context, arm = random.integers(0, 2, n), random.choice(3, n, p=played_by)
    rewards = (random.random(n) < truth[context, arm]).astype(float)
    model = np.clip(truth + 0.1, 0, 1)
    return {
        "rewards": rewards, "propensities": played_by[arm], "target": wanted[context, arm],
        "predicted": model[context, arm], "expected": (wanted * model).sum(1)[context],
        "value": float((wanted * truth).sum(1).mean()),
    }  # fmt: skip


@pytest.mark.parametrize("estimate", [ips, snips, doubly_robust])
def test_an_off_policy_interval_covers_the_policys_value(estimate):
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        log = logged(random, 2_000)
        names = ["rewards", "propensities", "target"]
        names += ["predicted", "expected"] if estimate is doubly_robust else []
        found = estimate(*(log[name] for name in names))
        covered += found.lower <= log["value"] <= found.upper
    assert covered >= 49  # 95 % of 60; fewer once in 10,000 times


def test_a_model_of_the_rewards_narrows_the_interval():
    log = logged(np.random.default_rng(3))
    plain = ips(log["rewards"], log["propensities"], log["target"])
    robust = doubly_robust(
        *(log[name] for name in ("rewards", "propensities", "target", "predicted", "expected"))
    )
    assert robust.upper - robust.lower < plain.upper - plain.lower


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: thompson_shares([2], [1]), "rewards of an arm"),
        (lambda: thompson_shares([0, 0, 0], [0, 0, 0], floor=0.5), "exceeds 1"),
        (lambda: ips([1.0], [0.0], [1.0]), "propensity must be over 0"),
        (lambda: ips([], [], []), "not empty"),
        (lambda: snips([1.0], [0.5], [0.0]), "plays none"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, words):
    with pytest.raises(Invalid, match=words):
        call()
