"""Reports on a model in production over the control API are those of the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from tests.scenarios.commands import run
from tests.tiers import first_of

import bascule
from bascule_client.control import ControlClient


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("reports")
    X, y = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=5_000).fit(X[:400], y[:400])
    made = bascule.pack(
        model, name="gb", train=X[:400], test=(X[400:], y[400:]), to=folder / "gb", measure=False
    )
    open_registry(folder / "home").push(made.path, by="ada")
    return folder / "home"


@pytest.mark.parametrize("what", first_of(["performance", "monitor"]))
def test_the_control_api_says_what_the_commands_say(home, serve, what):
    env = {"BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "on"}
    server = serve("gb", env=env)
    rows = load_breast_cancer().data[:300]
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        answer = client.predict(rows)
        added = client.add_outcomes(zip(answer.ids, map(int, np.ones(300)), strict=True))
    assert added.taken == 300
    control = ControlClient(f"http://127.0.0.1:{server.control_port}")
    over_api = control.do("GET /api/v1/models/gb/{what}", what=what, days=7)
    _, at_home, errors = run(home, what, "gb", "--since", "7d", "--json", **env)
    assert set(over_api) == set(json.loads(at_home)), errors
    with pytest.raises(bascule.BasculeError, match=r"no model .other."):
        control.do("GET /api/v1/models/other/drift", days=7)
