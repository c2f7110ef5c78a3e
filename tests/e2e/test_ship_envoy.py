"""The shares of a plan through a real Envoy, under load: canary, shadow, ejection, restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

import numpy as np
import pytest
import yaml
from tests.images import ask, until
from tests.own_environments import packages_of
from tests.own_versions import failing_versions
from tests.scenarios.commands import bascule as command
from tests.stores import free_ports

from bascule.app import open_registry
from bascule.endpoints import Arm, Plan, Shadow
from bascule.settings import load_settings
from bascule.ship import TARGETS, shipment_of, write_files

pytestmark = [pytest.mark.slow, pytest.mark.serial]


def request(*row):
    return {"inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP64", "data": row}]}


BODY, SEVEN = request(1.0, 2.0, 3.0), request(7.0, 2.0, 3.0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """`late/1`, and `late/2`, which fails on a 7."""
    folder = tmp_path_factory.mktemp("own")
    made = open_registry(load_settings(folder, {"BASCULE_HOME": str(folder / "home")}))
    for bundle in failing_versions(folder, "late"):
        made.push(bundle.path, by="tester")
    return made


@dataclass
class Served:
    """A server on a port of its own, which another can take after it."""

    reference: str
    port: int
    process: subprocess.Popen | None = None
    variables: dict = field(default_factory=dict)

    def start(self):
        (control,) = free_ports(1)
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "bascule.cli", "serve", self.reference,
                f"--port={self.port}", f"--control-port={control}",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            # Envoy's health checks name the cluster; a server of loopback alone refuses that.
            env={**os.environ, "BASCULE_SERVING__ALLOWED_HOSTS": '["*"]', **self.variables},
        )  # fmt: skip
        until(
            lambda: ask(f"http://127.0.0.1:{self.port}/v2/health/ready")[0] == 200,
            lambda: f"{self.reference} is not ready",
        )

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def serve(registry):
    """`serve(2)`: a server of `late/2`, under the name and number of the registry."""
    with ExitStack() as stack:

        def serving(number, **variables):
            (port,) = free_ports(1)
            folder = registry.path(f"late/{number}")
            one = Served(f"late/{number}={folder}", port, variables=variables)
            one.start()
            stack.callback(one.stop)
            return one

        yield serving


class Envoy:
    """A real Envoy with the files of a shipment; names of servers become addresses here."""

    def __init__(self, folder, servers):
        self.folder, self.servers = folder, servers
        self.port, self.admin = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"

    def configure(self, shipment):
        """Write the files; a running Envoy reads the new shares."""
        files = dict(TARGETS["envoy"].render(shipment))
        files["envoy.yaml"] = self._here(files["envoy.yaml"])
        write_files(files, self.folder, target="envoy")

    def _here(self, text):
        config = yaml.safe_load(text)
        config["admin"]["address"]["socket_address"]["port_value"] = self.admin
        static = config["static_resources"]
        static["listeners"][0]["address"]["socket_address"].update(
            address="127.0.0.1", port_value=self.port
        )
        for cluster in static["clusters"]:
            if "load_assignment" in cluster:
                (group,) = cluster["load_assignment"]["endpoints"]
                group["lb_endpoints"] = [
                    {"endpoint": {"address": {"socket_address": {
                        "address": "127.0.0.1", "port_value": one.port}}}}
                    for one in self.servers[cluster["name"]]
                ]  # fmt: skip
        return yaml.safe_dump(config)

    @contextmanager
    def running(self):
        program = next(one for one in packages_of("ship").rglob("envoy") if one.is_file())
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program, "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart",
                 "--log-level", "warning"],
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            ready = f"http://127.0.0.1:{self.admin}/ready"
            until(
                lambda: process.poll() is not None or ask(ready)[0] == 200,
                (self.folder / "log").read_text,
            )
            assert process.poll() is None, (self.folder / "log").read_text()
            for cluster, servers in self.servers.items():
                self.until_healthy(cluster, len(servers))
            yield self
        finally:
            process.terminate()
            process.wait(30)

    def stat(self, name):
        _, said = ask(f"http://127.0.0.1:{self.admin}/stats?filter=^{name}$&format=json")
        (value,) = [one["value"] for one in said["stats"] if "value" in one]
        return value

    def until_healthy(self, cluster, count):
        until(
            lambda: self.stat(f"cluster.{cluster}.membership_healthy") == count,
            lambda: f"Envoy does not find {cluster} healthy",
        )


@dataclass
class Load:
    """Callers that ask one request after the other; every answer is kept."""

    port: int
    body: dict = field(default_factory=lambda: BODY)
    callers: int = 4
    answers: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def _call(self):
        body = json.dumps(self.body)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.ended.is_set():
            try:
                connection.request("POST", "/v2/models/late/infer", body)
                answer = connection.getresponse()
                text = answer.read()
                if not text.startswith(b"{"):
                    raise HTTPException(f"{answer.status}: {text[:200]!r}")
                self.answers.append((answer.status, json.loads(text).get("model_version")))
            except (OSError, HTTPException) as error:
                self.lost.append(error)
                connection.close()
        connection.close()

    @contextmanager
    def running(self):
        callers = [threading.Thread(target=self._call) for _ in range(self.callers)]
        for one in callers:
            one.start()
        try:
            yield self
        finally:
            self.ended.set()
            for one in callers:
                one.join()

    def more(self, count):
        """The next answers."""
        first = len(self.answers)
        until(lambda: len(self.answers) >= first + count, lambda: f"{self.lost[:3]}")
        return self.answers[first : first + count]


def shared(percent, number, shadow=None):
    arms = (Arm("current", "late/1", 100.0 - percent), Arm("candidate", "late/2", percent))
    return Plan("late", number, arms=arms, shadow=shadow)


def test_a_canary_goes_from_5_to_100_percent_and_no_request_is_lost(registry, serve, tmp_path):
    one, two = serve(1), serve(2)
    envoy = Envoy(tmp_path, {"late--v1": [one], "late--v2": [two]})
    steps = (5.0, 25.0, 50.0, 99.0)
    envoy.configure(shipment_of(registry, "late", plan=shared(steps[0], 1)))
    load = Load(envoy.port)
    with envoy.running(), load.running():
        for number, percent in enumerate(steps, start=1):
            envoy.configure(shipment_of(registry, "late", plan=shared(percent, number)))
            until(
                lambda number=number: envoy.stat("http.late.rds.late.update_success") >= number,
                lambda: "the new shares were not read",
            )
            load.more(20)  # what was under way while the shares changed
            answers = load.more(1_000)
            share = 100 * sum(version == "2" for _, version in answers) / len(answers)
            error = 100 * np.sqrt(percent / 100 * (1 - percent / 100) / len(answers))
            assert abs(share - percent) < 5 * error, (percent, share)
        envoy.configure(shipment_of(registry, "late", plan=shared(100.0, 9)))
        load.more(200)
        until(
            lambda: {version for _, version in load.more(50)} == {"2"},
            lambda: "the old version still answers",
        )
    assert not load.lost
    assert Counter(status for status, _ in load.answers).keys() == {200}


def test_a_shadow_gets_copies_and_answers_no_client(registry, serve, tmp_path):
    one, two = serve(1), serve(2)
    envoy = Envoy(tmp_path, {"late--v1": [one], "late--v2": [two]})
    plan = Plan("late", 1, arms=(Arm("current", "late/1", 100.0),), shadow=Shadow("late/2", 100.0))
    envoy.configure(shipment_of(registry, "late", plan=plan))
    load = Load(envoy.port)
    with envoy.running(), load.running():
        load.more(500)
        load.ended.set()
    assert not load.lost
    assert set(load.answers) == {(200, "1")}
    until(lambda: predictions(two) >= 0.95 * len(load.answers), lambda: f"{predictions(two)}")
    assert predictions(two) <= len(load.answers)


def predictions(server):
    """Predictions that a server has answered, by its own counters."""
    _, text = ask(f"http://127.0.0.1:{server.port}/metrics")
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("bascule_requests_total{") and 'status="200"' in line
    )


def test_a_version_that_fails_is_ejected_and_the_current_one_answers(registry, serve, tmp_path):
    one, two = serve(1), serve(2)
    envoy = Envoy(tmp_path, {"late--v1": [one], "late--v2": [two]})
    envoy.configure(shipment_of(registry, "late", plan=shared(50.0, 1)))
    load = Load(envoy.port, SEVEN)
    with envoy.running(), load.running():
        until(
            lambda: envoy.stat("cluster.late--v2.outlier_detection.ejections_active") == 1,
            lambda: f"{Counter(load.answers)}",
        )
        load.more(20)
        assert set(load.more(500)) == {(200, "1")}
    assert not load.lost
    failed = [answer for answer in load.answers if answer[0] != 200]
    assert 5 <= len(failed) <= 5 + load.callers + 20


def test_two_servers_restart_in_turn_and_no_request_is_lost(registry, serve, tmp_path):
    servers = [serve(1), serve(1)]
    envoy = Envoy(tmp_path, {"late--v1": servers})
    plan = Plan("late", 1, arms=(Arm("current", "late/1", 100.0),))
    envoy.configure(shipment_of(registry, "late", plan=plan))
    load = Load(envoy.port)
    with envoy.running(), load.running():
        for server in servers * 2:
            load.more(200)
            server.stop()
            server.start()
            envoy.until_healthy("late--v1", 2)
    assert not load.lost
    assert set(load.answers) == {(200, "1")}


@pytest.mark.parametrize(
    ("body", "ends", "left"), [(BODY, "promoted", "2"), (SEVEN, "aborted", "1")]
)
def test_a_rollout_moves_the_shares_between_servers(body, ends, left, registry, serve, tmp_path):
    """The controller writes Envoy's routes; each server counts for the arm of its version."""
    home, folder = tmp_path / "home", tmp_path / "envoy"
    folder.mkdir()
    for number in (1, 2):
        command(home, "push", registry.path(f"late/{number}"))
    command(home, "deploy", "late/1", "--yes")
    router = {"late": {"target": "envoy", "folder": str(folder)}}
    variables = {"BASCULE_HOME": str(home), "BASCULE_SERVING__ARMS": "own"}
    one = serve(1, **variables, BASCULE_ROLLOUTS__ROUTERS=json.dumps(router))
    two = serve(2, **variables)
    envoy = Envoy(folder, {"late--v1": [one], "late--v2": [two]})
    envoy.configure(shipment_of(registry, "late", plan=shared(1.0, 1)))
    load = Load(envoy.port, body)
    with envoy.running():
        until(lambda: weights(folder) == {"late--v1": 100}, lambda: "no plan is routed")
        with load.running():
            until(lambda: len(load.answers) > 50, lambda: f"{load.lost[:3]}")
            command(
                home, "deploy", "late/2", "--yes", "--strategy", "canary", "--steps", "20,50,100",
                "--step-for", "1s", "--min-requests", "100", "--guard", "errors +1 pp",
            )  # fmt: skip
            until(lambda: rollout(home)["state"] == ends, lambda: f"{rollout(home)}", 60.0)
            until(
                lambda: {version for _, version in load.more(50)} == {left},
                lambda: "the other version still answers",
            )
    assert not load.lost
    versions = Counter(version for status, version in load.answers if status == 200)
    assert versions["1"] > 50
    if ends == "promoted":
        assert Counter(status for status, _ in load.answers).keys() == {200}
        assert versions["2"] > 300, "all steps were answered by servers of the candidate"


def weights(folder):
    routes = yaml.safe_load((folder / "routes.yaml").read_text())["resources"][0]
    (route,) = routes["virtual_hosts"][0]["routes"]
    return {
        one["name"].partition("-or-")[0]: one["weight"]
        for one in route["route"]["weighted_clusters"]["clusters"]
    }


def rollout(home):
    return command(home, "rollout", "status", "late")
