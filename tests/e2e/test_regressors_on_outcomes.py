"""A regressor that errs more is rolled back by truths that come late."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests.scenarios.commands import bascule as run, run as run_any

import bascule
from bascule.core import Invalid
from bascule.release.rollouts import RemoteRollouts, RolloutRequest
from bascule_client.control import ControlClient

WAIT_S = 90.0
LATE = 600
"""Requests by which truths come behind their predictions."""


@pytest.fixture(scope="module")
def rows():
    """Truths with heavy tails."""
    random = np.random.default_rng(0)
    X = random.normal(size=(4_000, 4))
    return X, 20 + 3 * X[:, 0] + 2 * X[:, 1] + random.standard_t(2.5, 4_000)


@pytest.fixture(scope="module")
def home(rows, tmp_path_factory):
    """A registry with a good version, and one that was trained on shuffled truths."""
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("regressors")
    X, y = rows
    registry = open_registry(folder / "home")
    for number, truth in enumerate((y, np.random.default_rng(1).permutation(y))):
        model = LinearRegression().fit(X[:500], truth[:500])
        packed = bascule.pack(
            model, name="wait", train=X[:500], test=(X[500:900], y[500:900]),
            to=folder / str(number), measure=False,
        )  # fmt: skip
        registry.push(packed.path, by="ada")
    return folder / "home"


@pytest.mark.slow
def test_a_regressor_that_errs_more_is_rolled_back_by_late_truths(rows, home, serve):
    X, y = rows
    env = {"BASCULE_MONITORING__LEDGER": "on"}
    server = serve("wait/1", env={"BASCULE_HOME": str(home), **env})
    env["BASCULE_SERVING__CONTROL_PORT"] = str(server.control_port)

    def command(*words):
        return run(home, *words, **env)

    deploy = ("deploy", "wait/2", "--strategy", "canary", "--steps", "50,100", "--step-for", "1h")
    code, _, refused = run_any(home, *deploy, "-g", "accuracy -2 pp", **env)
    assert code == 2
    assert "accuracy cannot be counted: wait/1 is a model for regression" in refused
    assert "mae, mse, mape" in refused
    over_api = RemoteRollouts(ControlClient(f"http://127.0.0.1:{server.control_port}"))
    with pytest.raises(Invalid, match="log_loss cannot be counted") as raised:
        over_api.deploy(
            RolloutRequest(version="wait/2", strategy="canary", guards=("log_loss +5 %",)), by="ada"
        )
    assert "mae, mse, mape" in raised.value.hint
    begun = command(*deploy, "-g", "mae +5 %")
    rollout, give_up = begun["rollout"]["id"], time.monotonic() + WAIT_S
    waiting = []
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="wait") as client:
        while (found := command("rollout", "status", rollout))["ended_at"] is None:
            assert time.monotonic() < give_up, found["latest"]
            for start in range(1_000, 1_400):
                answer = client.predict(X[start : start + 1])
                waiting.append((answer.ids[0], float(y[start])))
                if len(waiting) > LATE:
                    client.add_outcomes([waiting.pop(0)])
    assert found["state"] == "aborted"
    sentence = found["latest"]["sentence"]
    assert "rolled back to wait/1: the mae of wait/2 is" in sentence
    assert "allowed mae +5 %: a mae 0.0" in sentence
    assert "of the losses of wait/2 and" in sentence
    assert command("rollout", "replay", rollout)["differing"] == []
