"""Keys where the processes that vouch for them are silent, or the catalogue is away."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from tests.pace import until_soon
from tests.scenarios.commands import bascule
from tests.waiting import until

pytestmark = pytest.mark.serial


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def header(home):
    words = ["keys", "create", "a", "--allow", "infer:*", "--allow", "metrics"]
    return f"Authorization: Bearer {bascule(home, *words)['token']}\r\n"


@pytest.fixture
def keyed(serve, cancer_bundle, home, header, tmp_path):
    """`keyed(...)`: a server that asks for keys; its log is in `log`."""

    def start(**settings):
        with (tmp_path / "log").open("w") as errors:
            return serve(
                cancer_bundle, "--grpc-port=0", errors=errors,
                env={"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys", **settings},
            )  # fmt: skip

    return start


def status(connect, port, path, header=""):
    with connect(port) as client:
        return client.request("GET", path, b"", header).answer().status


@pytest.mark.slow
def test_a_control_process_that_stays_silent_for_five_seconds_has_all_keys_refused(
    keyed, connect, header
):
    """The supervisor would replace it, and is stopped as well."""
    server = keyed()
    assert status(connect, server.port, "/v2/models/gb", header) == 200
    for pid in (server.process.pid, server.control_pid()):
        os.kill(pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    try:
        with connect(server.port) as kept:  # also on a connection that is open
            until(lambda: kept.request("GET", "/v2/models/gb", b"", header).answer().status == 503)
            assert 4 < time.monotonic() - stopped_s < 6.5
            answer = kept.request("GET", "/v2/models/gb", b"", header).answer()
        assert "has not confirmed that they hold" in answer.json["error"]
        assert status(connect, server.port, "/v2/models/gb", "Authorization: Bearer x\r\n") == 503
        assert status(connect, server.port, "/v2/health/live") == 200
        assert status(connect, server.port, "/v2/health/ready") == 503
    finally:
        os.kill(server.process.pid, signal.SIGCONT)  # which then replaces the other one
    until(lambda: status(connect, server.port, "/v2/models/gb", header) == 200)
    assert status(connect, server.port, "/v2/health/ready") == 200


@pytest.mark.slow
def test_keys_do_not_need_a_supervisor_that_stands_still(keyed, connect, header, home):
    server = keyed()
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        still_until_s = time.monotonic() + 6
        while time.monotonic() < still_until_s:
            assert status(connect, server.port, "/v2/models/gb", header) == 200
            time.sleep(0.1)
        bascule(home, "keys", "revoke", "a")
        until_soon(lambda: status(connect, server.port, "/v2/models/gb", header) == 401, 1.0)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@pytest.mark.slow
def test_keys_of_a_catalogue_that_is_away_hold_for_so_long_and_no_longer(
    keyed, connect, header, home, tmp_path
):
    server = keyed(BASCULE_SECURITY__KEYS_STALE_S="3")
    assert status(connect, server.port, "/v2/models/gb", header) == 200
    (home / "catalogue.db").rename(home / "away.db")
    away_s = time.monotonic()

    def age_s():
        with connect(server.port) as client:
            text = client.request("GET", "/metrics", b"", header).answer().body.decode()
        return float(text.split("\nbascule_keys_age_seconds ")[1].split("\n")[0])

    until(lambda: age_s() > 1)
    assert status(connect, server.control_port, "/metrics", header) == 200
    until(lambda: status(connect, server.port, "/v2/models/gb", header) == 503)
    assert 6 < time.monotonic() - away_s < 10
    assert status(connect, server.control_port, "/metrics", header) == 503
    log = (tmp_path / "log").read_text()
    assert re.search(r"keys were read \d s ago \(the catalogue of the keys is gone\) and ", log)
    assert "are refused" in log

    (home / "away.db").rename(home / "catalogue.db")
    until(lambda: status(connect, server.port, "/v2/models/gb", header) == 200)
    assert age_s() < 1
