"""Answers made coarser: over every protocol, in parts, and not in the ledger."""

from __future__ import annotations

import numpy as np
import pytest
from tests.events import Events

from bascule.core import DType, Field, Refused
from bascule.serving.calls import Call
from bascule.serving.execution import CallerFacts, PolicyFacts
from bascule.serving.execution.coarsening import CoarseAnswers, CoarseSettings, row_noise

INFER = "/v2/models/m/infer"
KEY = b"k" * 32


@pytest.fixture
def classifier(fake):
    """Of rows of two numbers: a label, and the probabilities of three classes."""

    class Classifier(fake):
        outputs = (Field("label", DType.INT64), Field("probabilities", DType.FP64, (3,)))

        def run(self, columns, outputs=None):
            first = columns["x"][:, 0]
            chances = np.stack([first, 0.6 - first, np.full_like(first, 0.4)], axis=1)
            made = {"label": chances.argmax(axis=1), "probabilities": chances}
            return {name: made[name] for name in (outputs or made)}

    return Classifier


class Recorder:
    def __init__(self):
        self.replies = []

    def add(self, context, call, reply, label, status, duration_ns):
        self.replies.append(reply)


@pytest.fixture
def coarse(serve_models, classifier, inline):
    """`coarse(program=None, **settings)`: a server of a model with coarser answers."""

    def start(program=None, **settings):
        recorder = Recorder()
        server = serve_models(("m", program or classifier(), inline), recorder=recorder)
        facts = PolicyFacts(lambda _: None, server.loop, "m", CallerFacts(None, noise_key=KEY))
        chosen = CoarseSettings(**settings)
        CoarseAnswers.check(server.models[0], chosen, lambda _: None)
        server.serve(CoarseAnswers.around(server.models[0], chosen, facts))
        server.replies = recorder.replies
        return server

    return start


def answer(server, ask, row, **more):
    with server.client() as client:
        return client.request("POST", INFER, ask(row, **more)).answer()


def outputs(reply):
    return {output["name"]: output["data"] for output in reply.json["outputs"]}


def test_rounded_probabilities_reach_the_caller_and_the_whole_ones_the_ledger(coarse, ask):
    server = coarse(round=1)
    assert outputs(answer(server, ask, [0.1234, 0])) == {
        "label": [1], "probabilities": [0.1, 0.5, 0.4],
    }  # fmt: skip
    kept = server.replies[-1]
    assert kept.original["probabilities"].tolist() == [[0.1234, 0.6 - 0.1234, 0.4]]


def test_the_largest_probabilities_are_kept_and_the_others_are_0(coarse, ask):
    assert outputs(answer(coarse(top_k=1), ask, [0.1, 0]))["probabilities"] == [0, 0.5, 0]


def test_a_label_alone_is_all_that_metadata_and_answers_have(coarse, ask):
    server = coarse(label_only=True)
    assert outputs(answer(server, ask, [0.1, 0])) == {"label": [1]}
    with server.client() as client:
        about = client.request("GET", "/v2/models/m").answer().json
    assert [output["name"] for output in about["outputs"]] == ["label"]
    refused = answer(server, ask, [0.1, 0], outputs=[{"name": "probabilities"}])
    assert refused.status in (400, 403)


def test_a_label_alone_needs_a_model_with_labels(coarse, fake):
    with pytest.raises(Refused, match="m/1 has no label"):
        coarse(fake(), label_only=True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v1/models/m:predict", {"twice": [3, 5], "sum": 4}), ("/invocations", [3, 5])],
)
def test_every_protocol_gives_the_rounded_answer(coarse, fake, path, expected):
    server = coarse(fake(), round=0)
    with server.client() as client:
        reply = client.request("POST", path, {"instances": [[1.26, 2.3]]}).answer()
    assert reply.json["predictions"] == [expected]


def test_over_grpc_too(coarse, grpc_client, ask_grpc):
    client = grpc_client(coarse(round=1))
    request = ask_grpc([0.1234, 0])
    request.model_name = "m"
    told = client.infer(request)
    values = np.frombuffer(told.raw_output_contents[1], np.float64)
    assert values.tolist() == [0.1, 0.5, 0.4]


def test_an_answer_in_parts_is_made_coarser_part_by_part(coarse, ask):
    server = coarse(round=1)
    with Events(server.port, INFER + "_stream", ask([0.1234, 0])) as events:
        (_, part), _ = list(events)
    assert [output["data"] for output in part["outputs"]] == [[1], [0.1, 0.5, 0.4]]


def test_numbers_of_a_regression_are_rounded(coarse, fake, ask):
    assert outputs(answer(coarse(fake(), round=0), ask, [1.26, 2.3])) == {
        "twice": [3, 5], "sum": [4],
    }  # fmt: skip


def test_who_asks_a_row_again_gets_the_same_noise_and_the_mean_of_rows_is_right(coarse, ask):
    server = coarse(noise=0.05)
    first, again = (outputs(answer(server, ask, [0.1234, 0])) for _ in range(2))
    assert first == again, "averaging repeats removes nothing"
    assert first["label"] == [1]
    assert first["probabilities"] != [0.1234, 0.6 - 0.1234, 0.4]
    assert sum(first["probabilities"]) == pytest.approx(1)
    assert outputs(answer(server, ask, [0.1235, 0])) != first


def test_noise_is_laplace_of_scale_1_and_another_key_has_another():
    rows = 20_000
    call = Call({"x": np.arange(rows, dtype=float), "t": np.array(["a"] * rows, object)}, rows)
    drawn = row_noise(KEY, call, (rows,))
    assert np.abs(drawn).mean() == pytest.approx(1, abs=0.03)
    assert np.median(drawn) == pytest.approx(0, abs=0.03)
    assert np.abs(drawn).max() < 41
    other = row_noise(b"o" * 32, call, (rows,))
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.05


def test_extra_outputs_are_withheld(coarse):
    server = coarse(round=1)
    extra = type("Extra", (), {"name": "explain"})()
    request = type("Request", (), {"extra": extra, "always": True})()
    facts = PolicyFacts(lambda _: None, server.loop)
    predictor = CoarseAnswers.around(server.models[0], CoarseSettings(round=1), facts)
    call = Call({"x": np.zeros((1, 2))}, 1, None, (request,))
    with pytest.raises(Refused, match="the extra output explain of m is withheld by its policy"):
        predictor.answer(call, None, 1.0, pytest.fail)
