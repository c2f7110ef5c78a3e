"""Alerts of a running server: from its counters to a webhook, also over the death of a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from urllib.parse import quote

import pytest
from tests.receivers import hook
from tests.stores import free_ports, wait_for

from bascule.monitoring.alerts import shipped

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


CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: bascule
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    """`ask(path)`: what a Prometheus that scrapes the server, with the shipped rules, answers."""
    program = shutil.which("prometheus")
    assert program, "Prometheus is missing: apt-get install prometheus"
    folder, (port,) = tmp_path_factory.mktemp("prometheus"), free_ports(1)
    (folder / "rules.yml").write_text(shipped("rules.yml"))
    config = CONFIG.format(rules=folder / "rules.yml", port=server.port)
    (folder / "config.yml").write_text(config)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program, f"--config.file={folder / 'config.yml'}",
                f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ready():
        try:
            return ask("targets")["activeTargets"][0]["health"] == "up"
        except (OSError, IndexError):
            return False

    try:
        wait_for(ready, process, folder / "log")
        yield ask
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_prometheus_scrapes_a_server_and_evaluates_the_rules(server, prometheus, connect):
    with connect(server.port) as client:
        client.request("POST", "/v2/models/gb/infer", BODY)
        assert client.answer().status == 200

    def result(query):
        return prometheus(f"query?query={quote(query)}")["result"]

    def until(query):
        ends = time.monotonic() + 60
        while not (found := result(query)):
            assert time.monotonic() < ends, query
            time.sleep(0.1)
        return found

    assert [one["metric"]["model"] for one in until("bascule:requests:rate5m")] == ["gb"]
    rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    for panel in json.loads(shipped("dashboard.json"))["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$model", ".*")
            # Nothing fails here, and no endpoint has a plan.
            if any(
                part in query for part in ("status=", "status_class=", "bascule_arm", "_shadow_")
            ):
                result(query)
            else:
                until(query)


def test_an_alert_fires_is_acknowledged_and_outlives_the_control_process(server, there, connect):
    with connect(server.port) as client:
        ends = time.monotonic() + 60
        while not there.requests:
            assert time.monotonic() < ends
            for _ in range(REQUESTS):
                client.request("POST", "/v2/models/gb/infer", BODY)
                assert client.answer().status == 200
            with there.came:
                there.came.wait(0.5)
    (alert,) = there.bodies[0]["alerts"]
    assert (alert["kind"], alert["model"]) == ("latency_p99", "gb")
    assert "limit 0.0001 ms" in alert["sentence"]

    noted = control(server, f"alerts/{alert['id']}/acknowledgement", "PUT", {"why": "a test"})
    assert (noted["state"], noted["acknowledged"]["by"]) == ("firing", "ada")
    assert [one["id"] for one in control(server, "alerts")["items"]] == [alert["id"]]

    before = server.control_pid()
    os.kill(before, signal.SIGKILL)
    ends = time.monotonic() + 60
    while server.control_pid() in (before, None):
        assert time.monotonic() < ends
        time.sleep(0.05)
    # The counters go on, and the successor finds the same: it says nothing new, until it is over.
    there.wait(lambda it: len(it.requests) == 2, 60)
    assert [one["kind"] for one in there.bodies] == ["firing", "resolved"]
    assert there.bodies[1]["alerts"][0]["id"] == alert["id"]
