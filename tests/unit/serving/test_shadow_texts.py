"""A shadow of a model that generates text: texts are compared, streamed ones too, by a distance."""

from __future__ import annotations

import http.client
import json
import random
import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bascule.bundle.generation import INPUTS, OUTPUTS
from bascule.core import DType, Field, ModelFailed, Program, Signature
from bascule.endpoints import Arm, Plan, Shadow
from bascule.serving.execution.shadows import MAX_WAITING
from bascule.serving.telemetry import labels_of
from bascule.serving.workers.planned_endpoints import PlannedEndpoints, find_version
from bascule.stats import edit_distance

CHAT, INFER = "/v1/chat/completions", "/v2/models/m/infer"
SAID = "the quick brown fox jumps"


class Talker(Program):
    """Says a text, a word a part."""

    name, inputs, outputs = "original", INPUTS, OUTPUTS
    signature = Signature(INPUTS, OUTPUTS)

    def __init__(self, says):
        self.says, self.threads = says, []
        self.may_speak = threading.Event()
        self.may_speak.set()

    def run(self, columns, outputs=None):
        parts = [*self.run_in_parts(columns, ("text",), threading.Event())]
        text = "".join(part["text"][0] for part in parts)
        whole = {"text": text, "chunk": json.dumps({"text": text, "finish": "stop"})}
        return {name: np.array([whole[name]], object) for name in outputs or ("text", "chunk")}

    def run_in_parts(self, columns, outputs, cancelled):
        self.threads.append(threading.current_thread().name)
        if isinstance(self.says, Exception):
            raise self.says
        self.may_speak.wait(30)
        words = self.says.split(" ")
        for place, word in enumerate(words):
            is_last = place == len(words) - 1
            piece = {"text": word + " " * (not is_last)}
            piece["chunk"] = json.dumps(piece | {"finish": "stop" if is_last else None})
            yield {name: np.array([piece[name]], object) for name in outputs or piece}


class Embedder(Program):
    """A text's vector counts its words `a` and `b`."""

    name, inputs = "original", (Field("text", DType.BYTES, ()),)
    outputs = (Field("embedding", DType.FP32, (2,)),)
    signature = Signature(inputs, outputs)

    def run(self, columns, outputs=None):
        counts = [[t.split().count("a"), t.split().count("b")] for t in columns["text"]]
        return {"embedding": np.array(counts, np.float32)}


@pytest.fixture
def served(serve_models, thread):
    """`served(current, candidate, shadow)`: two talkers and an embedder, the second a shadow."""

    def serve(current, candidate, **shadow):
        programs = {"m/1": Talker(current), "m/2": Talker(candidate), "e/1": Embedder()}
        server = serve_models(*((name, program, thread) for name, program in programs.items()))
        server.programs = programs
        endpoints = PlannedEndpoints(
            server.counters, 0, server.loop, lambda *_: None,
            lambda reference: find_version(reference, server.models),
        )  # fmt: skip
        plan = Plan("m", 1, (Arm("current", "m/1", 100.0),), shadow=Shadow("m/2", 100.0, **shadow))
        server.counters.arms.name(labels_of(plan), [])
        (endpoint,) = endpoints.follow((plan,)).values()
        server.serve(endpoint, *server.models)
        server.arms = lambda: {one.arm: one for one in server.counters.arms.totals()}
        return server

    return serve


