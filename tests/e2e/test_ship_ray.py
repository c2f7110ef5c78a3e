"""A version on a real Ray Serve answers what `bascule serve` answers, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import httpx
import numpy as np
import pytest
from tests.images import until
from tests.own_environments import ROOT, python_of
from tests.scenarios.commands import bascule
from tests.stores import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.serial]
RAY = {
    "PYTHONPATH": str(ROOT / "src"), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
    "RAY_raylet_start_wait_time_s": "600",
}  # fmt: skip
START_S = 400.0  # under load, a worker of Ray takes minutes to start
INFER = "/v2/models/gb/infer"


@pytest.fixture(scope="module")
def home(tmp_path_factory, cancer_bundle):
    """A home with `gb/1`."""
    made = tmp_path_factory.mktemp("home")
    bascule(made, "push", cancer_bundle)
    return made


@pytest.fixture(scope="module")
def on_ray(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    bascule(home, "ship", "ray", "gb/1", "--out", folder, "--replicas", "1")
    (port,) = free_ports(1)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [python_of("ray"), ROOT / "tests/ray_driver.py", folder / "serve.yaml", str(port)],
            env={**os.environ, **RAY, "BASCULE_HOME": str(home)}, cwd=folder,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def is_ready():
        with suppress(httpx.HTTPError):
            return httpx.get(f"{url}/v2/health/ready", timeout=60).status_code == 200

    try:
        until(lambda: process.poll() is not None or is_ready(), log.read_text, START_S)
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def served(home, start):
    server = start("gb/1", env={"BASCULE_HOME": str(home)})
    yield f"http://127.0.0.1:{server.port}"
    server.process.stdout.close()
    server.end()


def answers(url, method, path, body):
    answer = httpx.request(method, url + path, content=body, timeout=60)
    said = answer.json()
    if isinstance(said, dict):
        said.pop("id", None)
    return answer.status_code, answer.headers["content-type"], said


def example(bundle):
    return (bundle / "data" / "example.json").read_bytes()


def test_an_answer_has_the_same_bits(on_ray, served, cancer_bundle):
    body = example(cancer_bundle)
    there, here = (answers(url, "POST", INFER, body) for url in (on_ray, served))
    assert there == here
    assert there[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v2/health/ready", None),
        ("GET", "/v2/models/gb", None),
        ("GET", "/v2/models/nobody", None),
        ("DELETE", "/v2/models/gb", None),
        ("POST", INFER, b"{"),
        ("POST", "/invocations", b"[[1, 2]]"),
    ],
)
def test_what_is_no_prediction_is_answered_alike(on_ray, served, method, path, body):
    there, here = (answers(url, method, path, body) for url in (on_ray, served))
    assert there == here


def test_callers_at_once_get_their_own_answers(on_ray, served, cancer_bundle):
    (tensor,) = json.loads(example(cancer_bundle))["inputs"]
    first = np.reshape(tensor["data"], tensor["shape"])[0]
    bodies = [
        json.dumps({"inputs": [{**tensor, "shape": [1, 30], "data": (first * by).tolist()}]})
        for by in np.linspace(0.5, 1.5, 40)
    ]

    def ask(url, body):
        return answers(url, "POST", INFER, body)

    with ThreadPoolExecutor(8) as pool:
        there, here = (list(pool.map(partial(ask, url), bodies)) for url in (on_ray, served))
    assert there == here
    assert {status for status, _, _ in there} == {200}
    assert len({str(one) for one in there}) > 10
