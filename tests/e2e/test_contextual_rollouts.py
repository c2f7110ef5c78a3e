"""A contextual bandit over a real server: each region gets the version that suits it."""

from __future__ import annotations

import time
from collections import Counter

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tests.scenarios.commands import bascule as run, run as run_any

import bascule

WAIT_S = 90.0
LATE_S = 8.0
"""Every second outcome comes so much later, and every tenth first says the wrong thing."""


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "x": random.normal(size=4_000),
            "region": random.choice(["north", "south"], 4_000),
        }
    )
    return X, ((X.x > 0) == (X.region == "north")).astype(int).to_numpy()


@pytest.fixture(scope="module")
def home(rows, tmp_path_factory):
    """Version 1 is right in the north, version 2 in the south."""
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("contextual")
    X, _ = rows
    registry = open_registry(folder / "home")
    for number, truth in enumerate((X.x > 0, X.x < 0)):
        model = make_pipeline(
            make_column_transformer(("passthrough", ["x"]), ("drop", ["region"])),
            LogisticRegression(),
        ).fit(X[:500], truth[:500].astype(int))
        made = bascule.pack(model, name="gb", train=X, to=folder / str(number), measure=False)
        registry.push(made.path, by="ada")
    return folder / "home"


@pytest.mark.slow
def test_each_region_gets_the_version_that_suits_it(rows, home, serve):
    X, y = rows
    env = {"BASCULE_MONITORING__LEDGER": "on"}
    server = serve("gb/1", env={"BASCULE_HOME": str(home), **env})
    env["BASCULE_SERVING__CONTROL_PORT"] = str(server.control_port)

    def command(*words):
        return run(home, *words, **env)

    begun = command(
        "deploy", "gb/2", "--strategy", "contextual", "--context", "region", "--step-for", "0s",
        "-g", "accuracy -30 pp",
    )  # fmt: skip
    rollout, give_up = begun["rollout"]["id"], time.monotonic() + WAIT_S
    (feature,) = begun["rollout"]["context"]
    assert sorted(feature["categories"]) == ["north", "south"]
    by_version = {"north": [], "south": []}
    late: list[tuple[float, str, int]] = []
    row = 0
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        while True:
            status = command("rollout", "status", rollout)
            policy = (status["latest"] or {"state": {}})["state"].get("policy") or {}
            if policy.get("gain") and len(by_version["north"]) > 1_000:
                break
            assert time.monotonic() < give_up, status
            for _ in range(400):
                row = (row + 1) % len(X)
                answer = client.predict(X[row : row + 1])
                truth, now = int(y[row]), time.monotonic()
                by_version[X.region[row]].append(answer.version)
                if row % 2:
                    late.append((now + LATE_S, answer.ids[0], truth))
                else:
                    if row % 10 == 0:
                        client.add_outcomes([(answer.ids[0], 1 - truth)])
                    client.add_outcomes([(answer.ids[0], truth)])
                while late and late[0][0] < now:
                    client.add_outcomes([late.pop(0)[1:]])
        steered = {"north": [], "south": []}
        for row in range(600):
            answer = client.predict(X[row : row + 1])
            client.add_outcomes([(answer.ids[0], int(y[row]))])
            steered[X.region[row]].append(answer.version)
    keyed = Counter(
        httpx.post(
            f"http://127.0.0.1:{server.port}/v2/models/gb/infer", headers={"bascule-sticky": key},
            json={
                "inputs": [
                    {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.5]},
                    {"name": "region", "shape": [1], "datatype": "BYTES", "data": ["north"]},
                ]
            },
        ).json()["model_version"]
        for key in map(str, range(40)) for _ in range(2)
    )  # fmt: skip
    assert np.mean([version == "1" for version in steered["north"]]) > 0.9
    assert np.mean([version == "2" for version in steered["south"]]) > 0.9
    assert all(count % 2 == 0 for count in keyed.values()), "a key keeps its arm"
    assert min(keyed["1"], keyed["2"]) > 16, "a request with a key is not steered"
    assert command("rollout", "replay", rollout)["differing"] == []
    values = status["values"]["values"]
    assert values["by context"]["low"] > max(values["gb/1"]["high"], values["gb/2"]["high"])

    command("rollout", "abort", rollout)
    command("endpoints", "set", "gb", "--sticky", "field:region", "--reason", "by region")
    code, _, errors = run_any(
        home, "deploy", "gb/2", "--strategy", "contextual", "--context", "x", "--yes", **env
    )
    assert code != 0
    assert "requests with a key are not steered" in errors
