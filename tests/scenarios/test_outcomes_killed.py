"""Outcomes that were answered are there after any kill."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest
from tests.conftest import Client
from tests.tiers import first_of

from bascule.monitoring.ledger import Ledger, Outcomes

PATH = "/v2/models/gb/outcomes"


class Sending:
    """Clients that send outcomes until `stop`, and the ids of the answered ones."""

    def __init__(self, port, clients=3):
        self.answered = set()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(port, number), daemon=True)
            for number in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, port, number):
        for count in itertools.count():
            if self._stopping.is_set():
                return
            ids = [f"{number}-{count}-{place}" for place in range(5)]
            body = {"outcomes": [{"id": id_, "truth": count} for id_ in ids]}
            with suppress(OSError, AssertionError), Client(port) as client:
                if client.request("POST", PATH, body).answer().status == 200:
                    self.answered.update(ids)

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("kills", first_of([2, 40]))
def test_every_outcome_that_was_answered_is_there_once_after_workers_and_folds_are_killed(
    serve, cancer_bundle, tmp_path, kills
):
    home = tmp_path / "home"
    server = serve(cancer_bundle, "--workers=2", env={"BASCULE_HOME": str(home)})
    sending = Sending(server.port)
    choose = random.Random(2)
    for _ in range(kills):
        time.sleep(choose.uniform(0.2, 0.8))
        while not (pids := server.worker_pids()):  # both were killed, and start again
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.kill(choose.choice(pids), signal.SIGKILL)
        Outcomes(home).fold()
    time.sleep(0.5)
    sending.stop()
    server.end(signal.SIGKILL)
    for _ in range(2):
        found = Ledger(home).query("select id from outcome_history")["id"].to_pylist()
        assert len(sending.answered) > 0
        assert sending.answered <= set(found)
        assert len(found) == len(set(found))
        Outcomes(home).fold()
    assert list(home.glob("outcomes/gb/*.jsonl")) == []
