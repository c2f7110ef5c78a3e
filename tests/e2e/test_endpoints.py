"""Endpoints as they are used: plans change under load, and no request is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.waiting import until

from bascule.endpoints import Arm, Endpoints, EndpointStore, Plan, PlanEvent, choose

WAIT_S = 20.0
INFER = "/v2/models/gb/infer"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Bundles gb with 5, 10 and 15 trees, and one with other inputs."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    import bascule

    folder = tmp_path_factory.mktemp("endpoints")
    X, y = load_breast_cancer(return_X_y=True)
    made = []
    for trees, columns in ((5, 30), (10, 30), (15, 30), (5, 29)):
        rows = X[:, :columns]
        model = GradientBoostingClassifier(n_estimators=trees, random_state=0).fit(rows, y)
        to = folder / f"gb-{trees}-{columns}"
        made.append(bascule.pack(model, name="gb", train=rows, to=to, measure=False).path)
    return made


@pytest.fixture
def body(trained):
    return next(trained[0].rglob("example.json")).read_bytes()


@pytest.fixture
def book(home):
    """The endpoints of the home."""
    from bascule.catalogue import Catalogue, SqliteDatabase
    from bascule.registry import open_registry

    store = EndpointStore(Catalogue(SqliteDatabase(home / "catalogue.db")))
    return Endpoints(store, lambda: open_registry(home))


def canary(number, share, candidate="gb/2", **more):
    arms = (Arm("current", "gb/1", 100.0 - share), Arm("candidate", candidate, share))
    return Plan("gb", number, arms, **more)


def apply(book, plan):
    book.apply(plan, PlanEvent("changed", datetime.now(UTC), "ada", "", f"plan {plan.number}"))


@pytest.fixture
def control(connect):
    def ask(server, method, path, body=None):
        with connect(server.control_port) as client:
            client.socket.settimeout(60)
            sent = b"" if body is None else json.dumps(body).encode()
            client.send(
                f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n"
                "Content-Type: application/json\r\n\r\n".encode()
                + sent
            )
            answer = client.answer()
            return answer.status, answer.json

    return ask


@pytest.fixture
def serves(connect, body):
    """Whether the server answers by a plan: it has these versions, and every worker does."""

    def look(server, *versions, asks=12):
        found = set()
        for _ in range(asks):  # each connection goes to either worker
            with connect(server.port) as client:
                answer = client.request("POST", INFER, body).answer()
                found.add(answer.headers.get("bascule-version", "no plan"))
        return found == set(versions)

    return look


# -- the commands --


@pytest.mark.slow
def test_a_command_holds_back_keys_of_a_running_server_and_lets_them_go(
    started, home, body, connect, command, monkeypatch
):
    monkeypatch.setenv("BASCULE_HOME", str(home))
    server = started("gb/1", "--workers=2")
    remote = f"--server=http://127.0.0.1:{server.control_port}"
    arms = (Arm("current", "gb/1", 100.0),)
    keys = [f"user{number}" for number in range(40)]

    def drawn():
        with connect(server.port) as client:
            answers = [
                client.request("POST", INFER, body, f"Bascule-Sticky: {key}\r\n").answer()
                for key in keys
            ]
        assert {answer.status for answer in answers} == {200}
        return [answer.headers.get("bascule-arm") for answer in answers]

    for share in ("25", "0"):
        code, out, said = command(remote, "endpoints", "set", "gb", "--holdback", share)
        assert code == 0, said
        assert f"{share} % of the requests are held back" in out
        plan = Plan("gb", 2, arms, holdback_percent=float(share))
        until(lambda plan=plan: drawn() == [choose(plan, key).name for key in keys])
    assert command(remote, "endpoints", "set", "gb", "--holdback", "51")[0] != 0


def test_a_version_is_deployed_rolled_back_and_listed_by_commands(
    started, home, body, connect, serves, control, command, monkeypatch
):
    monkeypatch.setenv("BASCULE_HOME", str(home))
    server = started("gb/1", "--workers=2")
    remote = f"--server=http://127.0.0.1:{server.control_port}"

    def bascule(*words, code=0):
        found, out, said = command(*words)
        assert found == code, said
        return out + said

    assert "would deploy gb/2 to gb (all)" in bascule(remote, "deploy", "gb/2", "--dry-run")
    assert serves(server, "no plan")
    assert "instead of gb/1" in bascule(remote, "deploy", "gb/2", "--reason=better", "--yes")
    until(lambda: serves(server, "gb/2"))
    assert "gb/2 stays loaded" in bascule("deploy", "gb/3", "--strategy=blue-green", "--yes")
    until(lambda: serves(server, "gb/3"))
    with connect(server.port) as client:
        answer = client.request("POST", INFER, body, "Bascule-Arm: previous\r\n").answer()
        assert (answer.status, answer.headers["bascule-version"]) == (200, "gb/2")
    bascule("rollback", "gb", "--reason=slower")
    until(lambda: serves(server, "gb/2"))
    bascule("rollback", "gb", "--reason=slower still")  # not to the plan that was left
    until(lambda: serves(server, "gb/1"))
    found = json.loads(bascule("endpoints", "gb", "--json"))
    assert [one["plan"]["number"] for one in found["plans"]] == [5, 4, 3, 2, 1]
    assert [one["kind"] for one in found["history"]] == ["rolled_back"] * 2 + ["deployed"] * 2
    assert "gb/4 has other inputs or outputs than gb/1" in bascule("deploy", "gb/4", code=1)
    assert "wild" in bascule("deploy", "gb/2", "--strategy=wild", code=2)
    assert "serves gb/1 already" in bascule("deploy", "gb/1", code=4)
    assert "gb/1 100 %" in bascule(remote, "endpoints")

    status, said = control(server, "POST", "/api/v1/server/services", {"reference": "gb/3"})
    assert (status, "'gb' is an endpoint" in said["error"]) == (409, True)
    swap = {"reference": "gb/3", "role": "swap"}
    assert control(server, "POST", "/api/v1/server/services", swap)[0] == 409
    assert control(server, "DELETE", "/api/v1/server/services/gb")[0] == 409
    assert control(server, "POST", "/v2/repository/models/gb/load")[0] == 409
    assert control(server, "POST", "/v2/repository/models/gb/unload")[0] == 409


@pytest.mark.slow
def test_a_first_deployment_to_the_catalogue_knows_what_servers_serve_who_go_on_while_it_is_away(
    started, book, home, command, monkeypatch, serves
):
    """Without the control API: servers hold the bundles that they serve."""
    monkeypatch.setenv("BASCULE_HOME", str(home))
    server = started("gb/1")

    def foreseen():
        return command("deploy", "gb/2", "--dry-run")[1]

    until(lambda: "instead of gb/1" in foreseen())
    assert command("deploy", "gb/2", "--yes")[0] == 0
    until(lambda: serves(server, "gb/2"))
    assert command("rollback", "gb", "--reason=worse")[0] == 0
    until(lambda: serves(server, "gb/1"))

    aside = home / "aside.db"
    (home / "catalogue.db").rename(aside)
    before = until(server.control_pid)
    os.kill(before, signal.SIGKILL)
    until(lambda: server.control_pid() not in (before, None))
    assert serves(server, "gb/1")
    aside.rename(home / "catalogue.db")
    book.deploy("gb/3", by="ada")
    until(lambda: serves(server, "gb/3"))


def test_python_deploys_too(home, monkeypatch, book):
    import bascule

    monkeypatch.setenv("BASCULE_HOME", str(home))
    made = bascule.deploy("gb/2", to="fast", follow="gb@champion", reason="a test")
    assert made.sentence == "deployed gb/2 to fast (all): it answers every request, by plan 1"
    (found,) = book.endpoints()
    assert (found.name, found.follows, found.current.reason) == ("fast", "gb@champion", "a test")


def test_another_name_is_an_endpoint_that_up_serves_and_a_start_begins_with_its_plan(
    serve, started, home, book, body, connect
):
    book.deploy("gb/2", by="ada", to="fast")
    server = started("fast")
    with connect(server.port) as client:
        answer = client.request("POST", "/v2/models/fast/infer", body).answer()
        assert (answer.status, answer.headers["bascule-version"]) == (200, "gb/2")
        assert (answer.json["model_name"], answer.json["model_version"]) == ("fast", "2")
        # The version beneath is no model of its own.
        assert client.request("POST", INFER, body).answer().status == 404
        told = client.request("GET", "/v2/models/fast").answer().json
        assert (told["name"], told["versions"]) == ("fast", ["2"])
        for path in ("/v1/models/fast", "/v2/models/fast/ready", "/v2/models/fast/config"):
            assert client.request("GET", path).answer().status == 200, path


# -- plans change under load --


class Load:
    """Clients over HTTP and gRPC, with and without sticky keys; each remembers what it was told."""

    def __init__(self, connect, server, body, timeline):
        self._connect, self._server, self._body = connect, server, body
        self._timeline = timeline
        self.problems: list[object] = []
        self.answers: list[tuple[str, str, int, int]] = []  # key, version, first and last plan
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(ask, key))
            for ask in (self._over_http, self._over_grpc)
            for key in ("", "", "ada", "bob", "eve")
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.answers) > 50 or self.problems)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _run(self, ask, key):
        try:
            with ask(key) as once:
                while not self._stop.is_set():
                    first = self._timeline["served"]
                    version = once()
                    self.answers.append((key, version, first, self._timeline["made"]))
        except Exception as problem:
            self.problems.append(problem)

    @contextmanager
    def _over_http(self, key):
        header = f"Bascule-Sticky: {key}\r\n" if key else ""
        with self._connect(self._server.port) as client:

            def once():
                answer = client.request("POST", INFER, self._body, header).answer()
                assert answer.status == 200, answer.body
                return answer.headers["bascule-version"]

            yield once

    @contextmanager
    def _over_grpc(self, key):
        rows = np.ones((1, 30))
        tensor = triton.InferInput("input", rows.shape, "FP64")
        tensor.set_data_from_numpy(rows)
        headers = {"bascule-sticky": key} if key else None
        with triton.InferenceServerClient(f"127.0.0.1:{self._server.grpc_port}") as client:
            yield (
                lambda: (
                    "gb/"
                    + client.infer("gb", [tensor], headers=headers).get_response().model_version
                )
            )


def change_under_load(book, server, connect, body, control, *, changes):
    """Plans of growing and falling shares, of several versions; returns the load and the plans."""
    shares = (0.0, 5.0, 25.0, 50.0, 100.0, 20.0)
    plans = {1: canary(1, 10.0)}
    timeline = {"served": 1, "made": 1}

    def served():
        return control(server, "GET", "/api/v1/server/plans")[1]

    apply_first = plans[1]
    book.deploy("gb/1", by="ada")
    plans[2] = apply_first.numbered(2)
    apply(book, plans[2])
    until(lambda: served() == {"gb": 2})
    timeline.update(served=2, made=2)
    with Load(connect, server, body, timeline) as load:
        for number in range(3, 3 + changes):
            plan = canary(number, shares[number % 6], ("gb/2", "gb/3")[number // 6 % 2])
            plans[number] = plan
            timeline["made"] = number
            apply(book, plan)
            until(lambda wanted=number: load.problems or served() == {"gb": wanted})
            timeline["served"] = number
    return load, plans


def check_nothing_was_lost(load, plans, server, connect):
    assert load.problems == []
    expected, found, variance = Counter(), Counter(), 0.0
    for key, version, first, last in load.answers:
        possible = [plans[number] for number in range(first, last + 1)]
        if key:
            assert version in {choose(plan, key).version for plan in possible}
        elif first == last:
            for arm in possible[0].arms:
                expected[arm.version] += arm.share_percent / 100
            share = possible[0].arms[1].share_percent / 100
            variance += share * (1 - share)
            found[version] += 1
    for version, count in expected.items():
        assert found[version] == pytest.approx(count, abs=5 * variance**0.5 + 1)


@pytest.mark.slow
def test_no_request_is_lost_while_plans_change(started, book, body, connect, control):
    server = started("gb/1", "--workers=2", "--grpc-port=0")
    load, plans = change_under_load(book, server, connect, body, control, changes=12)
    check_nothing_was_lost(load, plans, server, connect)
    arms = control(server, "GET", "/api/v1/endpoints/gb/arms?limit=1000")[1]["items"]
    assert sum(one["requests"] for one in arms) == len(load.answers)
    assert {one["errors"] for one in arms} == {0}


@pytest.mark.slow
def test_no_request_is_lost_in_a_thousand_changes(started, book, body, connect, control):
    server = started("gb/1", "--workers=2", "--grpc-port=0")
    load, plans = change_under_load(book, server, connect, body, control, changes=1_000)
    check_nothing_was_lost(load, plans, server, connect)


# -- what breaks --


@pytest.mark.slow
def test_a_worker_or_the_control_process_may_die_in_a_change(
    started, book, body, connect, control, serves
):
    server = started("gb/1", "--workers=2")
    book.deploy("gb/1", by="ada")
    version = "gb/1"
    for number in range(2, 8):
        version = ("gb/2", "gb/3", "gb/1")[number % 3]
        apply(book, Plan("gb", number, (Arm("current", version, 100.0),)))
        time.sleep(0.1 * (number % 3))  # before, in or after the change
        if number % 2:
            os.kill(server.worker_pids()[0], signal.SIGKILL)
        else:
            os.kill(until(server.control_pid), signal.SIGKILL)

    def is_served():
        try:
            return serves(server, version)
        except (OSError, AssertionError):
            return False  # a connection of the worker that died

    until(is_served)
    until(lambda: len(server.worker_pids()) == 2)
    assert serves(server, version)


def test_a_plan_whose_version_cannot_be_loaded_changes_nothing_and_keeps_no_other_back(
    started, book, home, serves
):
    from bascule.registry import open_registry

    book.deploy("gb/1", by="ada")
    server = started("gb")
    damaged = open_registry(home).path("gb/2") / "bundle.json"
    damaged.chmod(0o600)
    damaged.parent.chmod(0o700)
    kept = damaged.read_bytes()
    book.deploy("gb/2", by="ada")
    damaged.write_bytes(b"{}")
    time.sleep(1.5)
    assert serves(server, "gb/1")
    book.deploy("gb/3", by="ada")
    until(lambda: serves(server, "gb/3"))
    damaged.write_bytes(kept)


def test_two_servers_of_one_postgresql_follow_one_plan(
    serve, trained, tmp_path, postgresql_url, connect, serves
):
    from tests.stores import open_database, open_stores

    registry = open_stores(tmp_path, postgresql_url)
    for path in trained[:2]:
        registry.push(path, by="ada")
    book = Endpoints(EndpointStore(open_database(tmp_path, postgresql_url)), lambda: registry)
    env = {"BASCULE_HOME": str(tmp_path), "BASCULE_REGISTRY__STORE": postgresql_url}
    servers = [serve("gb/1", env=env) for _ in range(2)]
    book.deploy("gb/1", by="ada")
    until(lambda: all(serves(server, "gb/1") for server in servers))
    book.deploy("gb/2", by="ada")
    until(lambda: all(serves(server, "gb/2", asks=1) for server in servers))
