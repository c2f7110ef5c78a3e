"""Bandits on real logs: the Open Bandit data (Saito et al. 2021), as the package `obp` ships them.

10,000 answers of a random policy and of Bernoulli Thompson sampling each: 80 items at 3 places of a
shop's page, and whether they were clicked. The clicks per answer were 0.0038 and 0.0042.
"""

import numpy as np
import pytest
import yaml
from tests.own_environments import packages_of

from bascule.stats.bandits import thompson_shares

pytestmark = pytest.mark.slow

ITEMS = 80


@pytest.fixture(scope="module")
def files():
    return packages_of("obp") / "obp"


@pytest.fixture(scope="module")
def posterior(files):
    """Alpha and beta of each item's click rate, of the policy in production."""
    said = yaml.safe_load((files / "policy/conf/prior_bts.yaml").read_text())["all"]
    return np.array(said["alpha"]), np.array(said["beta"])


def test_shares_that_follow_clicks_lose_less_than_equal_shares(posterior):
    """A million requests in batches of 10,000, with the click rates of the 80 items."""
    random, rates = np.random.default_rng(1), posterior[0] / sum(posterior)
    won, tried = np.zeros(ITEMS), np.zeros(ITEMS)
    for _ in range(100):
        played = random.multinomial(10_000, thompson_shares(won, tried, floor=0.0))
        won += random.binomial(played, rates)
        tried += played
    regret = float((tried * (rates.max() - rates)).sum())
    equal = 1_000_000 * float(rates.max() - rates.mean())
    assert regret < 0.7 * equal
