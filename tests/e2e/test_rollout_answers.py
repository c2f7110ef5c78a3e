"""A candidate that answers something else, without an error and without a delay."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from tests.scenarios.commands import run
from tests.waiting import until

import bascule

pytestmark = pytest.mark.slow

WAIT_S = 60.0
COLUMNS = 4


def regressor(weights, intercept=0.0):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression()
    model.coef_, model.intercept_ = np.array(weights, float), intercept
    model.n_features_in_ = COLUMNS
    return model


def classifier(weights, intercept):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression()
    model.coef_, model.intercept_ = np.array([weights], float), np.array([intercept])
    model.classes_ = np.array(["late", "on time"])
    model.n_features_in_ = COLUMNS
    return model


def graph(*, is_root):
    """The first column plus one, or its root: of some rows that is NaN."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array([1.0, 0.0, 0.0, 0.0]), "weights")
    one = numpy_helper.from_array(np.array(1.0), "one")
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["first"]),
        helper.make_node("Add", ["first", "one"], ["more"]),
        helper.make_node("Sqrt" if is_root else "Identity", ["more"], ["prediction"]),
    ]
    nodes_and_rows = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("input", TensorProto.DOUBLE, ["rows", COLUMNS])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["rows"])],
        [weights, one],
    )  # fmt: skip
    return helper.make_model(
        nodes_and_rows, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]
    )


CURRENT = [1.0, 0.2, 0.0, 0.0]
REGRESSORS = {
    "retrained": regressor([1.02, 0.16, 0.03, -0.04], 0.02),
    "constant": regressor([0.0] * COLUMNS, 1.0),
    "shifted": regressor(CURRENT, 0.6),
    "mixed": regressor([0.0, 0.0, 1.0, 0.2]),
}


@pytest.fixture
def homes(packed, tmp_path):
    """A home of its own for each test, which promotes versions."""
    home, numbers = packed
    shutil.copytree(home, tmp_path / "home")
    return tmp_path / "home", numbers


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("answers")
    rows = np.abs(np.random.default_rng(0).normal(0, 1, (200, COLUMNS)))
    registry = open_registry(folder / "home")
    numbers = {}
    for name, models in {
        "amount": {"current": regressor(CURRENT), **REGRESSORS},
        "flight": {
            "current": classifier(CURRENT, 1.0),
            "swapped": classifier([-one for one in CURRENT], -1.0),
        },
        "root": {"current": graph(is_root=False), "not_a_number": graph(is_root=True)},
    }.items():
        for kind, model in models.items():
            bundle = bascule.pack(
                model, name=name, train=None if name == "root" else rows,
                to=folder / f"{name}-{kind}", measure=False, baseline=False,
            )  # fmt: skip
            numbers[kind if kind != "current" else name] = registry.push(
                bundle.path, by="ada"
            ).number
    return folder / "home", numbers


@pytest.fixture
def command(homes):
    def beside(server, *words, code=0, or_code=0):
        port = str(server.control_port)
        found, out, errors = run(homes[0], *words, "--json", BASCULE_SERVING__CONTROL_PORT=port)
        assert found in (code, or_code or code), errors or out
        return json.loads(out)

    return beside


@contextmanager
def traffic(server, model):
    """Rows one after another, each another one."""
    stop = threading.Event()

    def ask(seed):
        draw = np.random.default_rng(seed)
        with bascule.Client(f"http://127.0.0.1:{server.port}", model=model) as client:
            while not stop.is_set():
                client.predict(draw.normal(0, 1, (1, COLUMNS)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
    for one in threads:
        one.start()
    try:
        yield
    finally:
        stop.set()
        for one in threads:
            one.join()


def rolled_out(homes, serve, command, name, kind, is_over, *words):
    """The status of a rollout once `is_over` says so, and the server."""
    home, numbers = homes
    server = serve(f"{name}/1", env={"BASCULE_HOME": str(home)})
    with traffic(server, name):
        asked = (
            "deploy", f"{name}/{numbers[kind]}", "--strategy", "canary", "--steps", "20,50,100",
            "--step-for", "1s", "-g", "errors +1 pp", "-g", "answers +10 pp", *words,
        )  # fmt: skip
        # A server tells the catalogue what it serves soon after its start.
        rollout = until(lambda: command(server, *asked, or_code=2).get("rollout"), 180.0)["id"]
        give_up = time.monotonic() + WAIT_S
        while True:
            found = command(server, "rollout", "status", rollout)
            if is_over(found):
                break
            assert time.monotonic() < give_up, found["latest"]
            time.sleep(0.2)
    assert command(server, "rollout", "replay", rollout)["differing"] == []
    return found, server


def is_ended(found):
    return found["ended_at"] is not None


def is_held(found):
    assert not is_ended(found), found["latest"]
    return bool(found["latest"] and found["latest"]["held_by"])


def test_a_retrained_version_is_promoted(homes, serve, command):
    found, _ = rolled_out(homes, serve, command, "amount", "retrained", is_ended)
    assert found["state"] == "promoted", found["latest"]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("root", "not_a_number", "hold NaN or an infinite value"),
        ("amount", "constant", "gives the same answer"),
    ],
)
def test_answers_that_are_none_are_rolled_back(homes, serve, command, name, kind, words):
    found, _ = rolled_out(homes, serve, command, name, kind, is_ended)
    assert found["state"] == "aborted"
    assert words in found["latest"]["sentence"]
    assert found["latest"]["sentence"].startswith(f"rolled back to {name}/1")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("amount", "mixed", "do not answer the same rows alike"),
        ("amount", "shifted", "(allowed answers +10 pp)"),
        ("flight", "swapped", "a"),
    ],
)
def test_other_answers_hold_and_ask_a_person(homes, serve, command, name, kind, words):
    found, server = rolled_out(homes, serve, command, name, kind, is_held)
    rollout = found["rollout"]["id"]
    sentence = found["latest"]["sentence"]
    assert sentence.startswith("waits: ")
    assert words in sentence
    assert "--allow-answers" in sentence
    refused = command(server, "rollout", "promote", rollout, code=4)
    assert "--allow-answers" in refused["hint"]
    command(server, "rollout", "promote", rollout, "--allow-answers", "--reason", "as meant")
    found = command(server, "rollout", "status", rollout)
    assert found["state"] == "promoted"


def test_a_person_may_allow_other_answers_before(homes, serve, command):
    found, _ = rolled_out(homes, serve, command, "amount", "shifted", is_ended, "--allow-answers")
    assert found["state"] == "promoted", found["latest"]
