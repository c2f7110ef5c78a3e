"""A version of a composition is rolled back for one of its parts, though the whole is as before."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from tests.scenarios.commands import bascule as run, run as run_any

import bascule
from bascule.packing import Composition, PythonModel

pytestmark = pytest.mark.slow

WAIT_S = 90.0
CODE = """
import time
class Model:
    def predict(self, columns):
        time.sleep({sleep_s})
        return {{"doubled": columns["x"] * 2}}
"""


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = pd.DataFrame({"x": random.normal(size=400), "z": random.normal(size=400)})
    return X, np.where(X.x > 0, "bad", "good")


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    """Of the second version one part takes three times as long, and one has learnt nothing.

    Its parts are in another order; its decisions are the same.
    """
    folder = tmp_path_factory.mktemp("parts")
    X, y = rows
    options = {"measure": False, "explain": False, "outliers": False}
    for name, truth in (("risk1", y), ("risk2", np.random.default_rng(1).permutation(y))):
        model = LogisticRegression().fit(X, truth)
        bascule.pack(model, name=name, train=X, to=folder / name, **options)
    for name, sleep_s in (("price1", 0.002), ("price2", 0.006), ("history", 0.02)):
        (folder / f"{name}.py").write_text(CODE.format(sleep_s=sleep_s))
        code = PythonModel(entry=f"{name}:Model", code=folder / f"{name}.py")
        bascule.pack(code, name=name, train=X[["x"]], to=folder / name, **options)
    decision = {
        "rules": [{"when": "missing(x)", "then": {"offer": "no"}}, {"then": {"offer": "yes"}}]
    }
    paths = []
    for number in (1, 2):
        parts = {
            "history": {"model": "history"},
            "risk": {"model": f"risk{number}"},
            # It reads the part above, or both run at once.
            "price": {"model": f"price{number}", "inputs": {"x": "history.doubled / 2"}},
        }
        if number == 2:
            parts = {name: parts[name] for name in ("history", "price", "risk")}
        document = Composition(
            {"parts": parts | {"decision": decision}}, lambda name: bascule.load(folder / name)
        )
        to = folder / f"credit{number}"
        paths.append(bascule.pack(document, name="credit", to=to, train=X, **options).path)
    return paths


@pytest.fixture
def rolled_out(serve, home, rows):
    """The rollout of the second version with some guards, once it has ended."""

    def end_of(*guards):
        env = {"BASCULE_MONITORING__LEDGER": "on"}
        server = serve("credit/1", "--workers=2", env={"BASCULE_HOME": str(home), **env})
        env["BASCULE_SERVING__CONTROL_PORT"] = str(server.control_port)
        words = [word for guard in guards for word in ("-g", guard)]
        begun = run(
            home, "deploy", "credit/2", "--strategy", "canary", "--steps", "50,100",
            "--step-for", "1h", *words, **env,
        )  # fmt: skip
        name, give_up = begun["rollout"]["id"], time.monotonic() + WAIT_S
        X, y = rows
        with bascule.Client(f"http://127.0.0.1:{server.port}", model="credit") as client:
            while (status := run(home, "rollout", "status", name, **env))["ended_at"] is None:
                assert time.monotonic() < give_up, status["latest"]["sentence"]
                for start in range(100):
                    answer = client.predict(X[start : start + 1])
                    client.add_outcomes([(answer.ids[0], str(y[start]))])
        assert run(home, "rollout", "replay", name, **env)["differing"] == []
        return status["state"], status["latest"]["sentence"]

    return end_of


def test_a_part_that_got_slow_rolls_back_while_the_whole_is_within_its_guard(rolled_out):
    state, sentence = rolled_out("p95 +60 %", "answers +20 pp", "p50[price] +30 %")
    assert state == "aborted"
    assert (
        "part price of credit/2 is slower than part price of credit/1 by more than "
        "p50[price] +30 % allows" in sentence
    )
    assert "p95 +60 %" not in sentence


def test_a_part_that_is_wrong_more_often_rolls_back_while_decisions_are_the_same(rolled_out):
    state, sentence = rolled_out("p95 +60 %", "answers +20 pp", "accuracy[risk] -5 pp")
    assert state == "aborted"
    assert "of the answers of part risk of credit/2 were wrong" in sentence
    assert "allowed accuracy[risk] -5 pp" in sentence


def test_a_guard_on_a_part_that_a_version_lacks_is_refused_with_its_parts(serve, home):
    env = {"BASCULE_HOME": str(home)}
    server = serve("credit/1", env=env)
    env["BASCULE_SERVING__CONTROL_PORT"] = str(server.control_port)
    words = ("--strategy", "canary", "-g", "p95[scores] +20 %", "--yes")
    code, _, errors = run_any(home, "deploy", "credit/2", *words, **env)
    assert code == 2
    assert "credit/1 has no part 'scores' to guard" in errors
    assert "its parts are history, risk, price, decision" in " ".join(errors.split())