def chat(server, *, stream, count=1):
    """What a client gets, the last of so many times."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(count):
        client.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        got = answer.read().decode()
        assert answer.status == 200, got
    client.close()
    return got


def compared(server, *, requests=1):
    server.until(lambda: server.arms()["shadow"].requests == requests)
    return server.arms()["shadow"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_is_compared_whether_it_was_streamed_or_not(served, stream):
    server = served(SAID, SAID)
    chat(server, stream=stream, count=3)
    shadow = compared(server, requests=3)
    assert (shadow.disagreements, shadow.errors, shadow.dropped) == (0, 0, 0)
    assert all(name.startswith("bascule-parts-m/2") for name in server.programs["m/2"].threads)
    assert server.arms()["current"].requests == 3
    server.programs["m/2"].says = SAID + " over"
    chat(server, stream=stream)
    assert compared(server, requests=4).disagreements == 1


def test_a_whole_answer_is_compared_by_its_text_alone(served):
    server = served(SAID, SAID)
    one = {"name": "request", "datatype": "BYTES", "shape": [1], "data": ["hello"]}
    with server.client() as client:
        assert client.request("POST", INFER, {"inputs": [one]}).answer().status == 200
    assert compared(server).disagreements == 0


def test_texts_agree_up_to_a_distance_of_edits(served):
    server = served(SAID, SAID.replace("quick", "quack"), tolerance=0.05)
    chat(server, stream=True)
    assert compared(server).disagreements == 0  # 1 of 25 characters
    server.programs["m/2"].says = "another text altogether"
    chat(server, stream=True)
    assert compared(server, requests=2).disagreements == 1


def test_texts_agree_up_to_a_distance_of_embeddings(served):
    server = served("a a b b", "b a b a", tolerance=0.1, embedding="e/1")
    chat(server, stream=True)
    assert compared(server).disagreements == 0  # the same words in another order
    server.programs["m/2"].says = "a a a a"
    chat(server, stream=True)
    assert compared(server, requests=2).disagreements == 1  # at 45 degrees: 0.29


@pytest.mark.parametrize("embedding", ["m/1", "e/9"])
def test_without_a_model_that_embeds_comparisons_are_dropped_and_a_shadow_goes_on(
    served, embedding
):
    server = served(SAID, SAID + "!", tolerance=0.1, embedding=embedding)
    chat(server, stream=True, count=40)
    server.until(lambda: server.arms()["shadow"].dropped == 40)
    server.programs["m/2"].says = SAID
    chat(server, stream=True)
    assert compared(server).disagreements == 0


def test_texts_that_differ_at_their_end_are_not_the_same(served):
    server = served("word " * 1_000, "word " * 1_000 + "!")
    chat(server, stream=True)
    assert compared(server).disagreements == 1


@pytest.mark.parametrize("says", [(SAID, SAID * 100), (SAID * 100, SAID)], ids=["its", "current"])
def test_a_text_that_is_too_long_is_dropped_and_the_shadow_goes_on(served, monkeypatch, says):
    server = served(*says)
    monkeypatch.setattr("bascule.serving.execution.shadows.MAX_CALL_BYTES", 2_000)
    chat(server, stream=True, count=40)
    server.until(lambda: server.arms()["shadow"].dropped == 40)
    server.programs["m/1"].says = server.programs["m/2"].says = SAID
    chat(server, stream=True)
    assert compared(server).disagreements == 0


def test_a_shadow_that_fails_is_counted_and_the_client_has_its_text(served):
    server = served(SAID, ModelFailed("no"))
    assert SAID.split()[0] in chat(server, stream=True)
    assert compared(server).errors == 1


def test_no_caller_waits_for_a_shadow_that_is_busy_and_all_that_was_drawn_is_accounted_for(served):
    server = served(SAID, SAID + "!")
    shadow = server.programs["m/2"]
    shadow.may_speak.clear()
    for _ in range(2):
        assert SAID.split()[-1] in chat(server, stream=True, count=40)
    assert server.arms()["current"].requests == 80, "answered while the shadow has said nothing"
    assert len(shadow.threads) <= MAX_WAITING
    shadow.may_speak.set()
    arm = "shadow"
    server.until(lambda: server.arms()[arm].requests + server.arms()[arm].dropped == 80)
    told = server.arms()[arm]
    assert told.dropped >= 80 - MAX_WAITING
    assert told.disagreements == told.requests, "of what was compared, and of nothing else"
    chat(server, stream=True)
    server.until(lambda: server.arms()[arm].requests == told.requests + 1)


# -- the distance --


def by_table(one, other):
    """Wagner and Fischer 1974."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1] / max(len(one), len(other), 1)


@given(st.text("abc ü", max_size=80), st.text("abc ü", max_size=80))
def test_the_distance_is_that_of_the_table(one, other):
    assert edit_distance(one, other) == edit_distance(other, one) == by_table(one, other)


def test_the_distance_of_long_texts_is_found_at_once():
    letters = random.Random(0).choices("abcdefgh ", k=8_000)
    one, other = "".join(letters[:4_000]), "".join(letters[4_000:])
    assert 0.4 < edit_distance(one, other) < 0.8
