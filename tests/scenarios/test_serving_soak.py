"""What callers of every kind leave behind in a server: nothing."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import psutil
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from bascule.registry import open_registry

pytestmark = pytest.mark.serial

CALLERS = 8
SIZES = [1, 2, 8, 100]
WARM_UP_ROUNDS = 3
ROUNDS = 9
WAIT_S = 5.0
GROWN_BYTES = 1 << 20
"""Seen were at most 0.4 MB in six rounds, and none after thirty: the allocator's. A worker has over
400 connections in a round, of which a kilobyte each would be 2.4 MB in six."""


@pytest.fixture
def server(serve, trees, tmp_path):
    open_registry(tmp_path).push(trees[0].path, by="tests")
    return serve("m", "--workers=2", "--grpc-port=0", env={"BASCULE_HOME": str(tmp_path)})


class Callers:
    """Asks a server in every form, and knows what was answered.

    Attributes:
        tally: Answers that were read, by status.
        gone: Requests of which nobody waited for the answer.
    """

    def __init__(self, connect, server, protocol, forms, signature, rows):
        self.connect, self.server = connect, server
        self.forms = [form for form in forms.values() if form is not None]
        self.requests = [
            form.ask(protocol.Rows.of(signature, rows[: SIZES[place % len(SIZES)]].tolist()))
            for place, form in enumerate(self.forms)
        ]
        self.rows = rows
        self.tally = Counter()
        self.gone = 0

    def round(self):
        """Everything once by each of some callers at once; all connections are closed after it."""
        with ThreadPoolExecutor(CALLERS) as pool:
            for tally, gone in pool.map(self.everything, range(CALLERS)):
                self.tally += tally
                self.gone += gone

    def everything(self, _):
        tally, gone = Counter(), 0
        with self.connect(self.server.port) as kept:
            for request in self.requests:
                tally[kept.send(request.sent).answer().status] += 1
                with self.connect(self.server.port) as new:
                    tally[new.send(request.sent).answer().status] += 1
                tally[self.refused(request)] += 1
                for cut in (40, -1):
                    self.broken(request.sent[:cut])
                self.broken(request.sent)
                gone += 1
        with triton.InferenceServerClient(f"127.0.0.1:{self.server.grpc_port}") as channel:
            given = triton.InferInput("input", self.rows.shape, "FP64")
            given.set_data_from_numpy(self.rows)
            for _ in range(4):
                channel.infer("m", [given])
                tally[200] += 1
        return tally, gone

    def refused(self, request):
        with self.connect(self.server.port) as client:
            return (
                client.request("POST", request.path, b'{"inputs": 1, "inputs": 2}').answer().status
            )

    def broken(self, sent):
        """Sent, and the connection reset."""
        with self.connect(self.server.port) as client:
            client.send(sent)
            reset = struct.pack("ii", 1, 0)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)


def counted(client):
    """The inference requests of the model, by status."""
    text = client.request("GET", "/metrics").answer().body.decode()
    return Counter(
        {
            int(sample.labels["status"]): int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "bascule_requests_total" and sample.labels["model"] == "m"
        }
    )


def eventually(look, wanted):
    """What is seen, once it is as wanted or it has taken too long."""
    until = time.monotonic() + WAIT_S
    while (found := look()) != wanted and time.monotonic() < until:
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_after_rounds_of_every_kind_of_caller_a_server_is_as_it_was(
    server, connect, protocol, forms, trees
):
    bundle, X = trees
    callers = Callers(connect, server, protocol, forms, bundle.signature, X[:100])
    workers = list(map(psutil.Process, server.worker_pids()))

    def descriptors():
        return [worker.num_fds() for worker in workers]

    def threads():
        return [worker.num_threads() for worker in workers]

    def counts():
        with connect(server.port) as client:
            found = counted(client)
        # Who went before the answer may have been answered all the same: nobody read it.
        found[200] += found.pop(499, 0)
        return found

    open_before = descriptors()
    for _ in range(WARM_UP_ROUNDS):
        callers.round()
    threads_before = threads()
    memory = []
    for _ in range(ROUNDS):
        callers.round()
        assert eventually(descriptors, open_before) == open_before, "descriptors are left"
        memory.append([worker.memory_info().rss for worker in workers])

    assert threads() == threads_before, "threads are left"
    for of_worker in zip(*memory, strict=True):
        grown = median(of_worker[-3:]) - median(of_worker[:3])
        assert grown < GROWN_BYTES, f"memory is left: {of_worker}"
    told = callers.tally + Counter({200: callers.gone})
    assert set(callers.tally) == {200, 400}
    assert eventually(counts, told) == told
    assert [worker.pid for worker in workers] == server.worker_pids(), "a worker was replaced"
