"""Hundreds of models in one server, with memory for a few."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import psutil
import pytest

from bascule.core.errors import Refused
from bascule.serving import Limits, ModelSpec
from bascule.serving.workers import Addresses, ServingConfig, Supervisor

pytestmark = pytest.mark.serial

COUNT = 200


@pytest.fixture
def serve_many():
    started = []

    def start(services, **limits):
        supervisor = Supervisor(
            Addresses("127.0.0.1", 0), ServingConfig(Limits(**limits)), workers=1
        )
        started.append(supervisor)
        supervisor.start(services)
        return supervisor

    yield start
    for supervisor in started:
        supervisor.stop(drain_s=0)


def worker_of(supervisor):
    (status,) = supervisor.statuses()
    return psutil.Process(status.pid)


def infer(client, name, body):
    return client.request("POST", f"/v2/models/{name}/infer", body).answer()


@pytest.mark.slow
@pytest.mark.parametrize("asks", [600, 5_000])
def test_two_hundred_models_answer_from_memory_for_a_few(serve_many, connect, cancer_bundle, asks):
    body = (cancer_bundle / "data/example.json").read_bytes()
    services = [ModelSpec(f"m{number}", "1", cancer_bundle) for number in range(COUNT)]
    one = serve_many(services[:1], memory_budget_mb=1_000)
    (state,) = one.models()
    alone_bytes = worker_of(one).memory_info().rss
    budget_mb = max(10, 20 * state.size_bytes // 1_000_000)
    supervisor = serve_many(services, memory_budget_mb=budget_mb)
    with connect(supervisor.port) as client:
        expected = infer(client, "m0", body).json["outputs"]
    statuses, wrong, largest = Counter(), [], [0]
    left = iter(range(asks))
    lock = threading.Lock()

    def ask(seed):
        choose = random.Random(seed)
        with connect(supervisor.port) as client:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                # Half of all calls are for a tenth of the models, as it is in life.
                name = f"m{choose.randrange(COUNT // 10 if choose.random() < 0.5 else COUNT)}"
                answer = infer(client, name, body)
                statuses[answer.status] += 1
                if answer.status != 200 or answer.json["outputs"] != expected:
                    wrong.append((name, answer.body[:200]))
                elif answer.json["model_name"] != name:
                    wrong.append((name, answer.json["model_name"]))
                largest[0] = max(largest[0], worker_of(supervisor).memory_info().rss)

    started_s = time.monotonic()
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - started_s
    states = supervisor.models()
    in_memory = [one for one in states if one.is_loaded]
    told = f"{len(in_memory)} of {len(states)} in {budget_mb} MB, one takes {state.size_bytes:,}"
    grown_mb = (largest[0] - alone_bytes) / 1e6
    print(f"{statuses} in {took_s:.1f} s; {told}; the worker grew by {grown_mb:.0f} MB")  # noqa: T201
    assert dict(statuses) == {200: asks}, wrong[:3]
    assert wrong == []
    assert 1 < len(in_memory) < COUNT
    assert sum(one.size_bytes for one in in_memory) <= budget_mb * 1_000_000
    # Names, routes and signatures of all of them are there; their programs are not.
    assert grown_mb < budget_mb + 40


def test_a_request_that_cannot_wait_for_its_model_is_told_when_to_come_back(
    serve_many, connect, costly_bundle
):
    body = (costly_bundle / "data/example.json").read_bytes()
    services = [ModelSpec(name, "1", costly_bundle) for name in ("a", "b")]
    # Room for one that measures larger than its file, as the allocator has it, and never for two.
    file_mb = (costly_bundle / "programs/onnx.onnx").stat().st_size / 1e6
    supervisor = serve_many(services, memory_budget_mb=int(file_mb * 1.9))
    assert [state.is_loaded for state in supervisor.models()] == [True, False]
    with connect(supervisor.port) as client:
        headers = "X-Request-Timeout-Ms: 1\r\n"
        answer = client.request("POST", "/v2/models/b/infer", body, headers).answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["error"].startswith("b/1 was not loaded within 1 ms")
        assert infer(client, "b", body).status == 200
        assert [state.is_loaded for state in supervisor.models()] == [False, True]
        assert infer(client, "a", body).status == 200
        assert [state.is_loaded for state in supervisor.models()] == [True, False]


def test_copies_of_a_model_measure_alike_whoever_was_loaded_first(serve_many, costly_bundle):
    """Also where a later one is put into memory that the loading of an earlier one left free."""
    services = [ModelSpec(name, "1", costly_bundle) for name in "abc"]
    sizes = [one.size_bytes for one in serve_many(services, memory_budget_mb=1_000).models()]
    file_bytes = (costly_bundle / "programs/onnx.onnx").stat().st_size
    assert file_bytes < min(sizes)
    # The allocator keeps up to 6.5 MB of what loading took; a model left free as much as it takes.
    assert max(sizes) - min(sizes) < 8e6, sizes
    assert max(sizes) < 1.75 * file_bytes, sizes


def test_a_model_that_is_larger_than_all_that_there_is_is_refused(
    serve_many, costly_bundle, cancer_bundle
):
    supervisor = serve_many([ModelSpec("small", "1", cancer_bundle)], memory_budget_mb=6)
    large = ModelSpec("large", "1", costly_bundle)
    with pytest.raises(Refused, match=r"large/1 takes \d+ MB, and serving.memory_budget_mb is 6"):
        supervisor.change(lambda now: (*now, large))
    assert [service.model for service in supervisor.services] == ["small"]
    assert [(one.model, one.is_loaded) for one in supervisor.models()] == [("small", True)]
