"""Models that die, hang and fail, in a running server: what their clients see of it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.own_versions import failing_versions
from tests.pace import slowness_of_starts
from tests.waiting import until

from bascule.control.references import version_of

WAIT_S = 20.0


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    return failing_versions(tmp_path_factory.mktemp("own"), "own")


def number(bundle):
    return version_of(bundle.digest)


def infer(client, *row):
    tensor = {"name": "input", "datatype": "FP64", "shape": [1, 3], "data": list(row)}
    return client.request("POST", "/v2/models/own/infer", {"inputs": [tensor]}).answer()


class Load:
    """Clients that ask over and over; what they were told, and when."""

    def __init__(self, connect, port, clients=4):
        self.statuses = Counter()
        self.moments = []
        self.problems = []
        self._stop = threading.Event()
        self._connect, self._port = connect, port
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: self.statuses[200] > 50)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _ask(self):
        with self._connect(self._port) as client:
            while not self._stop.is_set():
                answer = infer(client, 1, 2, 3)
                self.statuses[answer.status] += 1
                self.moments.append((time.monotonic(), answer.status))
                if answer.status != 200:
                    self.problems.append(answer.json)


def sums(server, connect, name):
    with connect(server.port) as client:
        text = client.request("GET", "/metrics").answer().body.decode()
    found = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels["version"], sample.labels.get("status")] += int(sample.value)
    return found


def policy(**settings):
    return {"BASCULE_SERVING__MODELS": json.dumps({"own": settings})}


def children_of(server):
    return {
        child.pid: child
        for worker in map(psutil.Process, server.worker_pids())
        for child in worker.children()
    }


@pytest.mark.serial
@pytest.mark.slow
def test_a_child_that_is_killed_under_load_fails_what_was_there_and_is_back_in_two_seconds(
    serve, connect, versions
):
    server = serve(versions[0].path)
    with Load(connect, server.port) as load:
        (child,) = children_of(server).values()
        killed_s = time.monotonic()
        child.send_signal(signal.SIGKILL)
        until(lambda: child.pid not in children_of(server) and children_of(server))
        answered = load.statuses[200]
        until(lambda: load.statuses[200] > answered + 50)
        slowness = slowness_of_starts()
    back_s = min(at for at, status in load.moments if status == 200 and at > killed_s + 0.05)
    print(f"back after {(back_s - killed_s) * 1e3:.0f} ms, {load.statuses}")  # noqa: T201
    assert back_s - killed_s <= 2 * slowness
    assert set(load.statuses) <= {200, 503}
    assert load.statuses[503] <= 4, "more failed than were asked at that moment"
    told = sums(server, connect, "bascule_requests_total")
    assert {int(status): n for (_, status), n in told.items()} == dict(load.statuses)


def is_waiting(load):
    """Whether nobody was answered for a tenth of a second."""
    before = load.statuses[200]
    time.sleep(0.1)
    return load.statuses[200] == before


def test_with_a_budget_of_retries_nobody_notices(serve, connect, versions):
    server = serve(versions[0].path, env=policy(retry_percent=100))
    # One client: calls that ran together are each run again alone, which is no retry.
    with Load(connect, server.port, clients=1) as load:
        (child,) = children_of(server).values()
        child.suspend()  # so that a call is under way when it dies
        until(lambda: is_waiting(load))
        child.send_signal(signal.SIGKILL)
        until(lambda: child.pid not in children_of(server) and children_of(server))
        answered = load.statuses[200]
        until(lambda: load.statuses[200] > answered + 50)
    assert set(load.statuses) == {200}, load.problems
    failures = sums(server, connect, "bascule_failures_total")
    assert failures[number(versions[0]), None] == 1


def test_the_version_before_answers_what_the_new_one_fails(serve, connect, versions):
    old, new = versions
    server = serve(
        new.path, old.path, env=policy(fallback=f"own/{number(old)}", breaker_failures=3)
    )
    with connect(server.port) as client:
        assert infer(client, 1, 2, 3).json["model_version"] == number(new)
        for _ in range(5):
            answer = infer(client, 7, 7, 7)
            assert (answer.status, answer.json["model_version"]) == (200, number(old))
            assert answer.json["outputs"][0]["data"] == [21]
        assert infer(client, 1, 2, 3).json["model_version"] == number(old), "the breaker is open"
    key = (number(new), None)
    assert sums(server, connect, "bascule_failures_total")[key] == 3
    assert sums(server, connect, "bascule_fallbacks_total")[key] == 6
    assert sums(server, connect, "bascule_requests_total") == {(number(new), "200"): 7}


def test_a_fallback_with_another_signature_is_refused_at_the_start(
    versions, cancer_bundle, tmp_path
):
    ended = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "serve", str(versions[0].path), str(cancer_bundle),
         "--port=0", "--control-port=0"],
        env={**os.environ, **policy(fallback="gb")}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 1
    assert "cannot be the fallback of own/" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_models_with_processes_and_threads_leave_none_behind(serve, connect, versions):
    """Each swap starts a process and a thread, under load, and ends as many."""
    server = serve(versions[0].path)
    (worker,) = map(psutil.Process, server.worker_pids())

    def ask(bundle):
        with connect(server.control_port) as client:
            client.socket.settimeout(60)
            body = json.dumps({"reference": str(bundle.path), "role": "swap"}).encode()
            client.send(
                b"POST /api/v1/server/services HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            return client.answer()

    def control_answers():
        try:
            with connect(server.control_port) as client:
                return client.request("GET", "/health").answer().status == 200
        except (OSError, AssertionError):
            return False

    until(control_answers)
    with Load(connect, server.port) as load:
        seen = []
        for round_ in range(6):
            answer = ask(versions[(round_ + 1) % 2])
            assert answer.status == 200, answer.body
            until(lambda: len(children_of(server)) == 1)
            # The last of a process that has ended are its pipes, which the loop closes next.
            allowed = seen[1][0] + 2 if len(seen) > 1 else math.inf
            until(lambda allowed=allowed: worker.num_fds() <= allowed)
            seen.append((worker.num_fds(), worker.memory_info().rss / 1e6))
        # Its own, the watchdog, the log's, the loader's, the model's, its process's watcher.
        until(lambda: worker.num_threads() <= 6)
    print(seen, load.statuses)  # noqa: T201
    assert set(load.statuses) == {200}, load.problems
    assert seen[-1][1] <= seen[1][1] + 10, "memory is left"
