"""Answers in parts: from the program's thread through the loop to clients over each transport."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import socket
import ssl
import threading
import time
from datetime import UTC, datetime

import botocore.session
import grpc
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from tests.events import Events

from bascule.security.keys import Permission, create_key
from bascule.serving.execution.deprecated import DeprecatedPredictor
from bascule.serving.execution.parts import MAX_PARTS
from bascule.serving.execution.resilience import ResiliencePolicy
from bascule.serving.execution.resilient import ResilientPredictor
from bascule.serving.specs import Notice
from bascule.serving.transports.authenticator import Authenticator
from bascule.serving.transports.parts import check_rights

STREAM = "/v2/models/fake/infer_stream"
GRPC_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WAIT_S = 10.0


@pytest.fixture
def counting(fake):
    """A program of which a row [count, start] has `count` parts: `sum` is start, start + 1, ..."""

    class Counting(fake):
        def __init__(self):
            super().__init__()
            self.given = 0
            self.largest = 0
            self.closed = []
            self.part_bytes = 0
            self.fails_at = None
            self.waits_at = None

        def run_in_parts(self, columns, outputs, cancelled):
            count, start = columns["x"][0].astype(int)
            try:
                for number in range(count):
                    if number == self.fails_at:
                        raise ValueError("secret of the model")
                    if number == self.waits_at:
                        cancelled.wait(WAIT_S)
                        return
                    self.given += 1
                    rows = 1 + self.part_bytes // 16
                    part = {
                        "twice": np.zeros((rows, 2)),
                        "sum": np.full(rows, start + number, np.float64),
                    }
                    yield part if outputs is None else {name: part[name] for name in outputs}
            finally:
                self.closed.append(time.perf_counter())

    return Counting()


@pytest.fixture
def server(serve_models, counting, inline):
    return serve_models(("fake", counting, inline))


def sums(answer):
    return [int(output["data"][0]) for output in answer["outputs"] if output["name"] == "sum"]


def endings(server):
    return dict(server.totals()[1].endings)


# -- HTTP/1.1 --


def test_each_part_is_an_event_and_the_last_event_says_how_many(server, ask):
    with Events(server.port, STREAM, ask([3, 10], id="mine")) as events:
        assert (events.status, events.headers["content-type"]) == (200, "text/event-stream")
        *parts, (last, said) = list(events)
    assert [(name, part["id"], sums(part)) for name, part in parts] == [
        ("message", "mine", [10]), ("message", "mine", [11]), ("message", "mine", [12])
    ]  # fmt: skip
    assert (last, said) == ("end", {"parts": 3})
    server.until(lambda: endings(server) == {"complete": 1})
    assert server.totals()[1].parts == 3
    assert server.counted() == {200: 1}


def test_a_connection_is_kept_after_an_answer_in_parts(server, ask):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    for start in (1, 5):
        connection.request("POST", STREAM, json.dumps(ask([2, start])))
        answer = connection.getresponse()
        assert answer.read().count(b"data:") == 3
    connection.close()
    assert server.counted() == {200: 2}


def test_where_nothing_follows_the_last_part_there_is_one_last_chunk(server):
    """A second one would be taken for the beginning of the next answer."""
    body = b'{"instances": [[2, 1]]}'
    head = b"POST /endpoints/fake/invocations-response-stream HTTP/1.1\r\nHost: a\r\n"
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as connection:
        for more in (b"", b"Connection: close\r\n"):
            connection.sendall(b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(body), more, body))
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert (received.count(b"HTTP/1.1 200"), received.count(b"\r\n0\r\n\r\n")) == (2, 2)
    assert received.count(b"0\r\n\r\n") == 2


def test_a_program_without_parts_gives_its_answer_as_one(serve_models, program, inline, ask):
    server = serve_models(("fake", program, inline))
    with Events(server.port, STREAM, ask([1, 2], [3, 4])) as events:
        (_, part), (last, said) = list(events)
    assert part["outputs"][1]["data"] == [3, 7]
    assert (last, said) == ("end", {"parts": 1})


def test_http_1_0_has_no_chunks_and_ends_the_connection(server, ask):
    body = json.dumps(ask([2, 1])).encode()
    with server.client() as client:
        client.send(
            b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % (STREAM.encode(), len(body)) + body
        )
        received = b""
        while piece := client.socket.recv(1 << 16):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert body.endswith(b'event: end\ndata: {"parts":2}\n\n')


def test_what_fails_before_the_first_part_is_an_error_as_of_a_whole_answer(server, counting, ask):
    counting.fails_at = 0
    with Events(server.port, STREAM, ask([3, 1])) as events:
        assert events.status == 500
        assert "the model failed" in events.json()["error"]
    assert (endings(server), server.counted()) == ({"failed": 1}, {500: 1})


def test_what_fails_later_is_the_last_event(server, counting, ask):
    counting.fails_at = 2
    with Events(server.port, STREAM, ask([5, 1])) as events:
        *parts, (last, said) = list(events)
    assert len(parts) == 2
    assert (last, said["status"]) == ("error", 500)
    assert "secret" not in said["error"]
    assert (endings(server), server.counted()) == ({"failed": 1}, {500: 1})


@pytest.mark.parametrize(("waits_at", "ending"), [(0, "first_part_late"), (2, "part_late")])
def test_each_part_has_a_deadline(serve_models, counting, inline, ask, waits_at, ending):
    server = serve_models(("fake", counting, inline), deadline_s=0.2)
    counting.waits_at = waits_at
    started_s = time.perf_counter()
    with Events(server.port, STREAM, ask([5, 1])) as events:
        if waits_at:
            *_, (last, said) = list(events)
            assert (last, said["status"]) == ("error", 504)
        else:
            assert events.status == 504
    assert 0.2 <= time.perf_counter() - started_s < 5
    assert (endings(server), server.counted()) == ({ending: 1}, {504: 1})
    server.until(lambda: server.models[0].open_calls == 0)


def test_a_client_that_goes_away_ends_the_program(server, counting, ask):
    counting.waits_at = 3
    with Events(server.port, STREAM, ask([5, 1])) as events:
        assert [sums(next(events)[1]) for _ in range(3)] == [[1], [2], [3]]
        assert server.models[0].open_calls == 1
        left_s = time.perf_counter()
    server.until(lambda: server.models[0].open_calls == 0)
    assert counting.closed[0] - left_s < 0.1
    assert (endings(server), server.counted()) == ({"cancelled": 1}, {499: 1})
    assert not server.on_loop(lambda: server.site.backlog.senders)


def run_of(server):
    """What makes the only answer in parts that is on its way."""
    (sender,) = server.site.backlog.senders
    return sender._parts


def test_a_client_that_does_not_read_stops_the_program(server, counting, ask):
    """What is kept of the answer is bounded, and all of it arrives when it is read."""
    counting.part_bytes = 16 << 10
    with Events(server.port, STREAM, ask([1_000, 0]), receive_buffer_bytes=4096) as events:
        server.until(lambda: len(run_of(server)._buffer) == MAX_PARTS)
        server.until(lambda: not run_of(server)._has_room)
        (connection,) = server.site.connections
        assert server.on_loop(connection._unsent_bytes) < 256 << 10
        given = counting.given
        assert server.on_loop(lambda: counting.given) == given < 1_000
        *parts, last = list(events)
    assert last == ("end", {"parts": 1_000})
    assert [sums(part)[0] for _, part in parts] == list(range(1_000))


def test_within_tls_a_client_that_does_not_read_stops_the_program_too(
    serve_models, counting, inline, ask, authority
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority("server"))
    trusted = ssl.create_default_context(cafile=authority.root)
    server = serve_models(("fake", counting, inline), tls=context)
    counting.part_bytes = 16 << 10
    asked = ask([1_000, 0])
    with Events(server.port, STREAM, asked, receive_buffer_bytes=4096, tls=trusted) as events:
        server.until(lambda: len(run_of(server)._buffer) == MAX_PARTS)
        server.until(lambda: not run_of(server)._has_room)
        (connection,) = server.site.connections
        assert server.on_loop(connection._unsent_bytes) < 1 << 20
        *parts, last = list(events)
    assert last == ("end", {"parts": 1_000})
    assert [sums(part)[0] for _, part in parts] == list(range(1_000))


def test_sixteen_clients_each_get_their_own_thousand_parts_in_order(server, ask):
    received = {}

    def read(client):
        with Events(server.port, STREAM, ask([1_000, client * 10_000])) as events:
            received[client] = [sums(part)[0] for name, part in events if name == "message"]

    threads = [threading.Thread(target=read, args=(client,)) for client in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for client in range(16):
        assert received[client] == list(range(client * 10_000, client * 10_000 + 1_000))
    assert endings(server) == {"complete": 16}


def test_a_half_closed_connection_ends_the_answer(server, counting, ask):
    counting.waits_at = 1
    with Events(server.port, STREAM, ask([5, 1])) as events:
        next(events)
        events.connection.sock.shutdown(1)
        server.until(lambda: endings(server) == {"cancelled": 1})
        server.until(lambda: len(counting.closed) == 1)


def test_more_answers_than_have_a_turn_wait_for_it(server, counting, ask, monkeypatch):
    """The second begins when the client of the first has gone."""
    monkeypatch.setattr("bascule.serving.execution.parts.MAX_RUNNING", 1)
    counting.waits_at = 1
    received = []

    def read():
        with Events(server.port, STREAM, ask([1, 7])) as events:
            received.extend(events)

    second = threading.Thread(target=read)
    with Events(server.port, STREAM, ask([5, 1])) as first:
        next(first)
        second.start()
        server.until(lambda: server.models[0].open_calls == 2)
    second.join(WAIT_S)
    assert received[-1] == ("end", {"parts": 1})
    assert endings(server) == {"cancelled": 1, "complete": 1}


def test_extra_outputs_are_of_whole_answers(server, ask):
    with Events(server.port, STREAM, ask([1, 1], parameters={"confidence": 0.9})) as events:
        assert events.status == 400


# -- policies and plans --


def test_a_policy_retries_before_the_first_part_alone(server, counting, ask):
    (model,) = server.models
    policy = ResiliencePolicy(breaker_failures=2)
    server.serve(ResilientPredictor(model, policy, {}.get, server.loop))
    counting.fails_at = 0
    for expected in (500, 500, 503):
        with Events(server.port, STREAM, ask([1, 1])) as events:
            assert events.status == expected


# -- gRPC --


@pytest.fixture
def stream(server, grpc_client, messages):
    """`stream(requests)`: an iterator over the responses, as messages."""
    client = grpc_client(server)

    def start(requests, **more):
        answered = messages("ModelStreamInferResponse")
        method = client.channel.stream_stream(
            GRPC_STREAM,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=answered.FromString,
        )
        return method(iter(requests), timeout=30, **more)

    return start


def grpc_sums(response):
    inside = response.infer_response
    place = [output.name for output in inside.outputs].index("sum")
    return np.frombuffer(inside.raw_output_contents[place], "<f8")[:1].astype(int).tolist()


def test_over_grpc_each_request_of_a_stream_is_answered_in_parts(server, stream, ask_grpc):
    responses = list(stream([ask_grpc([3, 1], id="a"), ask_grpc([2, 7], id="b")]))
    assert [(one.infer_response.id, grpc_sums(one)) for one in responses] == [
        ("a", [1]), ("a", [2]), ("a", [3]), ("b", [7]), ("b", [8])
    ]  # fmt: skip
    assert not any(one.error_message for one in responses)
    assert (endings(server), server.counted()) == ({"complete": 2}, {200: 2})


def test_over_grpc_an_error_is_within_the_stream_and_the_next_request_is_answered(
    server, counting, stream, ask_grpc
):
    wrong = ask_grpc([1, 2, 3], id="wrong")
    responses = list(stream([wrong, ask_grpc([1, 7], id="right")]))
    assert [one.infer_response.id for one in responses] == ["wrong", "right"]
    assert "shape" in responses[0].error_message
    assert not responses[1].error_message


def test_over_grpc_the_end_is_told_to_those_who_ask(stream, ask_grpc):
    request = ask_grpc([2, 1], id="a")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    responses = list(stream([request]))
    finals = [
        one.infer_response.parameters["triton_final_response"].bool_param for one in responses
    ]
    assert finals == [False, False, True]
    assert [len(one.infer_response.outputs) for one in responses] == [2, 2, 0]


def test_over_grpc_a_client_that_cancels_ends_the_program(server, counting, stream, ask_grpc):
    counting.waits_at = 1
    call = stream([ask_grpc([5, 1])])
    assert grpc_sums(next(call)) == [1]
    left_s = time.perf_counter()
    call.cancel()
    server.until(lambda: server.models[0].open_calls == 0)
    assert counting.closed[0] - left_s < 0.1
    assert (endings(server), server.counted()) == ({"cancelled": 1}, {499: 1})


def test_over_grpc_a_client_that_does_not_read_stops_the_program(
    server, counting, stream, ask_grpc
):
    counting.part_bytes = 16 << 10
    call = stream([ask_grpc([1_000, 0])])
    next(call)
    server.until(lambda: len(run_of(server)._buffer) == MAX_PARTS)
    assert counting.given < 900
    assert [grpc_sums(one)[0] for one in call] == list(range(1, 1_000))


def test_over_grpc_sixteen_clients_get_their_own_parts(server, stream, ask_grpc):
    received = {}

    def read(client):
        responses = stream([ask_grpc([300, client * 10_000])])
        received[client] = [grpc_sums(one)[0] for one in responses]

    threads = [threading.Thread(target=read, args=(client,)) for client in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for client in range(16):
        assert received[client] == list(range(client * 10_000, client * 10_000 + 300))


def test_over_grpc_a_message_may_come_in_pieces_and_several_in_one(server, stream, ask_grpc):
    """Of 300 requests that are sent at once each is answered, those that are wrong too."""
    wrong = ask_grpc([1, 2, 3], id="wrong")
    right = ask_grpc([1, 7], id="x" * 50_000)
    responses = list(stream([wrong, right] * 150))
    assert [one.infer_response.id[0] for one in responses] == ["w", "x"] * 150
    assert server.on_loop(lambda: server.held.bytes) == 0


def test_over_grpc_requests_are_read_where_they_are_compressed(server, stream, ask_grpc):
    responses = list(stream([ask_grpc([2, 7])], compression=grpc.Compression.Gzip))
    assert [grpc_sums(one) for one in responses] == [[7], [8]]


@pytest.mark.parametrize(("waits_at", "ending"), [(0, "first_part_late"), (2, "part_late")])
def test_over_grpc_each_part_has_a_deadline(
    serve_models, counting, inline, grpc_client, messages, ask_grpc, waits_at, ending
):
    server = serve_models(("fake", counting, inline), deadline_s=0.2)
    counting.waits_at = waits_at
    method = grpc_client(server).channel.stream_stream(GRPC_STREAM)
    answered = list(method(iter([ask_grpc([5, 1]).SerializeToString()]), timeout=30))
    last = messages("ModelStreamInferResponse").FromString(answered[-1])
    assert len(answered) == waits_at + 1
    assert "no part of the answer within 200 ms" in last.error_message
    assert endings(server) == {ending: 1}


def test_over_grpc_a_stream_without_requests_ends(server, stream):
    held = threading.Event()

    def nothing():
        held.wait(WAIT_S)
        yield from ()

    call = stream(nothing())
    server.until(lambda: any(c.flow.streams for c in server.grpc.connections))
    server.after(76)
    assert call.code().name == "DEADLINE_EXCEEDED"
    held.set()


def test_over_grpc_a_worker_that_stops_ends_streams_after_their_answers(
    server, counting, stream, ask_grpc
):
    requests = queue.Queue()
    requests.put(ask_grpc([100, 1]))
    call = stream(iter(requests.get, None))
    first = next(call)
    draining = asyncio.run_coroutine_threadsafe(server.grpc.drain(), server.loop)
    received = [first]
    with pytest.raises(grpc.RpcError):
        received.extend(call)
    assert len(received) == 100
    assert call.code().name == "UNAVAILABLE"
    draining.result(WAIT_S)
    requests.put(None)
    assert endings(server) == {"complete": 1}


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_a_worker_that_stops_ends_answers_at_its_limit(
    serve_models, counting, inline, ask, ask_grpc, grpc_client, messages, over
):
    server = serve_models(("fake", counting, inline), drain_s=0.3)
    counting.waits_at = 1
    if over == "http":
        with Events(server.port, STREAM, ask([5, 1])) as events:
            next(events)
            asyncio.run_coroutine_threadsafe(server.site.drain(), server.loop).result(WAIT_S)
            (last, said), *more = list(events)
        assert (last, said["status"], more) == ("error", 503, [])
    else:
        method = grpc_client(server).channel.stream_stream(GRPC_STREAM)
        call = method(iter([ask_grpc([5, 1]).SerializeToString()]), timeout=30)
        next(call)
        asyncio.run_coroutine_threadsafe(server.grpc.drain(), server.loop).result(WAIT_S)
        last = messages("ModelStreamInferResponse").FromString(next(call))
        assert "the server is stopping" in last.error_message
    assert endings(server) == {"drained": 1}
    server.until(lambda: len(counting.closed) == 1)


def test_over_grpc_a_client_that_leaves_no_window_is_given_up(server, counting, stream, ask_grpc):
    counting.part_bytes = 16 << 10
    call = stream([ask_grpc([3_000, 0])])
    next(call)
    server.until(lambda: len(run_of(server)._buffer) == MAX_PARTS)
    for _ in range(100):  # from when grpcio has made no more room
        server.after(1)
        if endings(server):
            break
    assert endings(server) == {"cancelled": 1}
    assert server.counted() == {499: 1}
    with pytest.raises(grpc.RpcError):
        list(call)


def test_a_connection_that_ends_takes_its_answers_along(server, counting, stream, ask_grpc):
    counting.waits_at = 1
    call = stream([ask_grpc([5, 1])])
    next(call)
    server.on_loop(lambda: [connection.abort() for connection in server.grpc.connections])
    server.until(lambda: len(counting.closed) == 1)
    assert endings(server) == {"cancelled": 1}


# -- keys --


@pytest.fixture
def key_file(tmp_path):
    """`key_file(keys)` writes the file that workers read."""
    file = tmp_path / "keys.json"

    def write(*keys):
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps([key.to_json() for key in keys]))
        draft.replace(file)
        return file

    return write


class Stored(list):
    """What `create_key` needs of a store."""

    def add(self, key):
        self.append(key)

    def stored(self):
        return list(self)


@pytest.mark.parametrize("over", ["http", "grpc"])
def test_a_right_that_ends_ends_the_answer(
    serve_models, counting, inline, ask, ask_grpc, grpc_client, key_file, over
):
    now = datetime.now(UTC)
    key, token = create_key(Stored(), "ada", [Permission.parse("infer:*")], now=now, by="root")
    guard = Authenticator(key_file(key))
    server = serve_models(("fake", counting, inline), guard=guard)
    counting.waits_at = 1
    bearer = f"Bearer {token}"

    def revoke():
        key_file()
        guard.look()
        check_rights(server.site.backlog)

    if over == "http":
        with Events(server.port, STREAM, ask([5, 1]), {"Authorization": bearer}) as events:
            next(events)
            server.on_loop(revoke)
            (last, said), *more = list(events)
        assert (last, said["status"], more) == ("error", 401, [])
    else:
        method = grpc_client(server).channel.stream_stream(GRPC_STREAM)
        request = ask_grpc([5, 1]).SerializeToString()
        call = method(iter([request]), metadata=[("authorization", bearer)], timeout=30)
        next(call)
        server.on_loop(revoke)
        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code().name == "UNAUTHENTICATED"
    assert (endings(server), server.counted()) == ({"revoked": 1}, {401: 1})
    server.until(lambda: len(counting.closed) == 1)


# -- predictors that ask others --


def test_a_deprecated_version_says_so_in_the_head_of_the_answer(server, ask):
    (model,) = server.models
    server.serve(DeprecatedPredictor(model, Notice(since_s=1_700_000_000)))
    with Events(server.port, STREAM, ask([1, 1])) as events:
        assert list(events)[-1] == ("end", {"parts": 1})
        assert "deprecation" in events.headers


def test_a_model_that_is_not_in_memory_is_loaded_first(server, ask):
    (model,) = server.models
    engine = server.on_loop(model.unload)
    model.request_load = lambda asked: server.loop.call_soon(asked.loaded, engine)
    with Events(server.port, STREAM, ask([2, 1])) as events:
        assert list(events)[-1] == ("end", {"parts": 2})


def test_an_engine_that_is_unloaded_ends_with_its_last_answer(server, counting, ask):
    (model,) = server.models
    ended = threading.Event()
    with Events(server.port, STREAM, ask([200_000, 1])) as events:
        next(events)
        server.on_loop(lambda: model.unload().stop(ended.set))
        next(events)
        assert not ended.is_set()
    assert ended.wait(WAIT_S)


def test_an_answer_is_recorded_once_with_its_parts_and_its_ending(
    serve_models, counting, inline, ask
):
    kept = []

    class Recorder:
        def add(self, context, call, answer, label, status, duration_ns):
            kept.append((context.unit, call.rows, answer, label.version, status))

    server = serve_models(("fake", counting, inline), recorder=Recorder())
    with Events(server.port, STREAM, ask([3, 1])) as events:
        list(events)
    counting.fails_at = 1
    with Events(server.port, STREAM, ask([3, 1])) as events:
        list(events)
    assert kept == [
        (("", "3", "complete"), 1, None, "1", 200), (("", "1", "failed"), 1, None, "1", 500)
    ]  # fmt: skip


# -- SageMaker's event stream --


@pytest.fixture
def invoke(server):
    """`invoke(rows, accept)`: the parts of an answer, as botocore's own client reads them."""
    client = botocore.session.get_session().create_client(
        "sagemaker-runtime", endpoint_url=f"http://127.0.0.1:{server.port}",
        region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip

    def ask(row, accept="application/json"):
        body = json.dumps({"instances": [row], "params": {"outputs": ["sum"]}})
        answer = client.invoke_endpoint_with_response_stream(
            EndpointName="fake", ContentType="application/json", Accept=accept, Body=body
        )
        assert answer["ContentType"].startswith(accept)
        bodies.append(answer["Body"])
        return (event["PayloadPart"]["Bytes"] for event in answer["Body"])

    bodies = []
    yield ask
    for body in bodies:
        body.close()
    client.close()


@pytest.mark.parametrize(
    ("accept", "parts"),
    [
        ("application/json", [b'{"predictions":[10.0]}\n', b'{"predictions":[11.0]}\n']),
        ("application/jsonlines", [b"10.0\n", b"11.0\n"]),
        ("text/csv", [b"10.0\n", b"11.0\n"]),
    ],
)
def test_botocore_reads_an_answer_in_parts_in_the_form_that_it_accepts(
    server, invoke, accept, parts
):
    assert list(invoke([2, 10], accept)) == parts
    server.until(lambda: endings(server) == {"complete": 1})


def test_an_error_after_the_first_part_is_a_model_stream_error(invoke, counting):
    counting.fails_at = 1
    parts = invoke([3, 10])
    assert next(parts) == b'{"predictions":[10.0]}\n'
    with pytest.raises(EventStreamError, match=r"ModelStreamError.*the model failed"):
        next(parts)


def test_an_error_before_the_first_part_is_that_of_a_whole_answer(invoke, counting):
    counting.fails_at = 0
    with pytest.raises(ClientError, match="the model failed") as failed:
        invoke([3, 1])
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
