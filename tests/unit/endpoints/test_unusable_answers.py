"""A version that answers NaN, registered before registries looked, is not deployed."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import bascule
from bascule.app import open_registry, open_rollouts
from bascule.core import Refused
from bascule.endpoints import Deployed, PlanChanges
from bascule.release.rollouts import RolloutRequest
from bascule.settings import load_settings

ROWS = np.random.default_rng(0).normal(size=(60, 2))
FINITE, UNUSABLE, DECLARED = "rain/1", "rain/2", "rain/3"
REASON = "may not serve rain/2: it answers NaN or an infinite number in 'prediction'"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unusable")
    settings = load_settings(folder, {"BASCULE_HOME": str(folder / "home")})
    registry = open_registry(settings)
    with pytest.MonkeyPatch.context() as patch:  # as an earlier release packed and pushed them
        patch.setattr("bascule.packing.packing.check_answers", lambda *_: None)
        patch.setattr("bascule.registry.registry.non_finite_answers", lambda *_: "")
        for place, (value, is_declared) in enumerate(((1, False), (np.nan, False), (np.nan, True))):
            model = LinearRegression()
            model.coef_, model.intercept_, model.n_features_in_ = np.array([value, 1.0]), 0.0, 2
            bundle = bascule.pack(
                model, name="rain", train=ROWS, test=(ROWS, ROWS[:, 0]), measure=False,
                to=folder / str(place), allow_non_finite=is_declared,
            )  # fmt: skip
            registry.push(bundle.path, by="ada")
    return settings


@pytest.fixture
def rollouts(settings):
    return open_rollouts(settings)


@pytest.mark.parametrize("dry_run", [False, True])
def test_it_does_not_answer_an_endpoint_at_once(rollouts, dry_run):
    with pytest.raises(Refused, match=REASON) as refused:
        rollouts.deploy(RolloutRequest(version=UNUSABLE, endpoint="dry"), by="ada", dry_run=dry_run)
    assert "--allow-non-finite" in refused.value.hint


@pytest.mark.parametrize("strategy", ["canary", "shadow"])
def test_no_rollout_of_it_begins(rollouts, strategy):
    assert isinstance(
        rollouts.deploy(RolloutRequest(version=FINITE, endpoint=strategy), by="ada"), Deployed
    )
    request = RolloutRequest(version=UNUSABLE, endpoint=strategy, strategy=strategy)
    with pytest.raises(Refused, match=REASON):
        rollouts.deploy(request, by="ada")
    assert rollouts.rollouts() == []


def test_it_is_no_fallback(rollouts):
    rollouts.deploy(RolloutRequest(version=FINITE, endpoint="kept"), by="ada")
    with pytest.raises(Refused, match=REASON):
        rollouts.endpoints.change("kept", PlanChanges(fallback=UNUSABLE), by="ada", reason="")


def test_one_that_declared_such_answers_is_deployed(rollouts):
    rollouts.deploy(RolloutRequest(version=DECLARED, endpoint="declared"), by="ada")
    assert rollouts.endpoints.endpoint("declared").current.plan.current.version == DECLARED


def test_an_endpoint_that_served_it_has_its_way_back(rollouts, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("bascule.registry.registry.non_finite_answers", lambda *_: "")
        rollouts.deploy(RolloutRequest(version=UNUSABLE, endpoint="old"), by="ada")
    rollouts.deploy(RolloutRequest(version=FINITE, endpoint="old"), by="ada")
    back = rollouts.endpoints.roll_back("old", by="ada", reason="more errors")
    assert back.plan.current.version == UNUSABLE
