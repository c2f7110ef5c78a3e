"""gRPC as it is used: `bascule serve`, its processes, and tritonclient unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from prometheus_client.parser import text_string_to_metric_families
from tests.http2_caller import DEPTH, Caller, assert_lost_nothing
from tests.tiers import first_of
from tests.waiting import until
from tritonclient.utils import InferenceServerException

WITHIN_S = 10
INFER = "/inference.GRPCInferenceService/ModelInfer"
ROWS = np.random.default_rng(5).normal(size=(40, 30)) * 100 + 200


def counted(port, connect):
    with connect(port) as client:
        text = client.request("GET", "/metrics").answer().body.decode()
    return Counter(
        {
            int(sample.labels["status"]): int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "bascule_requests_total"
        }
    )


def tensor(rows, library=triton):
    made = library.InferInput("input", rows.shape, "FP64")
    made.set_data_from_numpy(rows)
    return made


def over_http(connect, port, rows, model="gb"):
    body = {
        "inputs": [
            {
                "name": "input",
                "datatype": "FP64",
                "shape": rows.shape,
                "data": rows.ravel().tolist(),
            }
        ]
    }
    with connect(port) as client:
        answer = client.request("POST", f"/v2/models/{model}/infer", body).answer()
    return {one["name"]: one for one in answer.json["outputs"]}


@pytest.fixture(scope="module")
def server(start, cancer_bundle, table_bundle):
    """One for all tests that only ask."""
    running = start(cancer_bundle, table_bundle, "--grpc-port=0")
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as made:
        yield made


def message(rows):
    """A request as bytes, made without a client library."""
    from bascule.serving.codecs.protobuf import block, varint

    shape = b"".join(map(varint, rows.shape))
    head = block(1, "input") + block(2, "FP64") + block(3, shape)
    return block(1, "gb") + block(5, head) + block(7, rows.astype("<f8").tobytes())


# -- real clients --


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("count", [1, 40])
def test_tritonclient_gets_the_bits_that_http_gives(client, server, connect, algorithm, count):
    rows = ROWS[:count]
    answer = client.infer("gb", [tensor(rows)], request_id="mine", compression_algorithm=algorithm)
    expected = over_http(connect, server.port, rows)
    assert answer.get_response().id == "mine"
    probabilities = answer.as_numpy("probabilities")
    told = np.array(expected["probabilities"]["data"], probabilities.dtype)
    assert probabilities.tobytes() == told.tobytes()
    assert answer.as_numpy("label").tolist() == expected["label"]["data"]


def test_tritonclient_finds_what_it_asks_for(client, server):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("gb")
    assert not client.is_model_ready("no")
    assert client.get_server_metadata().name == "bascule"
    assert [one.name for one in client.get_model_metadata("gb").inputs] == ["input"]
    assert [one.state for one in client.get_model_repository_index().models] == ["READY"] * 2
    wanted = [triton.InferRequestedOutput("label")]
    answer = client.infer(
        "gb", [tensor(ROWS)], outputs=wanted, parameters={"confidence": 0.9}
    ).get_response()
    assert [one.name for one in answer.outputs] == ["label", "prediction_set"]
    with pytest.raises(InferenceServerException, match="no model 'no' here") as refused:
        client.infer("no", [tensor(ROWS)])
    assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_tritonclient_aio(server):
    async def ask():
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert await client.is_server_ready()
            answers = await asyncio.gather(
                *(client.infer("gb", [tensor(ROWS[n : n + 1], triton_aio)]) for n in range(40))
            )
            return [answer.as_numpy("probabilities")[0].tolist() for answer in answers]

    alone = asyncio.run(ask())
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        together = client.infer("gb", [tensor(ROWS)]).as_numpy("probabilities").tolist()
    assert alone == together


def test_text_and_missing_values_of_a_table(client, server, connect, table_bundle):
    example = json.loads((table_bundle / "data/example.json").read_bytes())
    inputs = []
    for one in example["inputs"]:
        kind = {"BYTES": object, "INT64": np.int64}.get(one["datatype"], np.float64)
        data = np.array([np.nan if v is None else v for v in one["data"]], kind)
        made = triton.InferInput(one["name"], one["shape"], one["datatype"])
        made.set_data_from_numpy(data)
        inputs.append(made)
    answer = client.infer("table", inputs)
    with connect(server.port) as http:
        told = http.request("POST", "/v2/models/table/infer", example).answer().json
    for one in told["outputs"]:
        found = answer.as_numpy(one["name"])
        if one["datatype"] == "BYTES":
            found = np.array([text.decode() for text in found.ravel()])
        assert found.ravel().tolist() == np.array(one["data"], found.dtype).tolist()


# -- counting --


def given_up_together(tally):
    return Counter(
        {status: n for status, n in tally.items() if status not in (499, 504)}
    ) + Counter({"given up": tally[499] + tally[504]})


def test_the_counters_are_what_clients_saw_whatever_they_did(serve, connect, costly_bundle):
    """Answers, refusals, deadlines, calls given up, over gRPC and HTTP at once."""
    server = serve(costly_bundle, "--grpc-port=0", "--workers=2")
    from bascule.serving.codecs.protobuf import block, varint

    def request(rows, name="x"):
        data = np.full((rows, 16), 0.5, "<f4")
        head = block(1, name) + block(2, "FP32") + block(3, varint(rows) + varint(16))
        return block(1, "net") + block(5, head) + block(7, data.tobytes())

    statuses = {
        "OK": 200, "INVALID_ARGUMENT": 400, "RESOURCE_EXHAUSTED": 429, "CANCELLED": 499,
        "DEADLINE_EXCEEDED": 504,
    }  # fmt: skip
    good, bad, slow = request(1), request(1, "nope"), request(3_000)
    tally, lock = Counter(), threading.Lock()

    def ask(seed):
        choose = random.Random(seed)
        seen = Counter()
        with grpc.insecure_channel(
            f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            infer = channel.unary_unary(INFER)
            for _ in range(25):
                how = choose.choice(["good"] * 6 + ["bad", "late", "cancel"])
                given_up = infer.future(slow) if how == "cancel" else None
                message = {"bad": bad, "late": slow}.get(how, good)
                try:
                    infer(message, timeout=0.3 if how == "late" else WITHIN_S)
                    seen[200] += 1
                except grpc.RpcError as error:
                    seen[statuses[error.code().name]] += 1
                if given_up is not None:
                    given_up.cancel()
                    seen[statuses[given_up.code().name]] += 1
        with lock:
            tally.update(seen)

    def ask_http():
        seen = Counter()
        example = (costly_bundle / "data/example.json").read_bytes()
        with connect(server.port) as client:
            for number in range(50):
                body = example if number % 5 else b"{"
                answer = client.request("POST", "/v2/models/net/infer", body).answer()
                seen[answer.status] += 1
        with lock:
            tally.update(seen)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    threads += [threading.Thread(target=ask_http) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert tally[504] + tally[499] + tally[429] > 10
    # On a busy machine a client drops some calls before it has sent them. At least half arrive.
    dropped_at_most = (tally[499] + tally[504]) // 2
    until(lambda: tally.total() - counted(server.port, connect).total() <= dropped_at_most)
    # A deadline that is over and a call that is given up look the same to a server that reads late,
    # and whoever gives a call up does not know whether its answer was on the way.
    saw = given_up_together(counted(server.port, connect))
    clients_saw = given_up_together(tally)
    assert saw.total() <= clients_saw.total()
    assert saw[400] == clients_saw[400]
    for status in (200, 429):
        assert 0 <= saw[status] - clients_saw[status] <= tally[499]


# -- processes --


def test_a_grpc_port_in_use_is_one_sentence_before_anything_starts(cancer_bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [
                sys.executable, "-m", "bascule.cli", "serve", str(cancer_bundle), "--port=0",
                "--control-port=0", f"--grpc-port={port}",
            ],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 4
    assert f"port {port} on 127.0.0.1 is in use" in said
    assert "--grpc-port" in said


class Load:
    """Channels that ask over and over, and tally what they see."""

    def __init__(self, port, clients=6):
        self.tally = Counter()
        self.words = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port,)) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: self.tally["OK"] > 200)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _ask(self, port):
        # grpcio makes a call again by itself if it has not left the client, or if the server said
        # that it had not taken it: nothing else, so a call that the server took and lost is seen.
        options = [
            ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50),
        ]  # fmt: skip
        body = message(ROWS[:1])
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            infer = channel.unary_unary(INFER)
            while not self._stop.is_set():
                try:
                    infer(body, timeout=WITHIN_S)
                    self.tally["OK"] += 1
                except grpc.RpcError as error:
                    self.words.add(error.details())
                    if "refused" in error.details().lower():
                        self.tally["refused"] += 1
                        return
                    self.tally[error.code().name] += 1


@pytest.mark.slow
def test_a_killed_worker_fails_what_it_had_and_others_go_on(serve, connect, cancer_bundle):
    server = serve(cancer_bundle, "--grpc-port=0", "--workers=2")
    victim, other = server.worker_pids()
    with Load(server.grpc_port) as load:
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(set(server.worker_pids()) - {victim, other}) == 1)
        before = load.tally["OK"]
        until(lambda: load.tally["OK"] > before + 300)
    # A client may send its next call before it learns that the connection is gone.
    assert load.tally["UNAVAILABLE"] <= 2 * 6, load.words
    assert set(load.tally) <= {"OK", "UNAVAILABLE"}
    found = counted(server.port, connect)[200]
    assert load.tally["OK"] <= found <= load.tally["OK"] + load.tally["UNAVAILABLE"]


@pytest.mark.slow
def test_calls_wait_while_the_only_worker_is_started_again(serve, cancer_bundle):
    server = serve(cancer_bundle, "--grpc-port=0")
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: (pids := server.worker_pids()) and worker not in pids)
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.infer("gb", [tensor(ROWS)]).as_numpy("label").shape == (40,)


@pytest.mark.parametrize(
    ("within", "workers"),
    first_of([("TLS", 2), ("clear text", 1), ("clear text", 2), ("TLS", 1)]),
)
def test_a_server_that_is_told_to_stop_leaves_in_two_steps_and_answers_every_stream_it_took(
    serve, cancer_bundle, authority, within, workers
):
    options = ["--grpc-port=0", f"--workers={workers}"]
    if within == "TLS":
        certificate, key = authority("server")
        options += [f"--tls-certificate={certificate}", f"--tls-key={key}"]
    server = serve(cancer_bundle, *options)
    root = authority.root if within == "TLS" else None
    callers = [
        # Of 4,000 rows, a call takes longer than it takes to be told that the server leaves.
        Caller(server.grpc_port, INFER, message(np.repeat(ROWS, times, axis=0)), root)
        for times in (1, 1, 1, 1, 100, 100)
    ]
    for caller in callers:
        caller.start()
    until(lambda: all(len(caller.statuses) > DEPTH for caller in callers))
    assert server.end() == 0
    for caller in callers:
        caller.join(WITHIN_S)
        assert not caller.is_alive()
        assert_lost_nothing(caller)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_grpcio_as_it_comes_notices_nothing_of_a_server_that_leaves(serve, cancer_bundle, workers):
    """A call that has no stream yet when grpcio hears of it never leaves the client.

    grpcio fails it and makes it again. With `grpc.enable_retries` at 0 its caller is told of it, as
    "Stream removed (GOAWAY received)", and no server can help that.
    """
    server = serve(cancer_bundle, "--grpc-port=0", f"--workers={workers}")
    with Load(server.grpc_port) as load:
        assert server.end() == 0
        until(lambda: load.tally["refused"] == 6)
    assert set(load.tally) == {"OK", "refused"}, load.words


def test_what_tells_of_grpc_costs_little_memory_and_no_library(server):
    """A worker has neither grpcio nor protobuf in it."""
    (worker,) = server.worker_pids()
    with open(f"/proc/{worker}/maps") as file:
        mapped = file.read()
    assert "cygrpc" not in mapped
    assert "google/_upb" not in mapped
