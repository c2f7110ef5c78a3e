"""The ledger when its worker, its scribe or the whole server is killed with no warning."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest
from tests.conftest import Client, children_of
from tests.scenarios.commands import is_gone
from tests.tiers import first_of
from tests.waiting import until

from bascule.monitoring.ledger import Ledger, Scribe
from bascule.monitoring.profiles import read_windows

SCRIBE = "bascule.monitoring.ledger"


class Asking:
    """Clients that send requests until `stop`, and the ids of the answered ones."""

    def __init__(self, port, body, clients=2, name=""):
        self.answered = set()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port, body, f"{name}{number}"))
            for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, port, body, number):
        for count in itertools.count():
            if self._stopping.is_set():
                return
            name = f"{number}-{count}"
            said = json.dumps({**body, "id": name}).encode()
            with suppress(OSError, AssertionError), Client(port) as client:
                if client.request("POST", "/v2/models/gb/infer", said).answer().status == 200:
                    self.answered.add(name)
            self._stopping.wait(0.002)  # the processor is the server's too

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def ids_in(home):
    """The ids in the ledger, each as often as it is there."""
    return Ledger(home).query("select id from predictions where row = 0")["id"].to_pylist()


def check_profiles(home):
    """The profiles hold the rows of the segments, each once."""
    windows = read_windows(home, "gb")
    for one in windows:
        assert {column.rows for column in one.inputs.columns.values()} <= {one.profiled_rows}
    (row,) = Ledger(home).query("select count(*) n from predictions where status = 200").to_pylist()
    assert sum(one.rows for one in windows) == row["n"]


def finish(home):
    """Take in what a killed server left, as the scribe of the next one does."""
    scribe = Scribe(home)
    while scribe.turn(everything=True):
        pass
    scribe.close()


@pytest.fixture
def recording(serve, cancer_bundle, tmp_path):
    home = tmp_path / "home"
    env = {
        "BASCULE_HOME": str(home),
        "BASCULE_MONITORING__LEDGER": "on",
        "BASCULE_MONITORING__MAX_ROWS_PER_S": "1000000",
    }
    return serve(cancer_bundle, env=env), home


@pytest.fixture
def body(cancer_bundle):
    return json.loads((cancer_bundle / "data/example.json").read_text())


def test_a_server_that_stops_in_order_loses_no_answer(recording, body):
    server, home = recording
    asking = Asking(server.port, body)
    until(lambda: len(asking.answered) > 100)
    asking.stop()
    server.end()
    found = ids_in(home)
    assert sorted(found) == sorted(asking.answered)
    finish(home)
    assert sorted(ids_in(home)) == sorted(found)
    check_profiles(home)
    assert Ledger(home).gaps() == []


def kills(count):
    return first_of((who, moments) for who in ("scribe", "worker") for moments in (2, count))


@pytest.mark.parametrize(("who", "moments"), kills(50))
def test_killed_at_random_moments_the_ledger_has_each_answer_once_or_names_it(
    recording, body, who, moments
):
    server, home = recording
    asking = Asking(server.port, body)
    choose = random.Random(1)
    for _ in range(moments):
        time.sleep(choose.uniform(0.2, 1.2))
        pids = server.worker_pids() if who == "worker" else children_of(server.process.pid, SCRIBE)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    asking.stop()
    server.end()
    finish(home)
    found = ids_in(home)
    assert len(found) == len(set(found))
    check_profiles(home)
    named = {name for gap in Ledger(home).gaps() for name in gap.ids}
    assert asking.answered - set(found) <= named
    assert not named & set(found)
    if who == "scribe":
        assert named == set()


def test_a_whole_server_that_is_killed_leaves_each_answer_once_or_its_id(recording, body):
    server, home = recording
    asking = Asking(server.port, body)
    until(lambda: len(asking.answered) > 100)
    scribes = children_of(server.process.pid, SCRIBE)
    server.end(signal.SIGKILL)
    asking.stop()
    until(lambda: all(map(is_gone, scribes)))  # by themselves
    finish(home)
    found = ids_in(home)
    named = {name for gap in Ledger(home).gaps() for name in gap.ids}
    assert len(found) == len(set(found))
    check_profiles(home)
    assert asking.answered - set(found) <= named


def test_a_home_that_cannot_be_written_is_said_and_served_on(serve, cancer_bundle, tmp_path, body):
    blocked = tmp_path / "home"
    blocked.mkdir()
    (blocked / "spool").write_text("not a folder")
    log = tmp_path / "log"
    env = {"BASCULE_HOME": str(blocked), "BASCULE_MONITORING__LEDGER": "auto"}
    with log.open("w") as errors:
        server = serve(cancer_bundle, "--workers=2", env=env, errors=errors)
    with Client(server.port) as client:
        answer = client.request("POST", "/v2/models/gb/infer", json.dumps(body).encode()).answer()
    assert answer.status == 200
    server.end()

    assert log.read_text().count("no answer is recorded") == 1
