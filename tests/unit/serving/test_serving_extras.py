"""Extra outputs of an answer: computed from the caller's own rows, and off the loop if costly."""

from __future__ import annotations

import threading
from types import MappingProxyType

import numpy as np
import pytest

from bascule.bundle.extras import Extra, Parameter
from bascule.core.fields import DType, Field
from bascule.serving.execution.admission import held_bytes
from bascule.serving.execution.extras_thread import ON_LOOP_S

INFER = "/v2/models/m/infer"


class Distance(Extra):
    """How far each row is from a point; the inputs are all that it reads."""

    name = "distance"
    parameters = (Parameter("distance", int, "a whole number", "From where."),)
    outputs = MappingProxyType({"distance": ("distance",)})

    def __init__(self, row_cost_s):
        super().__init__((Field("distance", DType.FP64),))
        self.row_cost_s = row_cost_s
        self.threads = []
        self.rows = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.problem = None

    @classmethod
    def open(cls, *_bundle):
        raise AssertionError

    def add(self, inputs, outputs, settings):
        self.threads.append(threading.current_thread())
        self.rows.append(len(inputs["x"]))
        self.running.set()
        assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        return {"distance": np.abs(inputs["x"] - settings[0]).sum(axis=1)}


CHEAP, COSTLY = 0.9 * ON_LOOP_S, 1.1 * ON_LOOP_S


@pytest.fixture
def serve(serve_models, fake, inline):
    """`serve(row_cost_s)`: a server whose model has the extra."""

    def start(row_cost_s, pace=inline, **more):
        program = fake()
        extra = Distance(row_cost_s)
        program.extras = [extra]
        server = serve_models(("m", program, pace), **more)
        server.program, server.extra = program, extra
        server.loop_thread = server.on_loop(threading.current_thread)
        return server

    return start


def asked(point, **more):
    return {"parameters": {"distance": point}, **more}


def outputs_of(answer):
    assert answer.status == 200, answer.body
    return {one["name"]: one["data"] for one in answer.json["outputs"]}


@pytest.mark.parametrize("row_cost_s", [CHEAP, COSTLY])
def test_an_extra_is_added_from_the_callers_own_rows(serve, ask, row_cost_s):
    server = serve(row_cost_s)
    with server.client() as client:
        found = client.request("POST", INFER, ask([1, 2], **asked(0))).answer()
        assert outputs_of(found) == {"twice": [2, 4], "sum": [3], "distance": [3]}
        listed = ask([1, 2], outputs=[{"name": "distance"}], **asked(1))
        assert outputs_of(client.request("POST", INFER, listed).answer()) == {"distance": [1]}
        plain = client.request("POST", INFER, ask([1, 2])).answer()
        assert set(outputs_of(plain)) == {"twice", "sum"}
        metadata = client.request("GET", "/v2/models/m").answer().json
    assert metadata["parameters"]["distance_adds"] == "distance"


@pytest.mark.parametrize(("row_cost_s", "on_loop"), [(CHEAP, True), (COSTLY, False)])
def test_a_costly_one_never_runs_on_the_event_loop(serve, ask, row_cost_s, on_loop):
    server = serve(row_cost_s)
    with server.client() as client:
        client.request("POST", INFER, ask([1, 2], **asked(0))).answer()
        assert [thread is server.loop_thread for thread in server.extra.threads] == [on_loop]
        # It is the cost of all rows of the request that counts.
        client.request("POST", INFER, ask([1, 2], [3, 4], **asked(0))).answer()
    assert server.extra.threads[1] is not server.loop_thread


def test_what_one_caller_asks_for_delays_nobody_in_its_batch(serve, ask, thread):
    server = serve(COSTLY, thread)
    server.extra.gate.clear()
    server.program.gate.clear()
    with server.client() as first, server.client() as costly, server.client() as plain:
        first.request("POST", INFER, ask([9, 9]))
        assert server.program.running.wait(10)
        costly.request("POST", INFER, ask([1, 2], **asked(0)))
        plain.request("POST", INFER, ask([3, 4]))
        server.until(lambda: server.models[0].open_calls == 3)
        server.program.gate.set()
        assert outputs_of(first.answer())["sum"] == [18]
        assert outputs_of(plain.answer()) == {"twice": [6, 8], "sum": [7]}
        assert server.program.runs == [1, 2], "the two were one batch"
        server.extra.gate.set()
        assert outputs_of(costly.answer())["distance"] == [3]
    assert server.extra.rows == [1], "only the caller's own rows"


