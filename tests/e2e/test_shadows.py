"""A shadow that crashes, fails, stalls or answers in another shape is invisible, and counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.waiting import until

import bascule
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.endpoints import Arm, Endpoints, EndpointStore, Plan, PlanEvent, Shadow
from bascule.registry import open_registry

pytestmark = [pytest.mark.serial, pytest.mark.slow]

CRASH, FAIL, STALL, OTHER_SHAPE, OTHER_VALUE, FINE = 7, 8, 9, 6, 5, 1
CODE = """
import os, time
import numpy as np

class Model:
    def load(self, folder):
        self.is_odd = bool(np.load(folder / "is_odd.npy"))

    def predict(self, columns):
        x = columns["input"]
        what = x[0, 0] if self.is_odd else 0
        if what == 7:
            os._exit(9)
        if what == 8:
            raise ValueError("not this one")
        if what == 9:
            time.sleep(1_000)
        answer = x.sum(axis=1) + (what == 5)
        return np.stack([answer, answer], axis=1) if what == 6 else answer
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A registry with own/1, and own/2 that does odd things to some rows."""
    folder = tmp_path_factory.mktemp("shadows")
    (folder / "own.py").write_text(CODE)
    registry = open_registry(folder / "home")
    for number, is_odd in enumerate((False, True)):
        np.save(folder / "is_odd.npy", np.array(is_odd))
        model = bascule.PythonModel(
            "own:Model", code=folder / "own.py", files={"is_odd.npy": folder / "is_odd.npy"}
        )
        rows = np.arange(12.0).reshape(4, 3) + 10
        made = bascule.pack(model, name="own", train=rows, to=folder / str(number), measure=False)
        registry.push(made.path, by="ada")
    return folder / "home"


@pytest.fixture
def server(serve, home):
    """Endpoints `calm` and `watched` on own/1; `watched` has the shadow own/2."""
    store = EndpointStore(Catalogue(SqliteDatabase(home / "catalogue.db")))
    book = Endpoints(store, lambda: open_registry(home))
    if not store.endpoints():
        for name in ("calm", "watched"):
            book.deploy("own/1", by="ada", to=name)
        arms, shadow = (Arm("current", "own/1", 100.0),), Shadow("own/2", 100.0)
        event = PlanEvent("changed", datetime.now(UTC), "ada", "", "a shadow")
        book.apply(Plan("watched", 2, arms, shadow), event)
    env = {"BASCULE_HOME": str(home), "BASCULE_SERVING__DEADLINE_S": "3"}
    return serve("calm", "watched", env=env)


@pytest.fixture
def shadow(connect):
    """What is counted for the shadow."""

    def read(server):
        with connect(server.control_port) as client:
            found = client.request("GET", "/api/v1/endpoints/watched/arms").answer().json["items"]
        return next(one for one in found if one["arm"] == "shadow")

    return read


def infer(client, endpoint, first):
    tensor = {"name": "input", "datatype": "FP64", "shape": [1, 3], "data": [first, 0.25, 0.5]}
    body = {"id": "a", "inputs": [tensor]}
    started_s = time.perf_counter()
    answer = client.request("POST", f"/v2/models/{endpoint}/infer", body).answer()
    assert answer.status == 200, answer.body
    return answer.json["outputs"], time.perf_counter() - started_s


@pytest.mark.parametrize(
    ("first", "counted"),
    [
        (CRASH, "errors"),
        (FAIL, "errors"),
        (STALL, "errors"),
        (OTHER_SHAPE, "errors"),
        (OTHER_VALUE, "disagreements"),
    ],
)
def test_an_odd_shadow_is_invisible_and_counted(server, shadow, connect, first, counted):
    before = shadow(server)
    with connect(server.port) as client:
        for value in (FINE, first, FINE, first, FINE):
            (watched, took_s), (calm, _) = (
                infer(client, name, value) for name in ("watched", "calm")
            )
            assert watched == calm
            assert took_s < 2.0  # a stalled shadow ends at the deadline of 3 s
        until(lambda: shadow(server)[counted] > before[counted])
        # It compares again, after its process was started again if it must.
        fine = shadow(server)

        def compares():
            infer(client, "watched", FINE)
            now = shadow(server)
            return now["requests"] - now["errors"] > fine["requests"] - fine["errors"]

        until(compares)
    assert len(server.worker_pids()) == 1


def test_a_shadow_does_not_delay_the_answers(server, shadow, connect):
    """Both endpoints in turn, in one process, so that noise is the same for both."""
    took = {"calm": [], "watched": []}
    with connect(server.port) as client:
        for _ in range(300):
            for name, found in took.items():
                found.append(infer(client, name, FINE)[1])
    median, p95 = (
        {name: np.quantile(found, share) for name, found in took.items()} for share in (0.5, 0.95)
    )
    assert median["watched"] <= 2 * median["calm"]
    assert p95["watched"] <= 3 * p95["calm"]
    until(lambda: (now := shadow(server))["requests"] + now["dropped"] >= 300)
