"""Answers in parts as they are used: `bascule serve`, code of one's own, and clients unchanged."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import threading
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families
from tests.events import Events
from tests.pace import is_within
from tests.tiers import first_of
from tests.waiting import until

import bascule
from bascule.app import open_keys
from bascule.monitoring.ledger import Ledger
from bascule.security import Permission
from bascule.settings import load_settings

STREAM = "/v2/models/counting/infer_stream"
CODE = """
import time
from pathlib import Path

import numpy as np


class Model:
    def predict(self, columns):
        return columns["input"].sum(axis=1)

    def predict_stream(self, columns):
        count, start, pause_ms, width = columns["input"][0]
        try:
            for number in range(int(count)):
                time.sleep(pause_ms / 1e3)
                yield np.full(int(width), start + number)
        finally:
            Path({closed!r}).write_text(str(time.time()))
"""


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Where the model writes when an answer was closed."""
    return tmp_path_factory.mktemp("counting") / "closed"


@pytest.fixture(scope="module")
def counting(tmp_path_factory, closed):
    """A row [count, start, pause_ms, width] has `count` parts of `width` rows: start, start+1..."""
    folder = tmp_path_factory.mktemp("bundles")
    code = folder / "counting.py"
    code.write_text(CODE.format(closed=str(closed)))
    model = bascule.PythonModel("counting:Model", code=code)
    rows = np.array([[1.0, 2.0, 0.0, 1.0], [2.0, 3.0, 0.0, 1.0]])
    return bascule.pack(
        model, name="counting", train=rows, to=folder / "counting", measure=False
    ).path


