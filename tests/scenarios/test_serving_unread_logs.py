"""A server whose log has no reader still answers, and still stops on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.conftest import start_server
from tests.tiers import first_of


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(write)
    with open(read, "rb"):
        pass


def fill(write):
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)


def failing_rows(bundle):
    request = json.loads((bundle / "data/example.json").read_bytes())
    (tensor,) = request["inputs"]
    tensor["data"], tensor["shape"][0] = [99] * 1, 1
    return json.dumps(request).encode()


@pytest.fixture(scope="module")
def lookup(packed):
    """A graph that fails on an index that is too large, so that there is something to log."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.arange(5, dtype=np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return packed("lookup", model, np.array([[0], [1], [2], [3]]))


@pytest.mark.parametrize("how", first_of(["full", "closed"]))
def test_a_log_that_nobody_reads_keeps_the_server_neither_from_answering_nor_from_ending(
    lookup, connect, pipe, how
):
    read, write = pipe
    server = start_server(lookup, errors=write, env={"BASCULE_SERVING__ACCESS_LOG": "true"})
    try:
        if how == "full":
            fill(write)
        else:
            os.dup2(os.open(os.devnull, os.O_RDONLY), read)
        with connect(server.port) as client:
            for _ in range(50):
                path = "/v2/models/lookup/infer"
                assert client.request("POST", path, failing_rows(lookup)).answer().status == 500
                assert client.request("GET", "/v2/health/ready").answer().status == 200
        pids = server.worker_pids()
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        server.process.wait(20)
        assert time.monotonic() - started < 10, "nothing is under way that is waited for"
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    finally:
        server.process.kill()
        server.process.stdout.close()


def test_standard_streams_that_are_closed_at_the_start_are_opened(cancer_bundle):
    command = (
        f'exec "{sys.executable}" -m bascule.cli serve "{cancer_bundle}" --port=0 --control-port=0'
    )
    process = subprocess.Popen(
        ["sh", "-c", f"{command} 0<&- 2>&-"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().startswith("serving gb/")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
