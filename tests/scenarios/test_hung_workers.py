"""Workers that stand still, runs that do not end, and a supervisor that is silent or gone."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack

import numpy as np
import psutil
import pytest
from tests.pace import is_within, until_soon
from tests.scenarios.commands import is_gone
from tests.scenarios.endless import POISON, endless
from tests.waiting import until

import bascule

pytestmark = pytest.mark.serial


def rows(*values):
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(values), 1], "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture(scope="module")
def quick(packed):
    return packed("quick", endless(), np.linspace(0, 1, 64, dtype=np.float32)[:, None])


@pytest.fixture(scope="module")
def costly(packed):
    model = endless(turns=2_000)  # packing it asks thousands of times
    return packed("costly", model, np.linspace(0, 1, 64, dtype=np.float32)[:, None])


def ask(connect, server, model, body, headers=""):
    with connect(server.port) as client:
        return client.request("POST", f"/v2/models/{model}/infer", body, headers).answer().status


def silent_workers(connect, server):
    with connect(server.control_port) as client:
        text = client.request("GET", "/metrics").answer().body.decode()
    return int(text.split("\nbascule_silent_workers_total ")[1].split("\n")[0])


SOON = {"BASCULE_SERVING__WORKER_SILENT_S": "2"}


def test_a_worker_that_a_signal_has_stopped_is_killed_and_replaced_soon(
    serve, connect, body, cancer_bundle
):
    """Long before `worker_silent_s`, which is 10 s."""
    server = serve(cancer_bundle, "--workers=2")
    stopped, other = server.worker_pids()
    os.kill(stopped, signal.SIGSTOP)
    until_soon(lambda: is_gone(stopped), 4.0)
    until(lambda: len(server.worker_pids()) == 2)

    assert {ask(connect, server, "gb", body) for _ in range(12)} == {200}
    assert other in server.worker_pids()
    assert silent_workers(connect, server) == 1


@pytest.mark.slow
def test_a_server_that_was_suspended_as_a_whole_kills_no_worker(
    serve, connect, body, cancer_bundle
):
    """Ctrl-Z in a terminal, for longer than a worker may be silent."""
    server = serve(cancer_bundle, env=SOON)
    (worker,) = server.worker_pids()
    processes = [psutil.Process(pid) for pid in (server.process.pid, worker)]
    for process in processes:
        process.suspend()
    time.sleep(3)
    for process in processes:
        process.resume()
    time.sleep(0.5)
    assert server.worker_pids() == [worker]
    assert ask(connect, server, "gb", body) == 200


@pytest.mark.slow
def test_a_server_that_was_suspended_as_a_whole_answers_what_came_meanwhile(
    serve, connect, body, cancer_bundle
):
    """For longer than a new connection may be silent, or a request may take to arrive."""
    server = serve(cancer_bundle)
    processes = [server.process.pid, *server.worker_pids()]
    path = "/v2/models/gb/infer"
    with ExitStack() as stack:
        used, begun, silent = (stack.enter_context(connect(server.port)) for _ in range(3))
        assert used.request("POST", path, body).answer().status == 200
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        begun.send(head.encode() + body[:9])
        time.sleep(0.5)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        new = [stack.enter_context(connect(server.port)) for _ in range(4)]
        begun.send(body[9:-1])
        for client in (used, silent, *new):
            client.request("POST", path, body)
        time.sleep(22)
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
        begun.send(body[-1:])
        assert [client.answer().status for client in (used, begun, silent, *new)] == [200] * 7


def test_a_run_on_the_loop_that_does_not_end_holds_up_nobody_for_long(
    serve, connect, quick, cancer_bundle, body
):
    server = serve(quick, cancer_bundle, env={"BASCULE_SERVING__DEADLINE_S": "1"})
    (worker,) = server.worker_pids()
    assert ask(connect, server, "quick", rows(1.0)) == 200
    with connect(server.port) as poisoned, connect(server.port) as mate:
        began_s = time.monotonic()
        poisoned.request("POST", "/v2/models/quick/infer", rows(1.0, POISON))
        mate.request("POST", "/v2/models/quick/infer", rows(1.0))
        assert ask(connect, server, "gb", body) == 200
        assert is_within(time.monotonic() - began_s, 0.5)  # 0.1 s on a quiet machine
        assert poisoned.answer().status == 504
        assert mate.answer().status in (200, 504)
    assert ask(connect, server, "quick", rows(1.0)) == 200
    assert server.worker_pids() == [worker]


@pytest.mark.slow
def test_a_run_on_a_thread_that_does_not_end_is_ended_after_its_deadline(serve, connect, costly):
    server = serve(costly, env={"BASCULE_SERVING__DEADLINE_S": "1"})
    (worker,) = server.worker_pids()
    began_s = time.monotonic()
    with connect(server.port) as first, connect(server.port) as second:
        first.request("POST", "/v2/models/costly/infer", rows(POISON))
        time.sleep(0.1)
        second.request("POST", "/v2/models/costly/infer", rows(1.0))
        assert first.answer().status == 504
        assert second.answer().status in (200, 504)
    until(lambda: ask(connect, server, "costly", rows(1.0)) == 200, within_s=5)
    assert time.monotonic() - began_s < 4
    assert server.worker_pids() == [worker]


HANGING = """
import time

class Model:
    def predict(self, columns):
        if (columns["input"] == 7).any():
            time.sleep(3600)
        return columns["input"].sum(axis=1)
"""


@pytest.mark.slow
def test_a_process_of_a_model_that_hangs_is_replaced_after_the_deadline(
    serve, connect, packed, tmp_path
):
    (tmp_path / "own.py").write_text(HANGING)
    model = bascule.PythonModel("own:Model", code=tmp_path / "own.py")
    own = packed("own", model, np.ones((8, 3)))
    server = serve(own, env={"BASCULE_SERVING__DEADLINE_S": "1"})
    (worker,) = server.worker_pids()

    def infer(value):
        tensor = {"name": "input", "datatype": "FP64", "shape": [1, 3], "data": [value] * 3}
        return ask(connect, server, "own", json.dumps({"inputs": [tensor]}).encode())

    assert infer(1.0) == 200
    began_s = time.monotonic()
    assert infer(7.0) == 504
    until(lambda: infer(1.0) == 200)
    assert time.monotonic() - began_s < 6  # of which the new process starts for one or two
    assert server.worker_pids() == [worker]


def test_workers_that_stand_still_die_with_their_supervisor(serve, cancer_bundle):
    server = serve(cancer_bundle, "--workers=2")
    workers = server.worker_pids()
    os.kill(workers[0], signal.SIGSTOP)
    server.end(signal.SIGKILL)
    until_soon(lambda: all(map(is_gone, workers)), 2.0)


@pytest.mark.slow
def test_a_worker_that_was_replaced_stops_in_order(serve, connect, body, cancer_bundle):
    """The system kills a process when the thread ends that started it."""
    server = serve(cancer_bundle)
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: ask(connect, server, "gb", body) == 200)
    with connect(server.port) as client:
        head = b"POST /v2/models/gb/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        client.send(head % len(body) + body[:9])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert client.send(body[9:]).answer().status == 200
    assert server.end() == 0