@pytest.fixture(scope="module")
def server(start, counting, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    env = {"BASCULE_HOME": str(home), "BASCULE_MONITORING__LEDGER": "auto"}
    running = start(counting, "--grpc-port=0", env=env)
    running.home = home
    yield running
    running.process.stdout.close()
    running.end()


def ask(count, begin=0, pause_ms=0, width=1):
    row = [count, begin, pause_ms, width]
    return {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": row}]}


def first_values(events):
    return [part["outputs"][0]["data"][0] for name, part in events if name == "message"]


def ended(server, how):
    """How many answers in parts ended so, by the metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "bascule_answers_in_parts_total" and sample.labels["ending"] == how
    )


@pytest.mark.parametrize("parts", first_of([200, 1_000]))
def test_sixteen_clients_each_get_their_own_parts(server, parts):
    received = {}

    def read(client):
        with Events(server.port, STREAM, ask(parts, client * 10_000)) as events:
            received[client] = [*events]

    threads = [threading.Thread(target=read, args=(client,)) for client in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for client in range(16):
        begin = client * 10_000
        assert first_values(received[client]) == list(range(begin, begin + parts))
        assert received[client][-1] == ("end", {"parts": parts})
    assert ended(server, "complete") >= 16


@pytest.mark.serial
def test_a_client_that_leaves_frees_the_model_within_100_ms(server, closed):
    waits_s = []
    for _ in range(5):
        closed.unlink(missing_ok=True)
        events = Events(server.port, STREAM, ask(10_000, pause_ms=5))
        next(events)
        left_s = time.time()
        events.__exit__()
        until(closed.exists)
        until(lambda: closed.read_text())
        waits_s.append(float(closed.read_text()) - left_s)
    assert sorted(waits_s)[2] < 0.1, waits_s


@pytest.mark.serial
def test_a_client_that_does_not_read_keeps_memory_bounded(server):
    (worker,) = map(psutil.Process, server.worker_pids())
    before = worker.memory_info().rss
    with Events(server.port, STREAM, ask(20_000, width=4_096), receive_buffer_bytes=4096) as events:
        next(events)
        until(lambda: worker.cpu_percent(0.3) < 5)  # it has stopped
        assert worker.memory_info().rss - before < 24 << 20


def test_tritonclient_gets_each_part_and_the_final_response(server):
    answers = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    client.start_stream(lambda result, error: answers.put((result, error)))
    tensor = triton.InferInput("input", [1, 4], "FP64")
    for number in range(3):
        tensor.set_data_from_numpy(np.array([[2.0, number * 10, 0.0, 1.0]]))
        client.async_stream_infer(
            "counting", [tensor], request_id=str(number), enable_empty_final_response=True
        )
    received = []
    while len(received) < 9:
        result, error = answers.get(timeout=10)
        assert error is None
        response = result.get_response()
        is_final = response.parameters["triton_final_response"].bool_param
        value = None if is_final else result.as_numpy("prediction")[0]
        received.append((response.id, value))
    assert received == [
        (str(number), value)
        for number in range(3)
        for value in (number * 10.0, number * 10.0 + 1, None)
    ]
    client.async_stream_infer("nowhere", [tensor], request_id="x")
    result, error = answers.get(timeout=10)
    assert "no model 'nowhere'" in str(error)
    client.stop_stream()
    client.close()


def recorded(server, *ids):
    """The rows of the ledger with these ids, in their order."""
    sql = "select id, status, parts, ending from predictions"
    rows = {row["id"]: row for row in Ledger(server.home).query(sql).to_pylist()}
    return [rows[one] for one in ids if one in rows]


def test_the_ledger_has_one_row_that_says_how_many_parts_and_how_it_ended(server):
    with Events(server.port, STREAM, {**ask(5), "id": "complete-one"}) as events:
        list(events)
    with Events(server.port, STREAM, {**ask(10_000, pause_ms=2), "id": "left"}) as events:
        next(events)

    until(lambda: len(recorded(server, "complete-one", "left")) == 2)
    complete, left = recorded(server, "complete-one", "left")
    assert (complete["status"], complete["parts"], complete["ending"]) == (200, 5, "complete")
    assert (left["status"], left["ending"]) == (499, "cancelled")
    assert left["parts"] >= 1


# -- the attacks: each on a server of its own --


@pytest.fixture
def own_server(serve, counting, tmp_path):
    """`own_server(**env)`: a server with a home of its own."""

    def started(*arguments, **env):
        home = tmp_path / "home"
        ledger = {"BASCULE_MONITORING__LEDGER": "auto"}
        server = serve(counting, *arguments, env={"BASCULE_HOME": str(home), **ledger, **env})
        server.home = home
        return server

    return started


def test_a_worker_that_stops_waits_for_an_answer_in_parts(own_server):
    server = own_server()
    with Events(server.port, STREAM, ask(100, pause_ms=10)) as events:
        next(events)
        server.process.send_signal(signal.SIGTERM)
        assert list(events)[-1] == ("end", {"parts": 100})
    assert server.process.wait(10) == 0


@pytest.mark.slow
def test_a_worker_that_stops_waits_no_longer_than_its_limit(own_server):
    server = own_server(BASCULE_SERVING__DRAIN_S="1")
    with Events(server.port, STREAM, {**ask(100_000, pause_ms=10), "id": "long"}) as events:
        next(events)
        server.process.send_signal(signal.SIGTERM)
        name, said = list(events)[-1]
    assert (name, said["status"]) == ("error", 503)
    assert "the server is stopping" in said["error"]
    server.process.wait(10)
    (row,) = recorded(server, "long")
    assert (row["status"], row["ending"]) == (503, "drained")


def test_a_worker_that_is_killed_leaves_no_final_event_and_no_row(own_server):
    server = own_server()
    with Events(server.port, STREAM, {**ask(100_000, pause_ms=5), "id": "killed"}) as events:
        next(events)
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        names = []
        with suppress(http.client.IncompleteRead, ConnectionResetError):
            names.extend(name for name, _ in events)
        assert set(names) <= {"message"}
    until(lambda: server.worker_pids())
    with Events(server.port, STREAM, {**ask(1), "id": "after"}) as events:
        assert list(events)[-1] == ("end", {"parts": 1})
    until(lambda: recorded(server, "after"))
    assert not recorded(server, "killed")


@pytest.mark.serial
def test_a_key_that_is_revoked_ends_the_answer_within_a_second(own_server):
    server = own_server("--grpc-port=0", BASCULE_SECURITY__CALLERS="keys")
    keys = open_keys(load_settings(server.home, {"BASCULE_HOME": str(server.home)}))
    key, token = keys.create("ada", [Permission("infer", "counting")], by="root")
    headers = {"Authorization": f"Bearer {token}"}

    def is_let_in():
        with Events(server.port, STREAM, ask(1), headers) as events:
            return events.status == 200

    until(is_let_in)
    with Events(server.port, STREAM, ask(100_000, pause_ms=5), headers) as events:
        next(events)
        keys.end(key.id, by="root")
        ended_s = time.monotonic()
        name, said = list(events)[-1]
        assert is_within(time.monotonic() - ended_s, 1.0)
    assert (name, said["status"]) == ("error", 401)
