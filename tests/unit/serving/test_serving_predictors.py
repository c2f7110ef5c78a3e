"""Contexts, answers, predictors and the recorder: what later rooms are built onto."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from bascule.core.errors import Invalid
from bascule.security.keys import Permission, create_key
from bascule.serving.execution.admission import held_bytes
from bascule.serving.execution.resilience import ResiliencePolicy
from bascule.serving.execution.resilient import ResilientPredictor
from bascule.serving.telemetry.recorder import NoopRecorder, open_recorder
from bascule.serving.transports.authenticator import Authenticator

INFER = "/v2/models/m/infer"
OURS = "[0-9a-f]{16}-[0-9a-f]+"
BY_ROW = {
    "/v1/models/m:predict": "instances",
    "/invocations": "instances",
    "/vertex/predict": "instances",
    "/score": "data",
}


class Kept:
    """A recorder that keeps what it is given."""

    def __init__(self):
        self.kept = []

    def add(self, context, call, answer, label, status, duration_ns):
        assert duration_ns > 0
        self.kept.append((context, f"{label.model}/{label.version}", status, call, answer))


class Split:
    """A predictor of two versions: a sticky header chooses one, and the other is its shadow."""

    def __init__(self, first, shadow):
        self.model, self.shadow = first, shadow
        self.asks_headers = frozenset({b"x-user"})

    def __getattr__(self, name):
        return getattr(self.model, name)

    def answer(self, call, context, allowed_s, deliver):
        chosen, other = self.model, self.shadow
        if context.header(b"x-user").startswith(b"b"):
            chosen, other = other, chosen
        other.answer(call, context, allowed_s, lambda outcome: None)
        return chosen.answer(call, context, allowed_s, deliver)


@pytest.fixture
def recorder():
    return Kept()


# -- predictors that ask others ------------------------------------------------------------------


@pytest.fixture
def split(serve_models, fake, inline):
    """`split(paces...)`: a server whose `m/2` is asked for, with `m/1` beside it."""

    def serve(*paces, **more):
        programs = [fake(), fake()]
        first, second = paces or (inline, inline)
        server = serve_models(("m/2", programs[0], first), ("m/1", programs[1], second), **more)
        server.programs = programs
        server.serve(Split(*server.models))
        return server

    return serve


@pytest.mark.parametrize(("user", "version"), [("ada", "2"), ("bob", "1")])
def test_a_predictor_chooses_by_a_header_that_it_asks_for(split, ask, user, version):
    server = split()
    with server.client() as client:
        for _ in range(3):  # also where the head has been seen before
            sent = client.request("POST", INFER, ask([1, 2]), f"X-User: {user}\r\n")
            answer = sent.answer()
            assert (answer.status, answer.json["model_version"]) == (200, version)
            expected = None if version == "2" else "m/1"
            assert answer.headers.get("x-answered-by") == expected
    assert [program.runs for program in server.programs] == [[1] * 3, [1] * 3]


@pytest.mark.parametrize(("user", "version"), [("ada", "2"), ("bob", "1")])
def test_over_grpc_the_header_is_metadata(split, grpc_client, ask_grpc, user, version):
    client = grpc_client(split())
    for _ in range(3):
        request = ask_grpc([1, 2])
        request.model_name = "m"
        assert client.infer(request, metadata=[("x-user", user)]).model_version == version


def test_a_header_that_is_asked_for_later_is_read_on_connections_that_are_open(
    serve_models, fake, inline, ask, ask_grpc, grpc_client
):
    server = serve_models(("m/2", fake(), inline), ("m/1", fake(), inline))
    channel, request = grpc_client(server), ask_grpc([1, 2])
    request.model_name = "m"

    def versions(client):
        answer = client.request("POST", INFER, ask([1, 2]), "X-User: bob\r\n").answer()
        told = channel.infer(request, metadata=[("x-user", "bob")])
        return answer.json["model_version"], told.model_version

    with server.client() as client:
        assert [versions(client) for _ in range(3)] == [("2", "2")] * 3
        server.serve(Split(*server.models))
        assert [versions(client) for _ in range(3)] == [("1", "1")] * 3


def test_a_header_that_no_predictor_asks_for_is_not_kept(serve_models, program, inline, recorder):
    server = serve_models(("m", program, inline), recorder=recorder)
    body = {"instances": [[1, 2]]}
    with server.client() as client:
        assert client.request("POST", "/invocations", body, "X-User: a\r\n").answer().status == 200
    assert recorder.kept[0][0].header(b"x-user") == b""


def test_the_rows_of_a_shadow_are_in_the_account_until_it_has_run(split, ask, inline, thread):
    """The answer is out, and the second call still waits behind another one."""
    server = split(inline, thread)
    shadow = server.programs[1]
    shadow.gate.clear()
    with server.client() as client:
        for _ in range(2):
            assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
        size = held_bytes({"x": np.ones((1, 2))})
        assert server.on_loop(lambda: server.held.bytes) == 2 * size
        shadow.gate.set()
        server.until(lambda: server.held.bytes == 0)
    assert server.counted() == {200: 2}


# -- ids, and who asks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body_id", "headers", "expected"),
    [
        ("mine", "", "mine"),
        ("mine", "theirs", "mine"),
        (None, "theirs", "theirs"),
        (None, "", OURS),
    ],
)
def test_the_id_of_a_prediction_is_the_bodys_or_the_heads_or_ours(
    serve_models, program, inline, ask, recorder, body_id, headers, expected
):
    server = serve_models(("m", program, inline), recorder=recorder)
    head = f"X-Request-Id: {headers}\r\n" if headers else ""
    with server.client() as client:
        answer = client.request("POST", INFER, ask([1, 2], id=body_id), head).answer()
    assert re.fullmatch(expected, answer.json["id"])
    assert answer.headers.get("x-request-id") == (headers or None)
    assert recorder.kept[0][0].prediction_id == answer.json["id"]


@pytest.mark.parametrize("path", BY_ROW)
def test_where_a_body_has_no_place_for_it_the_id_is_in_the_head(
    serve_models, program, inline, recorder, path
):
    server = serve_models(("m", program, inline), recorder=recorder)
    with server.client() as client:
        body = {BY_ROW[path]: [[1, 2]]}
        given = client.request("POST", path, body, "X-Request-Id: a\r\n").answer()
        made = client.request("POST", path, body).answer()
    assert (given.status, given.headers["x-request-id"]) == (200, "a")
    assert re.fullmatch(OURS, made.headers["x-request-id"])
    ids = [context.prediction_id for context, *_ in recorder.kept]
    assert ids == ["a", made.headers["x-request-id"]]


def test_over_grpc_the_messages_id_comes_before_the_metadatas(
    serve_models, program, inline, grpc_client, ask_grpc
):
    client = grpc_client(serve_models(("fake", program, inline)))
    metadata = [("x-request-id", "theirs")]
    assert client.infer(ask_grpc([1, 2], id="mine"), metadata=metadata).id == "mine"
    assert client.infer(ask_grpc([1, 2]), metadata=metadata).id == "theirs"
    assert re.fullmatch(OURS, client.infer(ask_grpc([1, 2])).id)


def test_a_context_knows_whose_key_asked(
    serve_models, program, inline, ask, ask_grpc, grpc_client, tmp_path, recorder
):
    class Store(list):
        def add(self, key):
            self.append(key)

        def stored(self):
            return list(self)

    store = Store()
    key, token = create_key(
        store, "ada", [Permission.parse("infer:*")], now=datetime.now(UTC), by="root"
    )
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([key.to_json()]))
    server = serve_models(("fake", program, inline), recorder=recorder, guard=Authenticator(file))
    with server.client() as client:
        sent = client.request(
            "POST", "/v2/models/fake/infer", ask([1, 2]), f"Authorization: Bearer {token}\r\n"
        )
        assert sent.answer().status == 200
        assert client.request("POST", "/v2/models/fake/infer", ask([1, 2])).answer().status == 401
    metadata = [("authorization", f"Bearer {token}")]
    grpc_client(server).infer(ask_grpc([1, 2]), metadata=metadata)
    # Who has no key is counted under no model, and recorded under none.
    assert [(context.caller, status) for context, _, status, *_ in recorder.kept] == [
        (key.id, 200)
    ] * 2


# -- the recorder --------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
def test_over_grpc_every_answer_is_recorded_once(
    serve_models, program, inline, grpc_client, ask_grpc, recorder, raw, caplog
):
    server = serve_models(("fake", program, inline), recorder=recorder)
    client = grpc_client(server)
    program.poison = 7.0
    client.infer(ask_grpc([1, 2], [3, 4], raw=raw))
    client.refusal("ModelInfer", ask_grpc([7, 7], raw=raw).SerializeToString())
    client.refusal("ModelInfer", ask_grpc([1, 2, 3], raw=raw).SerializeToString())
    client.call("ServerLive")
    server.until(lambda: len(recorder.kept) == 3)
    (_, *good), (_, *bad), (_, *wrong) = recorder.kept
    assert good[:2] == ["fake/1", 200]
    assert good[2].rows == 2
    np.testing.assert_array_equal(good[3].outputs["sum"], [3, 7])
    assert good[3].by.name == "fake/1"
    assert bad[:2] == ["fake/1", 500]
    np.testing.assert_array_equal(bad[2].columns["x"], [[7, 7]])
    assert bad[3] is None
    assert wrong == ["fake/1", 400, None, None]


def test_a_fallbacks_answer_is_recorded_as_its_own(serve_models, fake, inline, ask, recorder):
    programs = [fake(), fake()]
    server = serve_models(
        ("m/2", programs[0], inline), ("m/1", programs[1], inline), recorder=recorder
    )
    first, second = server.models
    policy = ResiliencePolicy(fallback="m/1")
    server.serve(ResilientPredictor(first, policy, {"m/1": second}.get, server.loop))
    programs[0].poison = 7.0
    with server.client() as client:
        answer = client.request("POST", INFER, ask([7, 7])).answer()
    assert (answer.status, answer.headers["x-answered-by"]) == (200, "m/1")
    ((_, asked, status, _, recorded),) = recorder.kept
    assert (asked, status, recorded.by.name) == ("m/2", 200, "m/1")


def test_a_caller_who_has_gone_is_recorded_once(serve_models, program, thread, ask, recorder):
    server = serve_models(("m", program, thread), recorder=recorder)
    program.gate.clear()
    client = server.client()
    client.request("POST", INFER, ask([1, 2]))
    assert program.running.wait(10)
    client.socket.close()
    server.until(lambda: server.counted() == {499: 1})
    program.gate.set()
    ((_, asked, status, call, answer),) = recorder.kept
    assert (asked, status, call.rows, answer) == ("m/1", 499, 1, None)


def test_without_a_recorder_a_request_keeps_nothing_of_what_was_asked(
    serve_models, program, inline, ask, monkeypatch
):
    from bascule.serving.transports.request import Request

    kept, tell = [], Request.tell

    def look(request, of, status):
        kept.append(request.call)
        tell(request, of, status)

    monkeypatch.setattr(Request, "tell", look)
    with serve_models(("m", program, inline)).client() as client:
        assert client.request("POST", INFER, ask([1, 2])).answer().status == 200
    assert kept == [None]


def test_a_worker_has_the_recorder_that_the_benchmark_names():
    assert open_recorder("") is None
    assert isinstance(open_recorder("noop"), NoopRecorder)
    with pytest.raises(Invalid, match="BENCH_RECORDER: no recorder 'other'"):
        open_recorder("other")
