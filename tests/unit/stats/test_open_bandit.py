"""Bandits on real logs: the Open Bandit data (Saito et al. 2021), as the package `obp` ships them.

10,000 answers of a random policy and of Bernoulli Thompson sampling each: 80 items at 3 places of a
shop's page, and whether they were clicked. The clicks per answer were 0.0038 and 0.0042.
"""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import yaml
from tests.own_environments import packages_of

from bascule.stats.bandits import policy_value, thompson_shares

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


@pytest.fixture
def theirs(files, monkeypatch):
    """The estimators of the package, without the rest of it, which draws charts and needs more."""
    for name, folder in (("obp", files), ("obp.ope", files / "ope")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        monkeypatch.setitem(sys.modules, name, package)
    yield importlib.import_module("obp.ope.estimators")
    for name in [name for name in sys.modules if name.startswith("obp.")]:
        monkeypatch.delitem(sys.modules, name)


def test_off_policy_estimates_are_those_of_the_open_bandit_pipeline(theirs):
    random, rows, arms = np.random.default_rng(3), 1_000, 4
    behaviour = random.dirichlet(np.ones(arms), rows) * 0.8 + 0.05
    arm = np.array([random.choice(arms, p=row) for row in behaviour])
    reward = random.random(rows) * (arm + 1) / arms
    policy, predicted = random.dirichlet(np.ones(arms), rows), random.random((rows, arms))
    logged = behaviour[range(rows), arm]
    facts = {
        "reward": reward, "action": arm, "pscore": logged, "action_dist": policy[:, :, None],
        "position": np.zeros(rows, int),
    }  # fmt: skip
    regression = {"estimated_rewards_by_reg_model": predicted[:, :, None]}
    for model, estimator, more in (
        (None, theirs.InverseProbabilityWeighting(), {}),
        (predicted, theirs.DoublyRobust(), regression),
    ):
        ours = policy_value(reward, arm, logged, policy, model)
        expected = estimator.estimate_policy_value(**facts, **more)
        assert ours.value == pytest.approx(expected, rel=1e-9)
        interval = estimator.estimate_interval(
            **facts, **more, alpha=0.05, n_bootstrap_samples=2_000, random_state=1
        )
        ends = [interval["95.0% CI (lower)"], interval["95.0% CI (upper)"]]
        assert [ours.low, ours.high] == pytest.approx(ends, abs=0.1 * (ours.high - ours.low))
