"""Versions come and go while the server answers: nothing is lost, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.scenarios.commands import run
from tests.waiting import until

WAIT_S = 20.0
SERVICES = "/api/v1/server/services"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A registry with gb/1, gb/2 and gb/3: small, and different."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    import bascule
    from bascule.registry import open_registry

    folder = tmp_path_factory.mktemp("changes")
    registry = open_registry(folder / "home")
    X, y = load_breast_cancer(return_X_y=True)
    for trees in (5, 10, 15):
        model = GradientBoostingClassifier(n_estimators=trees, random_state=0).fit(X, y)
        made = bascule.pack(
            model,
            name="gb",
            train=X,
            test=(X[:50], y[:50]),
            to=folder / f"gb-{trees}",
            measure=False,
        )
        registry.push(made.path, by="ada")
    return folder / "home"


@pytest.fixture(scope="module")
def body(home):
    (example, *_) = sorted(home.rglob("data/example.json"))
    return example.read_bytes()


class Control:
    """The control API of a server."""

    def __init__(self, server, connect):
        self._server = server
        self._connect = connect
        until(self._answers)

    def _answers(self):
        try:
            with self._connect(self._server.control_port) as client:
                return client.request("GET", "/health").answer().status == 200
        except (OSError, AssertionError):
            return False

    def ask(self, method, path, body=b""):
        with self._connect(self._server.control_port) as client:
            client.socket.settimeout(60)
            sent = json.dumps(body).encode() if body else b""
            client.send(
                f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n"
                "Content-Type: application/json\r\n\r\n".encode()
                + sent
            )
            answer = client.answer()
            return answer.status, answer.json

    def load(self, reference, role="beside"):
        return self.ask("POST", SERVICES, {"reference": reference, "role": role})

    def unload(self, model, version):
        return self.ask("DELETE", f"{SERVICES}/{model}?version={version}")

    def served(self):
        _, services = self.ask("GET", SERVICES)
        return [f"{one['model']}/{one['version']}" for one in services["items"]]


class Load:
    """Clients on kept connections; each answer must be 200 and from a version that may answer."""

    def __init__(self, connect, port, body, clients=6, path="/v2/models/gb/infer", pause_s=0.0):
        self.statuses = Counter()
        self.versions = Counter()
        self.slowest_s = 0.0
        self.problems = []
        self._connect, self._port, self._body, self._path = connect, port, body, path
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: self.statuses[200] > 100 or self.problems)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _ask(self):
        try:
            with self._connect(self._port) as client:
                while not self._stop.is_set():
                    started_s = time.monotonic()
                    answer = client.request("POST", self._path, self._body).answer()
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
                    self.statuses[answer.status] += 1
                    if answer.status == 200:
                        self.versions[answer.json["model_version"]] += 1
                    else:
                        self.problems.append(answer.body)
                    self._stop.wait(self._pause_s)
        except (OSError, AssertionError) as problem:
            self.statuses["cut"] += 1
            self.problems.append(problem)


def counted(server, connect):
    with connect(server.port) as client:
        text = client.request("GET", "/metrics").answer().body.decode()
    found = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "bascule_requests_total":
                found[sample.labels["version"], int(sample.labels["status"])] += int(sample.value)
    return found


def infer(connect, port, body, path="/v2/models/gb/infer"):
    with connect(port) as client:
        return client.request("POST", path, body).answer()


@pytest.fixture(scope="module")
def pair(start, home):
    """A server of two workers; see `control`."""
    running = start("gb/1", "--workers=2", env={"BASCULE_HOME": str(home)})
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture
def control(pair, connect):
    """The control API of `pair`, which serves gb/1 alone when a test begins."""
    asked = Control(pair, connect)
    if asked.served() != ["gb/1"]:
        assert asked.load("gb/1", "default")[0] == 200
        for one in asked.served()[1:]:
            assert asked.unload(*one.split("/"))[0] == 200
    return asked


# -- what is asked for is done, in every worker --


def test_versions_are_loaded_swapped_and_unloaded_in_every_worker(pair, control, connect, body):
    server = pair

    def versions(path="/v2/models/gb/infer", asks=30):
        found = set()
        for _ in range(asks):  # each connection goes to either worker
            answer = infer(connect, server.port, body, path)
            found.add(answer.json.get("model_version", answer.status))
        return found

    assert versions() == {"1"}
    assert control.load("gb/2")[0] == 200
    assert versions("/v2/models/gb/versions/2/infer") == {"2"}
    assert versions() == {"1"}
    assert control.load("gb/2", "default")[0] == 200
    assert versions() == {"2"}
    assert control.load("gb/3", "swap")[0] == 200
    assert control.served() == ["gb/3", "gb/1"]
    assert versions() == {"3"}
    assert versions("/v2/models/gb/versions/2/infer") == {404}
    assert control.unload("gb", "1")[0] == 200
    assert control.unload("gb", "3")[0] == 200
    assert versions() == {404}
    assert control.load("gb/1")[0] == 200
    assert versions() == {"1"}


@pytest.mark.usefixtures("control")
def test_the_commands_do_the_same(pair, home):
    def bascule(*arguments):
        return run(home, *arguments, f"--control-port={pair.control_port}")

    assert bascule("load", "gb/2")[:2] == (0, "gb/1 (default)\ngb/2\n")
    assert bascule("load", "gb/2", "--default")[:2] == (0, "gb/2 (default)\ngb/1\n")
    assert bascule("swap", "gb/3")[:2] == (0, "gb/3 (default)\ngb/1\n")
    code, _, said = bascule("unload", "gb/3")
    assert (code, "gb/3 is the default version of gb" in said) == (4, True)
    code, _, said = bascule("load", "gb/9")
    assert (code, "Traceback" in said) == (3, False)
    assert bascule("unload", "gb/1")[:2] == (0, "gb/3 (default)\n")
    assert bascule("unload", "gb")[:2] == (0, "nothing is served\n")
    code, out, _ = bascule("load", "gb/1", "--json")
    assert (code, json.loads(out)[0]["version"]) == (0, "1")


@pytest.mark.slow
def test_what_was_loaded_later_is_held_as_well(serve, connect, home):
    """Or garbage collection could take the bundle of a version that is served."""
    from bascule.registry import open_registry

    registry = open_registry(home)

    def holders(number):
        with registry._records.read() as book:
            return len(book.holds(registry.resolve(f"gb/{number}").digest))

    server = serve("gb/1", env={"BASCULE_HOME": str(home)})
    control = Control(server, connect)
    before = holders(3)
    assert control.load("gb/3")[0] == 200
    assert holders(3) == before + 1


def test_a_command_that_finds_no_server_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "unload", "gb", "--control-port=1"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 6
    assert "no server's control API answers at 127.0.0.1:1" in " ".join(done.stderr.split())


# -- in all or in none --


def test_a_version_that_does_not_load_changes_nothing_anywhere(
    pair, control, connect, home, body, tmp_path
):
    broken = tmp_path / "broken"
    shutil.copytree(next(home.rglob("bundle.json")).parent, broken)
    for path in broken.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    broken.chmod(0o755)
    data = (broken / "data/example.json").read_bytes()
    (broken / "data/example.json").write_bytes(data[:-1] + b" ")

    with Load(connect, pair.port, body) as load:
        status, told = control.load(str(broken), "swap")
        assert (status, "data/example.json" in told["error"]) == (403, True)
        assert control.served() == ["gb/1"]
        broken.chmod(0o777)
        status, told = control.load(str(broken), "swap")
        assert (status, "other users may write to" in told["error"]) == (403, True)
        assert control.load("gb/2", "swap")[0] == 200, "it can be changed afterwards"
    assert set(load.statuses) == {200}, load.problems


@pytest.mark.slow
def test_a_worker_that_dies_comes_back_with_what_is_served_now(serve, connect, home, body):
    server = serve("gb/1", env={"BASCULE_HOME": str(home)})
    control = Control(server, connect)
    assert control.load("gb/2", "swap")[0] == 200
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: (pids := server.worker_pids()) and worker not in pids)
    assert infer(connect, server.port, body).json["model_version"] == "2"
    until(lambda: control.ask("GET", "/health")[0] == 200)
    assert control.load("gb/3", "swap")[0] == 200
    assert infer(connect, server.port, body).json["model_version"] == "3"


@pytest.mark.slow
def test_a_worker_that_dies_while_it_loads_fails_the_change_and_not_the_next(
    serve, connect, home, body
):
    server = serve("gb/1", "--workers=2", env={"BASCULE_HOME": str(home)})
    control = Control(server, connect)
    victim, other = map(psutil.Process, server.worker_pids())
    threads = other.num_threads()
    victim.suspend()  # so that it is in the middle of it for as long as it takes
    outcome = []
    asking = threading.Thread(target=lambda: outcome.append(control.load("gb/2", "swap")))
    asking.start()
    until(lambda: other.num_threads() > threads)  # the other loads
    victim.kill()
    asking.join(WAIT_S)
    ((status, told),) = outcome
    assert (status, "has ended" in told["error"]) == (503, True)
    assert control.served() == ["gb/1"]
    until(lambda: control.ask("GET", "/health")[0] == 200)
    assert infer(connect, server.port, body).json["model_version"] == "1"
    assert control.load("gb/2", "swap")[0] == 200
    assert {infer(connect, server.port, body).json["model_version"] for _ in range(20)} == {"2"}


# -- nothing is lost and nothing is left --


@pytest.mark.serial
@pytest.mark.parametrize(
    ("rounds", "workers"),
    [pytest.param(4, 2), pytest.param(250, 2, marks=pytest.mark.slow)],
)
def test_no_request_is_lost_while_versions_come_and_go(serve, connect, home, body, rounds, workers):
    server = serve("gb/1", f"--workers={workers}", env={"BASCULE_HOME": str(home)})
    control = Control(server, connect)
    with Load(connect, server.port, body, pause_s=0.002) as load:
        changes = 0
        memory_mb = []
        processes = list(map(psutil.Process, server.worker_pids()))
        for number in range(rounds):
            new = 2 + number % 2
            for change in (
                lambda new=new: control.load(f"gb/{new}", "swap"),
                lambda: control.load("gb/1"),
                lambda new=new: control.load("gb/1", "swap"),
            ):
                status, told = change()
                assert status == 200, told
                changes += 1
            memory_mb.append(sum(p.memory_info().rss for p in processes) / 1e6)
        threads = [p.num_threads() for p in processes]
        files = [p.num_fds() for p in processes]
    tally = counted(server, connect)
    slowest_ms = load.slowest_s * 1e3
    told = f"{memory_mb[2]:.0f} -> {memory_mb[-1]:.0f} MB, {threads} {files}, {slowest_ms:.0f} ms"
    print(f"{changes} changes, {load.statuses}, {told}")  # noqa: T201
    assert set(load.statuses) == {200}, load.problems[:3]
    assert set(load.versions) == {"1", "2", "3"}
    assert {version: count for (version, _), count in tally.items()} == dict(load.versions)
    assert [p.pid for p in processes] == server.worker_pids()
    assert memory_mb[-1] - memory_mb[2] < 15 * workers
    assert max(threads) <= 6
    assert max(files) <= 40


@pytest.mark.slow
def test_a_costly_call_under_way_is_answered_by_the_version_that_took_it(
    serve, connect, costly_bundle, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(costly_bundle, other)
    example = json.loads((costly_bundle / "data/example.json").read_bytes())
    (tensor,) = example["inputs"]
    rows = 4_000
    width = tensor["shape"][1]
    tensor |= {"shape": [rows, width], "data": [0.5] * (rows * width)}
    server = serve(costly_bundle)
    control = Control(server, connect)
    (worker,) = map(psutil.Process, server.worker_pids())
    with connect(server.port) as client:
        client.request("POST", "/v2/models/net/infer", example)
        until(lambda: worker.num_threads() > 1)
        # The same version from another folder: it takes the place of the one that is busy.
        assert control.load(str(other), "swap")[0] == 200
        answer = client.answer()
    assert answer.status == 200
    assert answer.json["outputs"][0]["shape"] == [rows, 2]
    assert infer(
        connect, server.port, (other / "data/example.json").read_bytes(), "/v2/models/net/infer"
    ).status == 200  # fmt: skip
