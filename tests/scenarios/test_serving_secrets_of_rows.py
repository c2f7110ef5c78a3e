"""What a model's exception says of a row reaches neither its caller nor the log."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.conftest import start_server
from tests.tiers import first_of

import bascule
from bascule.core.errors import ModelFailed

SECRET = 987654
CODE = """
class Model:
    def predict(self, columns):
        values = columns["input"][:, 0]
        for value in values:
            if value == 777777:
                import threading
                def fail():
                    raise ValueError(f"in a thread: {value}")
                thread = threading.Thread(target=fail)
                thread.start()
                thread.join()
                raise SystemExit(f"leaving because of {value}")
            try:
                if value > 900000:
                    raise KeyError(f"patient {value:.0f}")
            except KeyError as first:
                raise RuntimeError(f"no such row: {value:.0f}") from first
            if value < 0:
                from bascule import Invalid
                raise Invalid(f"{value:.0f} is below zero", hint="send a weight in kg")
        return values
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A class of the user's, without an environment of its own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_model.py").write_text(CODE)
    model = bascule.PythonModel("own_model:Model", code=folder / "own_model.py")
    rows, to = np.ones((4, 2)), folder / "bundle"
    return bascule.pack(model, name="own", train=rows, to=to, measure=False).path


@pytest.fixture(scope="module")
def lookup(tmp_path_factory):
    """A graph that fails on an index that is too large, and says which."""
    table = numpy_helper.from_array(np.arange(5, dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"], name="find")],
        "lookup",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    to = tmp_path_factory.mktemp("lookup") / "bundle"
    return bascule.pack(model, name="lookup", train=np.array([[0], [1], [2], [3]]), to=to).path


def run(bundle, connect, errors, *, env=None):
    """The answers to a row that makes the model fail, over HTTP, and the log."""
    with errors.open("w") as log:
        server = start_server(bundle, errors=log, env=env)
        try:
            request = json.loads((bundle / "data/example.json").read_bytes())
            (tensor,) = request["inputs"]
            width = np.prod(tensor["shape"][1:], dtype=int)
            with connect(server.port) as client:
                answers = []
                for value in (SECRET, -7, 777777):
                    tensor["data"] = [value] * width
                    tensor["shape"][0] = 1
                    path = f"/v2/models/{bundle_name(bundle)}/infer"
                    answers.append(
                        client.request("POST", path, json.dumps(request).encode()).answer()
                    )
        finally:
            server.end()
            server.process.stdout.close()
    return answers, errors.read_text()


def bundle_name(bundle):
    return bascule.load(bundle).manifest.name


@pytest.mark.parametrize("which", first_of(["lookup", "own"]))
def test_neither_caller_nor_log_learns_what_an_exception_says(which, request, connect, tmp_path):
    bundle = request.getfixturevalue(which)
    (answer, other, left), log = run(bundle, connect, tmp_path / "log")
    request_id = answer.headers["x-request-id"]
    assert answer.status == 500
    assert answer.json["error"] == (
        f"the model failed; the server's log has the reason under id {request_id}"
    )
    assert str(SECRET) not in log
    line = next(line for line in log.splitlines() if f"request_id={request_id}" in line)
    assert ("own_model.py" if which == "own" else "Gather node 'find'") in line
    if which == "own":
        assert other.status == 400
        assert other.json["error"] == "-7 is below zero; send a weight in kg"
        assert "own_model.py" in log
        assert left.status == 500
        assert "777777" not in log


@pytest.mark.slow
def test_the_log_has_the_texts_where_that_is_set(own, connect, tmp_path):
    env = {"BASCULE_SERVING__LOG_EXCEPTION_TEXTS": "true"}
    (answer, *_), log = run(own, connect, tmp_path / "log", env=env)
    assert str(SECRET) not in answer.body.decode()
    assert f"no such row: {SECRET}" in log
    assert "in a thread: 777777" in log


@pytest.mark.slow
def test_a_command_that_predicts_shows_its_user_what_the_model_said(own, tmp_path):
    with pytest.raises(ModelFailed, match=f"no such row: {SECRET}"):
        bascule.load(own).predict(np.full((1, 2), SECRET, float))
