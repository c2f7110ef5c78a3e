"""Requests that are answered later, by real servers, over SQLite and PostgreSQL."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
from tests.receivers import hook
from tests.stores import open_stores
from tests.waiting import until

import bascule
from bascule.app import open_catalogue, open_keys
from bascule.core import Gone, Overloaded, TimedOut
from bascule.jobs import Jobs
from bascule.monitoring.alerts.sinks import signature
from bascule.monitoring.ledger import Ledger
from bascule.security import Permission
from bascule.settings import load_settings

CODE = """
import os, time
from pathlib import Path
import numpy as np


class Model:
    def predict(self, columns):
        pause_s, value = columns["input"][0]
        with Path({calls!r}).open("a") as file:
            file.write(f"{{value:g}}\\n")
        time.sleep(pause_s)
        return columns["input"][:, 1] * 2

    def predict_stream(self, columns):
        pause_s, count = columns["input"][0]
        for number in range(int(count)):
            time.sleep(pause_s)
            yield np.full(1, float(number))
        if count == 0.5:
            raise ValueError("it breaks")
"""


def rows(pause_s, value):
    tensor = {"name": "input", "datatype": "FP64", "shape": [1, 2], "data": [pause_s, value]}
    return {"inputs": [tensor]}


@dataclass
class Later:
    """Servers that ask for keys, of one catalogue."""

    serve: object
    bundle: Path
    calls: Path
    env: dict[str, str]
    home: Path
    stack: ExitStack

    def start(self, **more):
        env = {name: str(value) for name, value in more.items()}
        return self.serve("slow", env=self.env | env)

    def key(self, server, *permissions):
        """A key that the server knows, and its client."""
        keys = open_keys(self.settings)
        key, token = keys.create(f"k{time.monotonic_ns()}", list(permissions), by="root")
        client = self.client(server, token)
        place = f"http://127.0.0.1:{server.port}/v2/models/nowhere"
        for url in ("models/slow", place):
            until(lambda url=url: client.get(url).status_code != 401)
        return SimpleNamespace(key=key, token=token, http=client, keys=keys)

    def client(self, server, token):
        base = f"http://127.0.0.1:{server.control_port}/api/v1/"
        made = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {token}"})
        return self.stack.enter_context(made)

    @property
    def settings(self):
        return load_settings(self.home.parent, self.env)

    @property
    def called(self):
        return self.calls.read_text().split() if self.calls.exists() else []


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Answers twice the second value of a row after its first in seconds, and notes each call."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(CODE.format(calls=str(folder / "calls")))
    model = bascule.PythonModel("slow:Model", code=folder / "slow.py")
    data = np.array([[0.0, 1.0], [0.0, 2.0]])
    made = bascule.pack(model, name="slow", train=data, to=folder / "slow", measure=False)
    return made.path


@pytest.fixture(params=["sqlite", "postgresql"])
def later(request, serve, slow, tmp_path):
    store = "sqlite"
    if request.param == "postgresql":
        store = request.getfixturevalue("postgresql_url")
    home, calls = tmp_path / "home", slow.parent / "calls"
    calls.unlink(missing_ok=True)
    env = {
        "BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys",
        "BASCULE_MONITORING__LEDGER": "on", "BASCULE_SERVING__DEADLINE_S": "1",
        "BASCULE_REGISTRY__STORE": store,
    }  # fmt: skip
    open_stores(home, *([] if store == "sqlite" else [store])).push(slow, by="ada")
    with ExitStack() as stack:
        yield Later(serve, slow, calls, env, home, stack)


def submit(caller, content, **query):
    made = caller.http.post("models/slow/inferences", json=content, params=query)
    assert made.status_code == 202, made.text
    assert made.headers["Location"] == f"/api/v1/inferences/{made.json()['id']}"
    return made.json()["id"]


def ended(caller, inference, within_s=30.0):
    until(lambda: caller.http.get(f"inferences/{inference}").json()["ended_at"], within_s)
    return caller.http.get(f"inferences/{inference}").json()


def test_an_answer_that_takes_longer_than_the_deadline_is_that_of_the_plain_request(later):
    server = later.start()
    caller = later.key(server, Permission("infer", "slow"))
    plain = f"http://127.0.0.1:{server.port}/v2/models/slow/infer"
    headers = dict(caller.http.headers)
    assert httpx.post(plain, json=rows(1.5, 3), headers=headers).status_code == 504

    inference = submit(caller, rows(1.5, 3))
    early = caller.http.get(f"inferences/{inference}/answer")
    assert early.status_code == 409, early.text
    told = ended(caller, inference)
    answer = caller.http.get(f"inferences/{inference}/answer")
    at_once = httpx.post(plain, json={"id": inference, **rows(0, 3)}, headers=headers)

    assert told["state"] == "done", told
    assert told["bytes"] == len(answer.content)
    assert answer.content == at_once.content
    assert answer.headers["content-type"] == at_once.headers["content-type"]
    ledger = Ledger(later.home)
    question = f"SELECT caller FROM predictions WHERE id = '{inference}'"
    until(lambda: ledger.query(question).num_rows == 2)
    assert set(ledger.query(question)["caller"].to_pylist()) == {caller.key.id}
