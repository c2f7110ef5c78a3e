"""Originals are served from a process of their own: what happens there stays there."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer
from tests.pace import slowness_of_starts
from tests.scenarios.commands import is_gone
from tests.waiting import until

import bascule


@pytest.fixture(scope="module")
def binned(tmp_path_factory):
    """A model that has no converter, beside one that has."""
    X, y = load_iris(return_X_y=True)
    folder = tmp_path_factory.mktemp("originals")
    model = make_pipeline(SplineTransformer(), LogisticRegression(max_iter=1000)).fit(X, y)
    bundle = bascule.pack(
        model, name="bins", train=X, to=folder / "bins", serve_original=True, measure=False
    )
    assert bundle.manifest.serves == "original"
    return bundle, X, model.predict_proba(X)


def infer(client, rows):
    body = {"inputs": [{"name": "input", "datatype": "FP64", "shape": list(rows.shape),
                        "data": rows.ravel().tolist()}]}  # fmt: skip
    return client.request("POST", "/v2/models/bins/infer", json.dumps(body).encode()).answer()


def child_of(server):
    (worker,) = (p for p in map(psutil.Process, server.worker_pids()) if p.children())
    (child,) = worker.children()
    return worker, child


def test_the_original_answers_from_its_own_process_which_ends_with_its_server(
    serve, connect, binned
):
    """The worker has no framework; a server that is killed leaves no process behind."""
    bundle, X, expected = binned
    server = serve(bundle.path)
    with connect(server.port) as client:
        answer = infer(client, X)
    assert answer.json["parameters"] == {"program": "original"}
    _, probabilities = answer.json["outputs"]
    np.testing.assert_allclose(np.reshape(probabilities["data"], (-1, 3)), expected, rtol=1e-12)
    worker, child = child_of(server)
    assert "sklearn" not in Path(f"/proc/{worker.pid}/maps").read_text()
    mapped = Path(f"/proc/{child.pid}/maps").read_text()
    assert "sklearn" in mapped
    # Whoever waits for the process to come back would wait for what skops imports of it, too.
    assert find_spec("torch") is not None, "there is no PyTorch here that could be imported"
    assert "libtorch" not in mapped
    server.end(signal.SIGKILL)
    until(lambda: is_gone(worker.pid) and is_gone(child.pid))


@pytest.mark.slow
@pytest.mark.serial
def test_a_child_that_is_killed_under_load_fails_what_it_was_answering_and_is_back(
    serve, connect, binned
):
    bundle, X, _ = binned
    server = serve(bundle.path)
    worker, child = child_of(server)
    statuses, moments = [], []
    stop = threading.Event()

    def ask():
        with connect(server.port) as client:
            while not stop.is_set():
                statuses.append(infer(client, X[:2]).status)
                moments.append(time.monotonic())

    def until_answered(count):
        give_up = time.monotonic() + 90
        while len(statuses) < count:
            assert time.monotonic() < give_up, "nobody is answered"
            time.sleep(0.002)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    until_answered(50)
    killed = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    after = len(statuses)
    until_answered(after + 50)
    back = next(
        m for m, s in zip(moments, statuses, strict=False) if s == 200 and m > killed + 0.05
    )
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 503}
    assert statuses.count(503) <= 4, "more failed than were asked at that moment"
    assert psutil.pid_exists(worker.pid)
    _, again = child_of(server)
    assert again.pid != child.pid
    spent = again.cpu_times()
    spent_s = spent.user + spent.system
    print(f"back after {back - killed:.1f} s, of which it ran for {spent_s:.1f} s")  # noqa: T201
    assert back - killed < 10  # on a quiet machine, hardly more than what it ran for
    assert spent_s < 3 * slowness_of_starts()
