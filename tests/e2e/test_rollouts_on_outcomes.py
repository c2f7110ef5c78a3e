"""A version that is wrong more often is rolled back by the outcomes of its answers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.scenarios.commands import bascule as run

import bascule

WAIT_S = 60.0


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(4_000, 4))
    return X, (X[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def home(rows, tmp_path_factory):
    """A registry with a good version and one that was trained on shuffled labels."""
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("outcomes")
    X, y = rows
    registry = open_registry(folder / "home")
    for number, truth in enumerate((y, np.random.default_rng(1).permutation(y))):
        model = LogisticRegression().fit(X[:500], truth[:500])
        made = bascule.pack(model, name="gb", train=X, to=folder / str(number), measure=False)
        registry.push(made.path, by="ada")
    return folder / "home"


@pytest.mark.slow
def test_a_version_that_is_wrong_more_often_is_rolled_back(rows, home, serve):
    X, y = rows
    env = {"BASCULE_MONITORING__LEDGER": "on"}
    server = serve("gb/1", env={"BASCULE_HOME": str(home), **env})
    env["BASCULE_SERVING__CONTROL_PORT"] = str(server.control_port)

    def command(*words):
        return run(home, *words, **env)

    begun = command(
        "deploy", "gb/2", "--strategy", "canary", "--steps", "50,100", "--step-for", "1h",
        "-g", "accuracy -2 pp",
    )  # fmt: skip
    rollout, give_up = begun["rollout"]["id"], time.monotonic() + WAIT_S
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        while (found := command("rollout", "status", rollout))["ended_at"] is None:
            assert time.monotonic() < give_up, found["latest"]
            for start in range(0, 400, 1):
                answer = client.predict(X[start : start + 1])
                client.add_outcomes([(answer.ids[0], int(y[start]))])
    assert found["state"] == "aborted"
    sentence = found["latest"]["sentence"]
    assert "of the answers of gb/2 were wrong" in sentence
    assert "allowed accuracy -2 pp" in sentence
    assert command("rollout", "replay", rollout)["differing"] == []

    drafted = command("incident", "gb", "--since", "1h")
    (suspect,) = drafted["suspects"]
    assert (suspect["version"], suspect["why"]) == ("gb/2", sentence)
    (exposed,) = drafted["exposures"]
    (attempt,) = drafted["facts"]["attempts"]
    assert exposed["version"] == "gb/2"
    assert 0 < exposed["requests"] >= attempt["requests"] > 0
    kinds = [one["kind"] for one in drafted["timeline"]]
    assert kinds[:2] == ["pushed", "pushed"]
    assert [one for one in kinds if one.startswith("rollout")] == [
        "rollout_asked", "rollout_running", "rollout_aborted",
    ]  # fmt: skip
