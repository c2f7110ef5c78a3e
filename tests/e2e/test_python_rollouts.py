"""Deployments and rollouts from Python, and how they are shown."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests.tiers import first_of

import bascule
from bascule.core import Conflict, Invalid
from bascule.release.rollouts import Begun


@pytest.fixture(scope="module")
def bundles(packed):
    X = np.arange(20.0).reshape(10, 2)
    return [
        packed("rain", LinearRegression(fit_intercept=fit).fit(X, X[:, 0]), X)
        for fit in (True, False)
    ]


@pytest.fixture
def home(bundles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    for path in bundles:
        bascule.push(path)


PLACES = ["settings", "server"]


@pytest.fixture(params=first_of(PLACES))
def control(request, home, serve, tmp_path, monkeypatch):
    """The same functions on the registry of the settings and over a control API."""
    if request.param == "server":
        server = serve("rain/1", env={"BASCULE_HOME": str(tmp_path / "home")})
        monkeypatch.setenv("BASCULE_SERVER", f"http://127.0.0.1:{server.control_port}")
    return bascule


def test_a_rollout_is_begun_shown_commanded_and_replayed(control):
    # By another name: a server of rain begins no rollout of it.
    control.deploy("rain/1", to="wet", reason="first")
    options = {"to": "wet", "strategy": "canary", "guards": ["errors +1 pp"]}
    dry = control.deploy("rain/2", dry_run=True, **options)
    assert isinstance(dry, Begun)
    assert dry.forecasts
    assert list(control.rollouts()) == []

    live = control.deploy("rain/2", **options)
    assert control.rollout("wet").id == live.id
    assert live.replay() == []
    said = live.abort(reason="wrong data")
    assert said.startswith("aborted by ")
    assert said.endswith(": wrong data")
    assert live.state == "aborted"
    assert repr(live) == f"rollout {live.id} of rain/2 (canary): {said}"
    assert live.decisions()[-1].decision.sentence == said
    with pytest.raises(Conflict, match="has ended"):
        live.pause()

    shown = repr(control.rollouts("wet")).splitlines()
    assert shown[0].split() == ["rollout", "candidate", "strategy", "state", "asked"]
    assert shown[-1].split()[:4] == [live.id, "rain/2", "canary", "aborted"]
    assert "<td>rain/2</td>" in control.rollouts()._repr_html_()
    assert "wrong data" in live._repr_html_()


def test_endpoints_are_listed_rolled_back_and_deleted(control):
    control.deploy("rain/1", to="wet")
    control.deploy("rain/2", to="wet", strategy="blue-green")
    control.rollback("wet", reason="more errors")
    assert repr(control.list_endpoints()).splitlines()[-1].split()[:4] == [
        "wet",
        "3",
        "rain/1",
        "100",
    ]
    assert "servers answer 404" in control.delete_endpoint("wet", reason="not used")
    assert list(control.list_endpoints()) == []
    with pytest.raises(Invalid, match="has no 'step'"):
        control.deploy("rain/2", step=3)
    deprecated = control.deprecate("rain/1", successor="rain/2", reason="old").deprecated
    assert (deprecated.successor, deprecated.sunset) == ("rain/2", None)
    assert control.undeprecate("rain/1").deprecated is None
