"""Rollouts as they are used: on real traffic, decided by evidence, whatever dies meanwhile."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from http.client import HTTPConnection

import numpy as np
import psutil
import pytest
from tests.scenarios.commands import run
from tests.waiting import until

import bascule

WAIT_S = 60.0
OWN = """
import time


def delicate(X):
    if (X[:, 0] == 4711.0).any():
        raise ValueError("4711")
    if (X[:, 29] > 1.0).any():  # of no row that it is packed with
        time.sleep(0.01)
    return X
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Bundles gb: two alike, and one with a step that takes 10 ms for `traffic`, fails at 4711."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    folder = tmp_path_factory.mktemp("rollouts")
    code = folder / "delays.py"
    code.write_text(OWN)
    X, y = load_breast_cancer(return_X_y=True)
    sys.path.insert(0, str(folder))
    try:
        import delays

        made = []
        for n, steps in enumerate(([], [], [FunctionTransformer(delays.delicate)])):
            boosted = GradientBoostingClassifier(n_estimators=5 + n, random_state=0)
            model = make_pipeline(*steps, boosted).fit(X, y)
            made.append(
                bascule.pack(
                    model, name="gb", train=X, to=folder / str(n), measure=False, baseline=False,
                    code=[str(code)] if steps else [],
                ).path
            )  # fmt: skip
        return made
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def command(home):
    """Runs a command at home beside `server`; its JSON."""

    def beside(server, *words, code=0, or_code=0):
        port = str(server.control_port)
        found, out, errors = run(home, *words, "--json", BASCULE_SERVING__CONTROL_PORT=port)
        assert found in (code, or_code or code), errors or out
        return json.loads(out)

    return beside


@contextmanager
def traffic(*servers, pause_s=0.0005):
    """Requests one after another, by a thread per server; versions and errors are counted."""
    seen: Counter[str] = Counter()
    stop = threading.Event()
    rows = np.random.default_rng(0).normal(10, 3, (1, 30))

    def ask(server):
        with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
            while not stop.is_set():
                seen[client.predict(rows).version] += 1
                time.sleep(pause_s)

    threads = [threading.Thread(target=ask, args=(one,)) for one in servers]
    for one in threads:
        one.start()
    try:
        yield seen
    finally:
        stop.set()
        for one in threads:
            one.join()


def ended(command, server, rollout, within_s=WAIT_S):
    give_up = time.monotonic() + within_s
    while (found := command(server, "rollout", "status", rollout))["ended_at"] is None:
        assert time.monotonic() < give_up, found["latest"]
        time.sleep(0.2)
    return found


def falls_silent(seen, version, within_s=WAIT_S, for_s=1.0):
    """Whether `version` stops answering within `within_s` of its end and stays silent.

    The end is recorded first, and the workers hear of it a moment later.
    """
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        before = seen[version]
        others = seen.total() - before
        time.sleep(for_s)
        assert seen.total() - seen[version] > others, "the other version answers"
        if seen[version] == before:
            return True
    return False


def begin(command, server, version, *words, step_for="1s"):
    """The id of a rollout; a server tells the catalogue what it serves soon after its start."""
    wanted = ("--strategy", "canary", "--steps", "20,50,100", "--step-for", step_for, *words)

    def begun():
        return command(server, "deploy", version, *wanted, or_code=2).get("rollout")

    return until(begun)["id"]


def test_a_good_version_is_promoted_and_its_story_can_be_made_again(started, command):
    server = started("gb/1")
    with traffic(server, pause_s=0.004) as seen:
        shares = ("--steps", "50,80,100")  # of so many the evidence is soon enough
        rollout = begin(command, server, "gb/2", "-g", "errors +10 pp", *shares)
        found = ended(command, server, rollout)
        assert found["state"] == "promoted", found["latest"]
        assert falls_silent(seen, "1"), "version 1 answers no longer"
    shares = [one["decision"]["shares"]["candidate_percent"] for one in found["story"]]
    assert shares == [50, 80, 100]
    assert set(seen) == {"1", "2"}
    assert command(server, "rollout", "replay", rollout) == {"decisions": 2, "differing": []}
    (endpoint,) = command(server, "endpoints")
    arms = endpoint["current"]["plan"]["arms"]
    assert [(one["version"], one["share_percent"]) for one in arms] == [("gb/2", 100), ("gb/1", 0)]


