from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bascule.bundle.extras.confidence import Confidence
from bascule.core.errors import Invalid
from bascule.core.fields import DType, Field, Signature
from bascule.core.programs import Program
from bascule.stats.conformal import calibrate

INFER = "/v2/models/m/infer"


class Guess(Program):
    """Takes three numbers a row, and answers them as probabilities."""

    name = "guess"
    inputs = (Field("x", DType.FP64, (3,)),)
    outputs = (Field("label", DType.INT64), Field("probabilities", DType.FP64, (3,)))
    calibration = calibrate(
        ["lac", "aps"],
        {"probabilities": np.random.default_rng(0).dirichlet(np.ones(3), 99)},
        np.random.default_rng(1).integers(0, 3, 99),
        classes=(0, 1, 2),
    )

    def __init__(self):
        self.asked = []

    @property
    def signature(self):
        return Signature(self.inputs, self.outputs)

    def run(self, columns, outputs=None):
        self.asked.append(outputs)
        x = columns["x"]
        made = {"label": x.argmax(axis=1), "probabilities": x}
        return {name: made[name] for name in outputs or made}


class Number(Guess):
    """Answers the first of three numbers."""

    outputs = (Field("prediction", DType.FP64),)
    calibration = calibrate(["absolute"], {"prediction": np.zeros(9)}, np.arange(9.0))

    def run(self, columns, outputs=None):
        return {"prediction": columns["x"][:, 0]}


class Plain(Guess):
    calibration = None


