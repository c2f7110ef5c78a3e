"""Several models in one worker: who asks one of them too much does not make others wait."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from statistics import median

import numpy as np
import pytest
from tests.tiers import first_of

from bascule.serving import Limits, ModelSpec
from bascule.serving.workers import Addresses, ServingConfig, Supervisor

pytestmark = pytest.mark.serial

QUEUE = 48
CALLERS = 2 * QUEUE
ROWS = 64
MEASURED_S = 2.0

GREEDY = """
import socket, sys, threading, time, json
port, callers, body = int(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer.read()
head = b"POST /v2/models/greedy/infer HTTP/1.1\\r\\nHost: [::1]\\r\\nContent-Length: %d\\r\\n\\r\\n"
request, took, over = head % len(body) + body, {200: [], 429: []}, threading.Event()
def ask():
    with socket.create_connection(("127.0.0.1", port)) as client:
        answers = client.makefile("rb")
        while not over.is_set():
            started_s = time.monotonic()
            client.sendall(request)
            status = int(answers.readline().split()[1])
            while (line := answers.readline()) != b"\\r\\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
            took[status].append(time.monotonic() - started_s)
threads = [threading.Thread(target=ask) for _ in range(callers)]
for thread in threads:
    thread.start()
while not took[429]:
    time.sleep(0.01)
print("full", flush=True)
sys.stdin = open(0)
threading.Event().wait(float(sys.argv[3]))
over.set()
for thread in threads:
    thread.join()
print(json.dumps(took))
"""
"""Callers who ask at once again, whatever they are told. In a process of its own: what it costs to
ask so much must not be what the others are seen to wait for."""


@pytest.fixture
def server(costly_bundle, cancer_bundle):
    made = Supervisor(
        Addresses("127.0.0.1", 0), ServingConfig(Limits(max_queue_requests=QUEUE)), workers=1
    )
    made.start(
        [
            ModelSpec("greedy", "1", costly_bundle),
            ModelSpec("thread", "1", costly_bundle),
            ModelSpec("loop", "1", cancer_bundle),
        ]
    )
    yield made
    made.stop(drain_s=0)


def body_of(name, rows):
    return json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "datatype": "FP64",
                    "shape": rows.shape,
                    "data": rows.ravel().tolist(),
                }
            ]
        }
    ).encode()


@pytest.mark.parametrize("modest", first_of(["thread", "loop"]))
def test_callers_of_one_model_do_not_wait_in_the_queue_of_another(server, connect, modest):
    """A model that is asked too much has a full queue, and those before it wait for all of it.

    Who asks another model waits for its own alone: on its thread, or on the loop.
    """
    random = np.random.default_rng(1)
    many = body_of("x", random.normal(size=(ROWS, 16)))
    # As many rows as take milliseconds go to the thread, one that takes microseconds does not.
    few = {"thread": ("x", np.ones((ROWS, 16))), "loop": ("input", np.ones((1, 30)))}[modest]
    body = body_of(*few)
    statuses, took = Counter(), []

    greedy = subprocess.Popen(
        [sys.executable, "-c", GREEDY, str(server.port), str(CALLERS), str(MEASURED_S)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with greedy, connect(server.port) as client:
        greedy.stdin.write(many)
        greedy.stdin.close()
        assert greedy.stdout.readline() == b"full\n"
        until_s = time.monotonic() + MEASURED_S
        while (started_s := time.monotonic()) < until_s:
            answer = client.request("POST", f"/v2/models/{modest}/infer", body).answer()
            took.append(time.monotonic() - started_s)
            statuses[answer.status] += 1
            time.sleep(0.005)
        greedy_took = json.loads(greedy.stdout.read())
    took.sort()
    waited_s, late_s = median(took), took[int(0.95 * len(took))]
    queued_s = median(greedy_took["200"])
    print(  # noqa: T201
        f"{modest}: {waited_s * 1e3:.1f} ms, one in twenty over {late_s * 1e3:.1f} ms; "
        f"in the queue {queued_s * 1e3:.0f} ms, {len(greedy_took['429'])} refused"
    )
    assert len(greedy_took["429"]) > CALLERS, "the queue was not full all the time"
    assert set(statuses) == {200}
    assert waited_s < queued_s / 5
    assert late_s < queued_s / 2