@pytest.mark.slow
def test_an_equal_version_is_promoted_by_the_default_guards(started, command):
    server = started("gb/1")
    with traffic(server):
        found = ended(command, server, begin(command, server, "gb/2"))
    assert found["state"] == "promoted", found["latest"]
    assert command(server, "rollout", "replay", found["rollout"]["id"])["differing"] == []


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["latency +20 %", "p50 +50 %"])
def test_a_slow_version_is_rolled_back_with_the_reason(started, command, guard):
    """All its answers take 10 ms longer, whatever the machine does meanwhile."""
    server = started("gb/1")
    with traffic(server) as seen:
        rollout = begin(command, server, "gb/3", "-g", guard)
        found = ended(command, server, rollout)
        assert found["state"] == "aborted", found["latest"]
        assert falls_silent(seen, "3"), "version 3 answers no longer"
    sentence = found["latest"]["sentence"]
    assert sentence.startswith("rolled back to gb/1: gb/3 is slower than gb/1")
    assert f"by more than {guard} allows: at p" in sentence
    assert command(server, "rollout", "replay", rollout)["differing"] == []


def test_harm_is_rolled_back_within_two_seconds(started, command):
    """From the first failed answer to the last one: evidence, decision, and plan in the worker."""
    server = started("gb/1")
    good, harmful = np.ones((1, 30)), np.full((1, 30), 4711.0)
    failed: list[float] = []
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        rollout = begin(command, server, "gb/3", "--step-for", "1h", "-g", "errors +1 pp")
        until(lambda: client.predict(good).version == "3", WAIT_S)
        give_up = time.monotonic() + WAIT_S
        while time.monotonic() < (failed[-1] + 2.0 if failed else give_up):
            try:
                client.predict(harmful)
            except bascule.BasculeError:
                failed.append(time.monotonic())
    found = command(server, "rollout", "status", rollout)
    assert found["state"] == "aborted", (len(failed), found["latest"])
    assert "of the answers of gb/3 failed" in found["latest"]["sentence"]
    assert failed[-1] - failed[0] < 2.0, f"{len(failed)} failures"


@pytest.mark.slow
def test_a_rollout_goes_on_when_its_controller_is_killed_anywhere(started, command):
    server = started("gb/1")
    with traffic(server):
        rollout = begin(command, server, "gb/2", "-g", "errors +2 pp")
        for pause_s in (0.3, 0.9, 1.7):
            time.sleep(pause_s)
            for child in psutil.Process(server.process.pid).children():
                if any(
                    "cli" in word and "control" in " ".join(child.cmdline())
                    for word in child.cmdline()
                ):
                    child.send_signal(signal.SIGKILL)
        found = ended(command, server, rollout)
    assert found["state"] == "promoted", found["latest"]
    assert [one["number"] for one in found["story"]] == [1, 2, 3]
    assert command(server, "rollout", "replay", rollout)["differing"] == []


@pytest.mark.slow
def test_two_servers_share_one_rollout(started, command, home):
    first, second = started("gb/1"), started("gb/1")
    with traffic(first, second) as seen:
        rollout = begin(command, first, "gb/2", "-g", "errors +2 pp")
        found = ended(command, first, rollout)
        assert found["state"] == "promoted", found["latest"]
    assert seen["2"] > 0
    with closing(sqlite3.connect(home / "catalogue.db")) as stored, stored:
        sources = stored.execute("SELECT source FROM rollout_counts").fetchall()
    assert len({source.rpartition("/")[0] for (source,) in sources}) == 2, "evidence of both"


