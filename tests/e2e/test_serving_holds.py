"""Garbage collection beside a running server, through the command line alone."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests.scenarios.commands import run
from tests.stores import open_stores
from tests.tiers import first_of

WAIT_S = 20.0


def bascule(*arguments: str, home: Path) -> str:
    code, out, errors = run(home, *arguments)
    assert code == 0, errors
    return out


def held(home: Path, digest: str) -> int:
    registry: Any = open_stores(home)
    with registry._records.read() as book:
        return len(book.holds(digest))


@pytest.mark.parametrize("how", first_of([signal.SIGKILL, signal.SIGTERM]))
def test_what_a_running_server_serves_is_not_collected(start, cancer_bundle, tmp_path, how):
    home = tmp_path / "home"
    registry = open_stores(home)
    version = registry.push(cancer_bundle, by="ada")
    server = start("gb/1", env={"BASCULE_HOME": str(home)})
    try:
        give_up_at = time.monotonic() + WAIT_S
        while not held(home, version.digest):
            assert time.monotonic() < give_up_at, "the server never took a hold"
            time.sleep(0.05)
        registry.retire("gb", 1, by="ada", reason="it leaks")
        assert "gave back 0 bytes" in bascule("gc", "--grace=0", home=home)
        assert registry._objects.digests()
    finally:
        workers = server.worker_pids()
        server.end(how)
        server.process.stdout.close()

    if how == signal.SIGTERM:  # it let go; one that was killed is waited for
        assert held(home, version.digest) == 0
        assert "gave back 0 bytes" not in bascule("gc", "--grace=0", home=home)
        assert registry._objects.digests() == {}
    else:
        assert held(home, version.digest) == 1
        assert "gave back 0 bytes" in bascule("gc", "--grace=0", home=home)
        for pid in workers:  # they leave when their supervisor is gone
            give_up_at = time.monotonic() + WAIT_S
            while Path(f"/proc/{pid}").exists():
                assert time.monotonic() < give_up_at
                time.sleep(0.05)


def test_a_folder_is_loaded_while_the_catalogue_is_away(serve, connect, cancer_bundle, packed):
    """It needs no hold; a version of the registry does."""
    X = np.random.default_rng(0).normal(size=(50, 3))
    model = packed("other", LinearRegression().fit(X, X[:, 0]), X)
    server = serve(cancer_bundle, env={"BASCULE_REGISTRY__STORE": "postgresql://127.0.0.1:1/none"})

    def load(reference):
        with connect(server.control_port) as client:
            client.socket.settimeout(60)
            wish = json.dumps({"reference": str(reference)}).encode()
            header = "Content-Type: application/json\r\n"
            return client.request("POST", "/api/v1/server/services", wish, header).answer()

    answer = load(model)
    assert (answer.status, [one["model"] for one in answer.json["items"]]) == (200, ["gb", "other"])
    assert load("gb/1").status == 503
