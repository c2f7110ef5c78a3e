"""A server as a new user meets it: its log, its end by `timeout`, its ports, a retired version."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tests.stores import open_stores
from tests.tiers import first_of

WAIT_S = 20.0


@pytest.fixture
def served(start, cancer_bundle, tmp_path):
    """A server of gb/1 with a log, and the log."""
    home = tmp_path / "home"
    open_stores(home).push(cancer_bundle, by="ada")
    with (tmp_path / "log").open("w") as errors:
        server = start("gb/1", env={"BASCULE_HOME": str(home)}, errors=errors)
    yield server, home, tmp_path / "log"
    if server.process.poll() is None:
        server.end()
    server.process.stdout.close()


def test_a_signal_to_the_whole_group_ends_the_server_once_and_soon(cancer_bundle, tmp_path):
    """`timeout` sends SIGTERM to the group: workers that ended were started again for 11 s."""
    with (tmp_path / "log").open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "bascule.cli", "serve", str(cancer_bundle), "--port=0",
             "--control-port=0", "--workers=2"],
            stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
        )  # fmt: skip
    with server:
        while "control API" not in server.stdout.readline():
            assert server.poll() is None
        os.killpg(server.pid, signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
    log = (tmp_path / "log").read_text()
    assert "started again" not in log
    assert "killed" not in log


def test_the_port_of_predictions_says_where_the_docs_are(served, connect):
    server, _, _ = served
    with connect(server.port) as client:
        for path in ("/docs", "/api/v1/models"):
            answer = client.request("GET", path).answer()
            assert answer.status == 404
            assert f"is on port {server.control_port}" in answer.json["error"]
        assert (
            client.request("GET", "/v2/nothing")
            .answer()
            .json["error"]
            .endswith("GET /v2 describes the server")
        )


@pytest.mark.parametrize("over", first_of(["the server", "the registry"]))
def test_retiring_a_version_that_is_served_says_who_serves_it(served, over):
    server, home, _ = served
    registry = open_stores(home)
    version = registry.resolve("gb/1")
    give_up_at = time.monotonic() + WAIT_S
    while not registry.servers_of(version):
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    url = f"http://127.0.0.1:{server.control_port}"
    remote = ["--server", url] if over == "the server" else []
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", *remote, "retire", "gb/1", "--reason", "it leaks"],
        env={**os.environ, "BASCULE_HOME": str(home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "gb/1 retired\n"
    assert re.search(rf"gb/1 is still served by \S+ {server.process.pid}, until", done.stderr)
    assert "bascule unload gb/1" in done.stderr


def test_a_version_that_no_server_has_is_retired_without_a_word(cancer_bundle, tmp_path):
    home = tmp_path / "home"
    registry = open_stores(home)
    version = registry.push(cancer_bundle, by="ada")
    registry.hold([version.digest], "push 3f9a", lasts_s=60)
    registry.hold([version.digest], "server here 1", lasts_s=-1)
    assert registry.servers_of(version) == []
