"""A recorded request is asked again: bit-equal on its version, with the difference on another."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from tests.scenarios.commands import run
from tests.waiting import until

import bascule
from bascule.monitoring import Ledger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("replay")
    X, y = load_breast_cancer(return_X_y=True)
    registry = open_registry(folder / "home")
    for trees in (5, 9):
        model = GradientBoostingClassifier(n_estimators=trees, random_state=0).fit(X, y)
        made = bascule.pack(model, name="gb", train=X, to=folder / str(trees), measure=False)
        registry.push(made.path, by="ada")
    return folder / "home"


def test_a_recorded_request_is_asked_again(home, serve):
    env = {"BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "on"}
    server = serve("gb/1", env=env)
    rows = np.random.default_rng(0).normal(15, 4, (3, 30))
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        answer = client.predict(rows)
    control = f"http://127.0.0.1:{server.control_port}"

    def over_server(*words):
        return run(home, "--server", control, *words, **env)

    until(lambda: Ledger(home).query("SELECT id FROM predictions").num_rows)
    code, said, errors = over_server("replay", answer.ids[0], "--json")
    assert code == 0, errors
    remote = json.loads(said)
    code, said, _ = over_server("replay", answer.ids[0], "--on", "gb/2")
    assert (code, "3 rows, answered by gb/1; gb/2 gives other answers" in said) == (1, True)
    bundle = str(next((home / "bundles").glob("*"), home))
    assert over_server("replay", answer.ids[0], "--on", bundle)[0] in (2, 3), "no folder is opened"
    code, said, _ = over_server("incident", "gb", "--since", "1h")
    assert (code, "gb/2" in said) == (0, True), "it was pushed within the hour"

    server.process.terminate()
    server.process.wait(20)

    def replay(*words):
        code, out, _ = run(home, "replay", *words, "--json", **env)
        return code, json.loads(out)

    code, same = replay(answer.ids[0])
    assert code == 0
    assert same == remote
    assert same["is_same"]
    assert same["rows"] == 3
    assert same["inputs"]["input"] == rows.astype(np.float32).tolist(), "as the program reads them"
    code, other = replay(answer.ids[0], "--on", "gb/2")
    assert code == 1
    assert other["largest"]["probabilities"] > 0
    code, missing = replay("nothing")
    assert code == 3
    assert "no prediction 'nothing'" in missing["error"]