def test_rows_that_wait_for_an_extra_are_in_the_account(serve, ask):
    server = serve(COSTLY)
    server.extra.gate.clear()
    size = held_bytes({"x": np.ones((1, 2))})
    size += held_bytes({"twice": np.ones((1, 2)), "sum": np.ones(1)})
    with server.client() as client:
        client.request("POST", INFER, ask([1, 2], **asked(0)))
        server.until(lambda: server.held.bytes == size)
        server.extra.gate.set()
        assert client.answer().status == 200
    assert server.on_loop(lambda: server.held.bytes) == 0


def test_who_waits_past_the_deadline_is_told_whatever_the_extra_does(serve, ask):
    server = serve(COSTLY)
    server.extra.gate.clear()
    with server.client() as client:
        late = "X-Request-Timeout-Ms: 50\r\n"
        answer = client.request("POST", INFER, ask([1, 2], **asked(0)), late).answer()
    assert answer.status == 504
    assert "extra outputs were not ready" in answer.json["error"]
    server.extra.gate.set()
    server.until(lambda: server.held.bytes == 0)


def test_as_many_wait_as_for_the_model_and_no_more(serve, ask):
    server = serve(COSTLY, max_queue_requests=2)
    server.extra.gate.clear()
    clients = [server.client() for _ in range(3)]
    for client in clients[:2]:
        client.request("POST", INFER, ask([1, 2], **asked(0)))
    server.until(lambda: server.models[0].extras_thread.waiting == 2)
    refused = clients[2].request("POST", INFER, ask([1, 2], **asked(0))).answer()
    assert refused.status == 429
    assert "waiting for extra outputs" in refused.json["error"]
    server.extra.gate.set()
    assert [client.answer().status for client in clients[:2]] == [200, 200]
    for client in clients:
        client.socket.close()


def test_where_no_thread_starts_nothing_stays_in_the_account(serve, ask, monkeypatch):
    server = serve(COSTLY)
    start = threading.Thread.start

    def start_others(thread):
        if thread.name.startswith("bascule-extras"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with server.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start_others)
            answer = client.request("POST", INFER, ask([1, 2], **asked(0))).answer()
            assert answer.status == 429
            assert "no thread left for the extra outputs" in answer.json["error"]
        extras = server.models[0].extras_thread
        assert server.on_loop(lambda: (server.held.bytes, extras.waiting)) == (0, 0)
        again = client.request("POST", INFER, ask([3, 4], **asked(0))).answer()
        assert outputs_of(again)["distance"] == [7]
    assert server.extra.rows == [1], "the first is not computed later"


def test_a_caller_who_has_gone_frees_what_it_held_and_is_not_computed(serve, ask):
    server = serve(COSTLY)
    server.extra.gate.clear()
    first, gone = server.client(), server.client()
    first.request("POST", INFER, ask([1, 2], **asked(0)))
    assert server.extra.running.wait(10)
    gone.request("POST", INFER, ask([3, 4], **asked(0)))
    server.until(lambda: server.models[0].extras_thread.waiting == 2)
    gone.socket.close()
    server.until(lambda: server.counted().get(499) == 1)
    server.extra.gate.set()
    assert first.answer().status == 200
    server.until(lambda: server.held.bytes == 0)
    assert server.extra.rows == [1]
    first.socket.close()


@pytest.mark.parametrize("row_cost_s", [CHEAP, COSTLY])
def test_an_extra_that_fails_fails_its_own_caller_and_tells_nothing(serve, ask, caplog, row_cost_s):
    server = serve(row_cost_s)
    server.extra.problem = ValueError("secret")
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2], **asked(0))).answer()
        assert answer.status == 500
        assert "the answer has no distance" in answer.json["error"]
        assert b"secret" not in answer.body
        assert client.request("POST", INFER, ask([1, 2])).answer().status == 200


def test_the_loop_answers_others_while_an_extra_is_computed(serve, ask):
    server = serve(COSTLY)
    server.extra.gate.clear()
    with server.client() as costly, server.client() as other:
        costly.request("POST", INFER, ask([1, 2], **asked(0)))
        assert server.extra.running.wait(10)
        assert other.request("POST", INFER, ask([1, 2])).answer().status == 200
        server.extra.gate.set()
        assert costly.answer().status == 200


def test_a_malformed_parameter_of_an_extra_is_refused_by_name(serve, ask):
    with serve(CHEAP).client() as client:
        answer = client.request("POST", INFER, ask([1, 2], **asked("far"))).answer()
        assert (answer.status, answer.json["error"]) == (
            400, "distance: 'far' is not a whole number; the metadata of m says what it takes"
        )  # fmt: skip
        unasked = ask([1, 2], outputs=[{"name": "distance"}])
        answer = client.request("POST", INFER, unasked).answer()
    assert answer.json["error"].startswith("outputs: distance requires parameters.distance")
