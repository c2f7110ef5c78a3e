"""Alerts of a running server: from its counters to a webhook, also over the death of a process."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request

import pytest
from tests.receivers import hook

BODY = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 30], "data": [1.0] * 30}]}
REQUESTS = 250


@pytest.fixture(scope="module")
def there():
    with hook() as made:
        yield made


@pytest.fixture(scope="module")
def server(start, cancer_bundle, there, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    alerts = {
        "LATENCY_P99_MS": "0.0001", "FOR_S": "0", "KEEP_FIRING_S": "0", "EVERY_S": "1",
        "RECEIVERS": json.dumps({"hook": {"url": "env:HOOK", "timeout_s": 1, "secret": "s3cret"}}),
    }  # fmt: skip
    env = {f"BASCULE_ALERTS__{name}": value for name, value in alerts.items()}
    made = start(cancer_bundle, env={**env, "HOOK": there.url, "BASCULE_HOME": str(home)})
    yield made
    made.end()
    made.process.stdout.close()


def control(server, path, method="GET", body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.control_port}/api/v1/{path}", method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Bascule-User": "ada"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_an_alert_fires_is_acknowledged_and_outlives_the_control_process(server, there, connect):
    with connect(server.port) as client:
        ends = time.monotonic() + 30
        while not there.requests:
            assert time.monotonic() < ends
            for _ in range(REQUESTS):
                client.request("POST", "/v2/models/gb/infer", BODY)
                assert client.answer().status == 200
    (alert,) = there.bodies[0]["alerts"]
    assert (alert["kind"], alert["model"]) == ("latency_p99", "gb")
    assert "limit 0.0001 ms" in alert["sentence"]

    noted = control(server, f"alerts/{alert['id']}/acknowledgement", "PUT", {"why": "a test"})
    assert (noted["state"], noted["acknowledged"]["by"]) == ("firing", "ada")
    assert [one["id"] for one in control(server, "alerts")["items"]] == [alert["id"]]

    before = server.control_pid()
    os.kill(before, signal.SIGKILL)
    ends = time.monotonic() + 20
    while server.control_pid() in (before, None):
        assert time.monotonic() < ends
        time.sleep(0.05)
    # The counters go on, and the successor finds the same: it says nothing new, until it is over.
    there.wait(lambda it: len(it.requests) == 2, 30)
    assert [one["kind"] for one in there.bodies] == ["firing", "resolved"]
    assert there.bodies[1]["alerts"][0]["id"] == alert["id"]
