"""What is done with outliers: fields, refusals and other versions, and what is counted."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from bascule.bundle.extras import Outlier
from bascule.core import DType, Field, Invalid, Refused
from bascule.packing.statements.outlying import fit_outliers
from bascule.serving.calls import Call
from bascule.serving.execution import AroundPredictor, PolicyFacts, read_chain, values_of_keys
from bascule.serving.execution.guarding_outliers import (
    GuardedPredictor,
    OutlierGuard,
    OutlierSettings,
)

INFER = "/v2/models/m/infer"
USUAL, FAR = [0.1, 0.2], [1e6, 0.2]


class Scores(Outlier):
    """As a bundle has it whose training rows were standard normal."""

    def __init__(self, held_out):
        self.fields = (Field("outlier_p", DType.FP64), Field("outlier_score", DType.FP64))
        random = np.random.default_rng(0)
        train, others = ({"x": random.normal(size=(n, 2))} for n in (300, held_out))
        self.__dict__["scorer"] = fit_outliers(train, others, (), "test")
        self.needs, self.by_default, self._known = (), None, self.request

    def add(self, inputs, outputs, settings):
        scores = self.scorer.scores(inputs)
        return {"outlier_p": self.scorer.p_values(scores), "outlier_score": scores}


@pytest.fixture
def guarded(serve_models, fake, inline, thread):
    """`guarded(on_outlier=...)`: a server of `m` under the policy, and of `safe` without."""

    def start(held_out=199, pace=inline, recorder=None, **settings):
        program, other = fake(), fake()
        program.extras = [Scores(held_out)]
        server = serve_models(("m", program, pace), ("safe", other, thread), recorder=recorder)
        facts = PolicyFacts(lambda name: {"safe": server.models[1]}.get(name), server.loop, "m")
        chosen = OutlierSettings(**settings)
        OutlierGuard.check(server.models[0], chosen, facts.find)
        server.serve(GuardedPredictor(server.models[0], chosen, facts), server.models[1])
        server.program, server.other = program, other
        return server

    return start


def asked(server, ask, *rows, path=INFER, **more):
    with server.client() as client:
        return client.request("POST", path, ask(*rows, **more)).answer()


def outputs_of(answer):
    assert answer.status == 200, answer.body
    return {output["name"]: output["data"] for output in answer.json["outputs"]}


def test_a_flagged_answer_has_the_p_values(guarded, ask):
    outputs = outputs_of(asked(guarded(), ask, USUAL, FAR))
    assert list(outputs) == ["twice", "sum", "outlier_p", "outlier_score"]
    assert outputs["outlier_p"][0] > 0.01
    assert outputs["outlier_p"][1] == 1 / 200
    assert outputs["outlier_score"][1] > outputs["outlier_score"][0]


def test_the_parameter_asks_for_them_without_a_policy(serve_models, fake, inline, ask):
    program = fake()
    program.extras = [Scores(199)]
    server = serve_models(("m", program, inline))
    assert list(outputs_of(asked(server, ask, USUAL))) == ["twice", "sum"]
    assert list(outputs_of(asked(server, ask, USUAL, parameters={"outlier": False}))) == [
        "twice", "sum",
    ]  # fmt: skip
    outputs = outputs_of(asked(server, ask, USUAL, FAR, parameters={"outlier": True}))
    assert outputs["outlier_p"][1] == 1 / 200


@pytest.mark.parametrize("pace", ["inline", "thread"])
def test_a_refusal_names_the_rows_and_is_no_error_of_the_server(guarded, ask, request, pace):
    server = guarded(on_outlier="refuse", pace=request.getfixturevalue(pace))
    assert outputs_of(asked(server, ask, USUAL))["sum"] == [0.1 + 0.2]
    refused = asked(server, ask, USUAL, FAR, USUAL, FAR)
    assert refused.status == 403
    assert refused.json["error"] == (
        "m/1 does not answer rows unlike its training rows: row 1, 3 has an outlier_p of 0.01 or "
        "less; check the values, or send the other rows without them"
    )
    assert server.totals()[1].refusals == {"outlier": 1}
    assert server.totals()[1].by_status == {200: 1, 403: 1}


@pytest.mark.parametrize("path", ["/invocations", "/v1/models/m:predict"])
def test_every_protocol_refuses_alike(guarded, path):
    server = guarded(on_outlier="refuse")
    with server.client() as client:
        body = {"instances": [FAR]} if "v1" in path else {"inputs": [FAR]}
        assert client.request("POST", path, body).answer().status == 403


def test_grpc_has_the_fields_and_refuses(guarded, grpc_client, ask_grpc):
    client = grpc_client(guarded(on_outlier="refuse"))
    usual, far = ask_grpc(USUAL), ask_grpc(FAR)
    usual.model_name = far.model_name = "m"
    names = [output.name for output in client.infer(usual).outputs]
    assert names == ["twice", "sum", "outlier_p", "outlier_score"]
    with pytest.raises(grpc.RpcError) as refusal:
        client.infer(far)
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "row 0 has an outlier_p" in refusal.value.details()


def test_the_other_version_answers_the_whole_request(guarded, ask):
    server = guarded(on_outlier="fallback", outlier_fallback="safe")
    assert "outlier_p" in outputs_of(asked(server, ask, USUAL))
    assert not server.other.runs
    answer = asked(server, ask, USUAL, FAR)
    assert server.other.runs == [2]
    assert outputs_of(answer)["outlier_p"][1] == 1 / 200
    assert server.totals()[1].fallbacks == 1
    listed = asked(server, ask, FAR, outputs=[{"name": "sum"}, {"name": "outlier_p"}])
    assert set(outputs_of(listed)) == {"sum", "outlier_p", "outlier_score"}


def test_an_answer_in_parts_is_scored_before_it_begins(guarded):
    """It has no p-values: an outlier is refused, or the other version answers it."""

    class Parts(AroundPredictor):
        def answer_in_parts(self, call, context, allowed_s, deliver):
            return self.name, call.columns["x"][0, 0], call.extras

    def begun(row, **settings):
        model, other = map(Parts, server.models)
        facts = PolicyFacts({"safe": other}.get, server.loop, "m")
        guard = GuardedPredictor(model, OutlierSettings(**settings), facts)
        call = Call({"x": np.array([row])}, 1, None, guard.extras.by_default)
        return guard.answer_in_parts(call, None, 1.0, None)

    server = guarded()
    assert begun(FAR) == ("m", 1e6, ())
    assert begun(USUAL, on_outlier="refuse") == ("m", 0.1, ())
    with pytest.raises(Refused, match="row 0 has an outlier_p"):
        begun(FAR, on_outlier="refuse")
    assert begun(FAR, on_outlier="fallback", outlier_fallback="safe") == ("safe", 1e6, ())


def test_without_the_other_version_outliers_are_refused(guarded, ask):
    server = guarded(on_outlier="fallback", outlier_fallback="gone")
    assert asked(server, ask, FAR).status == 403
    assert asked(server, ask, USUAL).status == 200


def test_a_failure_of_the_model_is_told_as_such(guarded, ask):
    server = guarded(on_outlier="refuse")
    server.program.poison = 0.1
    assert asked(server, ask, USUAL).status == 500
    assert server.totals()[1].refusals == {}


def test_the_recorder_gets_the_p_values(guarded, ask):
    class Recorder:
        def __init__(self):
            self.outputs = []

        def add(self, context, call, answer, *_):
            self.outputs.append(None if answer is None else list(answer.outputs))

    recorder = Recorder()
    server = guarded(on_outlier="refuse", recorder=recorder)
    asked(server, ask, USUAL)
    asked(server, ask, FAR)
    assert recorder.outputs == [["twice", "sum", "outlier_p", "outlier_score"], None]


def test_a_threshold_that_no_p_value_reaches_is_refused_at_the_start(guarded):
    with pytest.raises(Refused, match=r"its p-values end at 0\.02") as refusal:
        guarded(held_out=49, on_outlier="refuse", outlier_p=0.01)
    assert refusal.value.hint == "pack it with 100 held-out rows: test=(X, y)"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"on_outlier": "drop"}, "drop"),
        ({"outlier_p": 0.0}, "outlier_p"),
        ({"on_outlier": "fallback"}, "outlier_fallback"),
        ({"outlier_fallback": "safe"}, "outlier_fallback"),
    ],
)
def test_wrong_settings_are_refused(keys, why):
    with pytest.raises(Invalid, match=why):
        read_chain(values_of_keys(keys))
