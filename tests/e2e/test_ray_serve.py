"""A version on a real Ray Serve answers what `bascule serve` answers, to the bit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.ray_server import ray_serving
from tests.scenarios.commands import bascule

pytestmark = pytest.mark.slow
WAIT_S = 60.0


@pytest.fixture(scope="module")
def places(tmp_path_factory, cancer_bundle):
    """A home with a version, and the folder of its application."""
    folder = tmp_path_factory.mktemp("ray")
    home = folder / "home"
    bascule(home, "push", cancer_bundle)
    bascule(home, "ship", "ray", "gb/1", "--out", folder / "ship", "--replicas", "1")
    return home, folder / "ship"


@pytest.fixture(scope="module")
def on_ray(places):
    home, folder = places
    with ray_serving(folder, home) as server:
        yield server.url


@pytest.fixture(scope="module")
def served(places, start):
    home, _ = places
    server = start("gb/1", env={"BASCULE_HOME": str(home)})
    yield f"http://127.0.0.1:{server.port}"
    server.process.stdout.close()
    server.end()


def example(cancer_bundle):
    return (cancer_bundle / "data" / "example.json").read_bytes()


def without_what_differs(answer):
    body = answer.json()
    body.pop("id", None)
    return answer.status_code, body


def test_answers_have_the_same_bits(on_ray, served, cancer_bundle):
    body = example(cancer_bundle)
    path = "/v2/models/gb/infer"
    there = httpx.post(on_ray + path, content=body, timeout=WAIT_S)
    here = httpx.post(served + path, content=body, timeout=WAIT_S)
    assert there.status_code == 200, there.text
    assert without_what_differs(there)[1]["outputs"] == without_what_differs(here)[1]["outputs"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v2/health/ready", None),
        ("GET", "/v2/models/nobody", None),
        ("POST", "/v2/models/gb/infer", b"{"),
        ("POST", "/v2/models/gb/infer", b'{"inputs": []}'),
        ("POST", "/invocations", b"[[1, 2]]"),
    ],
)
def test_errors_and_health_are_answered_alike(on_ray, served, method, path, body):
    there, here = (
        httpx.request(method, url + path, content=body, timeout=WAIT_S) for url in (on_ray, served)
    )
    assert without_what_differs(there) == without_what_differs(here)


def test_callers_at_once_get_their_own_answers(on_ray, served, cancer_bundle):
    (tensor,) = json.loads(example(cancer_bundle))["inputs"]
    flat = [float(value) for value in tensor["data"]] if not isinstance(
        tensor["data"][0], list
    ) else tensor["data"][0]  # fmt: skip
    rows = [[value * (1 + n / 100) for value in flat[:30]] for n in range(40)]

    def ask(url, row):
        answer = httpx.post(f"{url}/invocations", json=[row], timeout=WAIT_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(8) as pool:
        there = list(pool.map(lambda row: ask(on_ray, row), rows))
        here = list(pool.map(lambda row: ask(served, row), rows))
    assert there == here