ROWS = [[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]


def outputs_of(answer):
    assert answer.status == 200, answer.body
    return {one["name"]: one for one in answer.json["outputs"]}


def refused(answer):
    assert answer.status == 400
    return answer.json["error"]


@pytest.fixture(params=["inline", "thread"])
def served(request, serve_models):
    """`served(program, limits...)`: what asks it, with the pace of either way to execute."""
    pace = request.getfixturevalue(request.param)

    def start(program, **limits):
        client = serve_models(("m", program, pace), **limits).client()
        request.addfinalizer(client.socket.close)

        def infer(**more):
            data = np.ravel(ROWS).tolist()
            tensor = {"name": "x", "datatype": "FP64", "shape": [2, 3], "data": data}
            return client.request("POST", INFER, {"inputs": [tensor], **more}).answer()

        infer.client = client
        return infer

    return start


def test_a_confidence_adds_a_set_per_row(served):
    for confidence in (0.5, 0.9):
        found = outputs_of(served(Guess())(parameters={"confidence": confidence}))
        assert list(found) == ["label", "probabilities", "prediction_set"]
        expected = Guess.calibration.added({"probabilities": np.array(ROWS)}, confidence)
        assert found["prediction_set"] == {
            "name": "prediction_set",
            "datatype": "BOOL",
            "shape": [2, 3],
            "data": expected["prediction_set"].ravel().tolist(),
        }


def test_a_confidence_adds_an_interval_per_row(served):
    found = outputs_of(served(Number())(parameters={"confidence": 0.9}))
    assert found["lower"] == {
        "name": "lower", "datatype": "FP64", "shape": [2], "data": [0.7 - 8, 0.4 - 8]
    }  # fmt: skip
    assert found["upper"]["data"] == [8.7, 8.4]


def test_without_the_parameter_the_answer_is_the_models_own(served):
    ask = served(Guess())
    for more in (
        {},
        {"id": "a"},
        {"parameters": {}},
        {"parameters": None},
        {"parameters": {"a": 1}},
    ):
        assert list(outputs_of(ask(**more))) == ["label", "probabilities"]


def test_the_outputs_that_are_listed_are_answered_and_the_set_beside_them(served):
    program = Guess()
    ask = served(program)
    found = ask(outputs=[{"name": "label"}], parameters={"confidence": 0.9})
    assert list(outputs_of(found)) == ["label", "prediction_set"]
    assert program.asked[-1] == ("label", "probabilities")
    found = ask(outputs=[{"name": "prediction_set"}], parameters={"confidence": 0.9})
    assert list(outputs_of(found)) == ["prediction_set"]
    assert program.asked[-1] == ("probabilities",)


def test_a_listed_set_needs_a_confidence(served):
    said = refused(served(Guess())(outputs=[{"name": "prediction_set"}]))
    assert said.startswith("outputs: prediction_set requires parameters.confidence; send")
    assert "no output 'lower'" in refused(served(Guess())(outputs=[{"name": "lower"}]))


def test_the_method_is_chosen_by_name(served):
    ask = served(Guess())
    found = outputs_of(ask(parameters={"confidence": 0.8, "conformal": "aps"}))
    expected = Guess.calibration.added({"probabilities": np.array(ROWS)}, 0.8, "aps")
    assert found["prediction_set"]["data"] == expected["prediction_set"].ravel().tolist()
    for wrong in ("raps", 7, [], {}):
        said = refused(ask(parameters={"confidence": 0.8, "conformal": wrong}))
        assert said.startswith("conformal: ")
        assert said.endswith(" is not one of lac, aps; the metadata of m says what it takes")


@pytest.mark.parametrize("wrong", [0, 1, -1, 1.5, True, "0.9", [0.9], {"of": 0.9}])
def test_a_wrong_confidence_is_refused_by_name(served, wrong):
    said = refused(served(Guess())(parameters={"confidence": wrong}))
    assert said.startswith("confidence: ")
    assert "is not a number over 0 and under 1" in said


def test_parameters_that_are_no_object_are_refused(served):
    for wrong in (7, "confidence", [0.9], True):
        assert refused(served(Guess())(parameters=wrong)).startswith("parameters: not an object")


def test_the_most_that_the_rows_support_is_answered_and_more_is_refused(served):
    ask = served(Guess())
    assert ask(parameters={"confidence": 0.99}).status == 200
    said = refused(ask(parameters={"confidence": 0.9901}))
    assert "0.9901 is more than 99 calibration rows can support; ask for 0.99 at most" in said


def test_a_model_without_a_calibration_says_so(served):
    ask = served(Plain())
    assert "the model has no calibration" in refused(ask(parameters={"confidence": 0.9}))
    assert list(outputs_of(ask(parameters={"confidence": None}))) == ["label", "probabilities"]


def test_a_default_is_added_until_a_request_says_otherwise(served):
    ask = served(Guess(), confidence=0.9)
    assert list(outputs_of(ask())) == ["label", "probabilities", "prediction_set"]
    assert list(outputs_of(ask(id="a"))) == ["label", "probabilities", "prediction_set"]
    assert list(outputs_of(ask(outputs=[{"name": "label"}]))) == ["label"]
    assert list(outputs_of(ask(outputs=[{"name": "prediction_set"}]))) == ["prediction_set"]
    assert list(outputs_of(ask(parameters={"confidence": None}))) == ["label", "probabilities"]
    own = outputs_of(ask(parameters={"confidence": 0.5}))["prediction_set"]["data"]
    assert sum(own) < sum(outputs_of(ask())["prediction_set"]["data"])
    adaptive = outputs_of(ask(parameters={"conformal": "aps"}))["prediction_set"]["data"]
    expected = Guess.calibration.added({"probabilities": np.array(ROWS)}, 0.9, "aps")
    assert adaptive == expected["prediction_set"].ravel().tolist()


def test_a_default_leaves_a_model_without_a_calibration_as_it_is(served):
    assert list(outputs_of(served(Plain(), confidence=0.9)())) == ["label", "probabilities"]


def test_a_default_that_the_rows_cannot_support_stops_the_start():
    with pytest.raises(Invalid, match="more than 99 calibration rows can support"):
        Confidence(Guess.calibration, Guess.outputs, 0.999)


def test_a_failing_model_is_told_as_without_a_confidence(served):
    class Broken(Guess):
        def run(self, columns, outputs=None):
            raise ValueError("secret")

    answer = served(Broken())(parameters={"confidence": 0.9})
    assert answer.status == 500
    assert b"secret" not in answer.body


def test_an_answer_that_is_no_number_has_no_interval(served):
    class Lost(Number):
        def run(self, columns, outputs=None):
            return {"prediction": np.full(2, math.nan)}

    found = outputs_of(served(Lost())(parameters={"confidence": 0.9}))
    assert found["lower"]["data"] == found["upper"]["data"] == [None, None]


def test_the_metadata_says_what_can_be_asked_for(served):
    def parameters(ask):
        answer = ask.client.request("GET", "/v2/models/m").answer()
        return json.loads(answer.body)["parameters"]

    said = parameters(served(Guess()))
    assert said["confidence_adds"] == "prediction_set"
    assert said["confidence_methods"] == "lac,aps"
    assert said["confidence_largest"] == pytest.approx(0.99)
    assert "confidence" not in said
    assert parameters(served(Guess(), confidence=0.8))["confidence"] == 0.8
    assert "confidence_adds" not in parameters(served(Plain(), confidence=0.8))


def test_callers_in_one_batch_get_what_each_asked(serve_models, thread):
    """One run for all of them, and each its own outputs."""
    program = Guess()
    running = serve_models(("m", program, thread))
    wanted = [{}, {"parameters": {"confidence": 0.5}}, {"parameters": {"confidence": 0.95}},
              {"outputs": [{"name": "label"}]}]  # fmt: skip
    clients = [running.client() for _ in wanted]
    tensor = {"name": "x", "datatype": "FP64", "shape": [2, 3], "data": np.ravel(ROWS).tolist()}
    for _ in range(5):
        for client, more in zip(clients, wanted, strict=True):
            client.request("POST", INFER, {"inputs": [tensor], **more})
        found = [outputs_of(client.answer()) for client in clients]
        assert [list(one) for one in found] == [
            ["label", "probabilities"],
            ["label", "probabilities", "prediction_set"],
            ["label", "probabilities", "prediction_set"],
            ["label"],
        ]
        for one, confidence in ((found[1], 0.5), (found[2], 0.95)):
            expected = Guess.calibration.added({"probabilities": np.array(ROWS)}, confidence)
            assert one["prediction_set"]["data"] == expected["prediction_set"].ravel().tolist()
    for client in clients:
        client.socket.close()