def test_a_rollout_is_the_only_one_of_its_endpoint_paused_resumed_and_aborted_by_commands(
    started, command
):
    server = started("gb/1")
    with traffic(server, pause_s=0.05):
        rollout = begin(command, server, "gb/2", "-g", "errors +2 pp", step_for="1h")
        refused = command(server, "deploy", "gb/3", "--strategy", "canary", code=4)
        assert "has a rollout under way" in refused["error"]
        paused = command(server, "rollout", "pause", "gb", "--reason", "lunch")
        assert paused["state"]["type"] == "paused"
        time.sleep(1.5)  # more turns of its controller
        assert command(server, "rollout", "status", rollout)["state"] == "paused"
        command(server, "rollout", "resume", rollout)
        command(server, "rollout", "abort", rollout, "--reason", "wrong version")
    found = command(server, "rollout", "status", rollout)
    assert found["state"] == "aborted"
    assert found["latest"]["sentence"].endswith(": wrong version")
    assert "has ended" in command(server, "rollout", "resume", rollout, code=4)["error"]


@pytest.mark.slow
def test_another_plan_ends_a_rollout(started, command):
    server = started("gb/1")
    with traffic(server):
        rollout = begin(command, server, "gb/2", "-g", "errors +2 pp", step_for="1h")
        until(lambda: command(server, "rollout", "status", rollout)["story"])
        command(server, "deploy", "gb/2", "--yes")
        found = ended(command, server, rollout)
    assert found["state"] == "aborted"
    assert "was made meanwhile" in found["latest"]["sentence"]
    (endpoint,) = command(server, "endpoints")
    assert [one["version"] for one in endpoint["current"]["plan"]["arms"]] == ["gb/2"]


@contextmanager
def keyed_traffic(server, users):
    """Requests of users, each with its sticky key, over four connections, until the block ends."""
    stop = threading.Event()
    tensor = {"name": "input", "shape": [1, 30], "datatype": "FP64", "data": [10.0] * 30}
    body = json.dumps({"inputs": [tensor]})

    def ask(half):
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            while not stop.is_set():
                for user in range(half, users, 2):
                    headers = {"Bascule-Sticky": f"user {user}"}
                    connection.request("POST", "/v2/models/gb/infer", body, headers)
                    connection.getresponse().read()

    threads = [threading.Thread(target=ask, args=(n % 2,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_a_key_counts_once_in_a_step_however_many_workers_answer_it(started, command, home):
    server = started("gb/1", "--workers=2")
    with keyed_traffic(server, 400):
        rollout = begin(command, server, "gb/2", "-g", "errors +0 pp", step_for="3s")

        def latest():
            return command(server, "rollout", "status", rollout)["latest"] or {"sentence": ""}

        until(lambda: latest().get("state", {}).get("stage") == 1, within_s=WAIT_S)
        until(lambda: "sticky keys counted" in latest()["sentence"], within_s=WAIT_S)
    with closing(sqlite3.connect(home / "catalogue.db")) as stored, stored:
        found = stored.execute("SELECT content FROM rollout_intervals").fetchall()
    intervals = [json.loads(content) for (content,) in found]

    def total(name, stage):
        arms = [one.get(arm, {}) for one in intervals for arm in ("current", "candidate")
                if one["stage"] == stage]  # fmt: skip
        return sum(arm.get(name, 0) for arm in arms)

    assert total("bound", 0) == total("requests", 0) > 800
    assert 380 <= total("keys", 0) <= 400  # some share a unit
    # The fifth that was in the candidate's arm stays there, and does not count again.
    assert 270 <= total("keys", 1) <= 350
    assert not latest().get("warning")
    sql = "SELECT count(DISTINCT unit) AS units FROM predictions WHERE unit >= 0"
    _, out, _ = run(home, "ledger", "query", sql, "--json")
    assert "units" in out
