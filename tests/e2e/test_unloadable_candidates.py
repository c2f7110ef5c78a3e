"""Candidates that servers cannot load: the rollout says why, alerts, and rolls back by itself."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.scenarios.commands import run
from tests.waiting import until

import bascule
from bascule.core import BasculeError

pytestmark = pytest.mark.slow

WAIT_S = 60.0
CANARY = ("--strategy=canary", "--guard=errors +2 pp", "--steps=50,100", "--step-for=1s")
FLAG = Path(tempfile.gettempdir(), f"bascule-test-flag-{os.getpid()}")
OWN = """
import os
import pathlib


def flagged(X):
    return X


if pathlib.Path({flag!r}).exists():
    {act}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a bundle gb; its own code does an act where the flag is set."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    folder = tmp_path_factory.mktemp("trained")
    X = np.random.default_rng(0).normal(size=(300, 4))

    @functools.cache
    def of(number, act=""):
        sys.path.insert(0, str(folder))
        try:
            steps, code = [], []
            if act:
                file = folder / f"flags{number}.py"
                file.write_text(OWN.format(flag=str(FLAG), act=act))
                steps, code = [FunctionTransformer(__import__(file.stem).flagged)], [str(file)]
            model = make_pipeline(*steps, LogisticRegression(C=1 + number)).fit(X, X[:, 0] > 0)
            packed = bascule.pack(
                model, name="gb", train=X, to=folder / str(number), code=code, measure=False,
                baseline=False,
            )  # fmt: skip
            return packed.path
        finally:
            sys.path.remove(str(folder))

    return of


@pytest.fixture
def registry(trained, tmp_path):
    from bascule.registry import open_registry

    opened = open_registry(tmp_path / "home")
    for number in (1, 2):
        opened.push(trained(number), by="ada")
    return opened


@pytest.fixture
def of_own_code(trained, registry):
    """gb/3, which raises where the flag is set, and gb/4, which exits."""
    for number, act in ((3, "raise RuntimeError('no licence')"), (4, "os._exit(9)")):
        registry.push(trained(number, act), by="ada")
    yield
    FLAG.unlink(missing_ok=True)


@pytest.fixture
def started(serve, registry, tmp_path):
    alerts = {"WATCH": "on", "EVERY_S": "1", "FOR_S": "0", "KEEP_FIRING_S": "0"}
    env = {f"BASCULE_ALERTS__{name}": value for name, value in alerts.items()}

    def start(*words, **more):
        return serve(*words, env={**env, **more, "BASCULE_HOME": str(tmp_path / "home")})

    return start


@pytest.fixture
def command(tmp_path):
    """Runs a command at home, without the control API; its JSON."""

    def call(*words, codes=(0,)):
        settings = {"BASCULE_ROLLOUTS__LOAD_TRIES": "3"}
        code, out, errors = run(tmp_path / "home", *words, "--json", **settings)
        assert code in codes, errors
        return json.loads(out)

    return call


def alerts(command):
    """The findings that fire."""
    listed = command("alerts", "list", codes=(0, 1))["alerts"]
    return [alert for alert in listed if alert["state"] == "firing"]


def place_of(server):
    return f"{socket.gethostname()}:{server.port}"


def alter(folder):
    """Change one bit of the compiled program, as a failing disk would."""
    (file,) = (folder / "programs").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for path in (folder / "programs", file):
        path.chmod(0o755)
    file.write_bytes(content)


def remove(folder):
    for path in (folder.parent, folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def set_flag(folder):
    """What makes the bundle's own code fail."""
    FLAG.touch()


BROKEN = {
    "altered": ("gb/2", alter, "is not the file that was sealed"),
    "removed": ("gb/2", remove, "are missing from"),
    "raising": ("gb/3", set_flag, "no licence"),
    "exiting": ("gb/4", set_flag, "exit code 9"),
}


@pytest.mark.usefixtures("of_own_code")
@pytest.mark.parametrize("how", BROKEN)
def test_a_candidate_that_cannot_be_loaded_says_so_and_is_rolled_back(
    how, started, command, registry
):
    version, breaks, error = BROKEN[how]
    command("deploy", "gb/1")
    rollout = command("deploy", version, *CANARY)["rollout"]["id"]
    breaks(registry.path(version))
    server = started("gb", "--workers=2")

    def status():
        return command("rollout", "status", rollout)

    trouble = until(lambda: (status()["latest"] or {}).get("trouble"), WAIT_S)
    assert trouble.startswith(f"{version} cannot be loaded on {place_of(server)}: ")
    assert error in trouble
    assert trouble.endswith("(try 1 of 3)")
    assert status()["latest"]["sentence"] == f"waits: {trouble}"
    (alert,) = until(lambda: alerts(command), WAIT_S)
    assert (alert["source"], alert["column"]) == ("rollouts", rollout)
    assert trouble in alert["sentence"]

    story = until(lambda: (now := status())["ended_at"] and now, WAIT_S)
    assert story["state"] == "aborted"
    assert f"rolled back to gb/1: {version} cannot be loaded" in story["latest"]["sentence"]
    assert command("rollout", "replay", rollout) == {"decisions": 1, "differing": []}
    until(lambda: not alerts(command), WAIT_S)
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        assert client.predict(np.zeros((1, 4))).version == "1"


@pytest.mark.usefixtures("of_own_code")
def test_one_of_two_hosts_that_cannot_load_the_candidate_ends_the_rollout(started, command):
    command("deploy", "gb/1")
    able, unable = started("gb"), started("gb", BASCULE_SERVING__MEMORY_BUDGET_MB="60")
    rollout = command("deploy", "gb/3", *CANARY)["rollout"]["id"]

    def status():
        return command("rollout", "status", rollout)

    trouble = until(lambda: (status()["latest"] or {}).get("trouble"), WAIT_S)
    assert f"cannot be loaded on {place_of(unable)}: gb/3 takes" in trouble
    assert place_of(able) not in trouble
    with bascule.Client(f"http://127.0.0.1:{able.port}", model="gb") as client:
        until(lambda: client.predict(np.zeros((1, 4))).version == "3", WAIT_S)
    with bascule.Client(f"http://127.0.0.1:{unable.port}", model="gb") as client:
        assert {client.predict(np.zeros((1, 4))).version for _ in range(20)} == {"1"}
    # The tries outlive the control process that counted them.
    os.kill(control_of(unable), signal.SIGKILL)
    story = until(lambda: (now := status())["ended_at"] and now, WAIT_S)
    assert f"cannot be loaded on {place_of(unable)}" in story["latest"]["sentence"]
    assert story["latest"]["sentence"].endswith("tried 3 times")
    assert command("rollout", "replay", rollout)["differing"] == []


def control_of(server):
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(c.pid for c in children if "bascule.processes.control" in " ".join(c.cmdline()))


@pytest.mark.parametrize("by", ["command", "alias"])
def test_a_version_deployed_at_once_that_cannot_be_loaded_is_told(by, started, command, registry):
    if by == "alias":
        registry.set_alias("gb", "champion", 1, by="ada")
        command("deploy", "gb@champion", "--follow=gb@champion")
    else:
        command("deploy", "gb/1")
    server = started("gb")
    alter(registry.path("gb/2"))
    if by == "alias":
        registry.set_alias("gb", "champion", 2, by="ada")
    else:
        command("deploy", "gb/2")
    (alert,) = until(lambda: alerts(command), WAIT_S)
    assert (alert["kind"], alert["column"]) == ("plan_not_served", "gb")
    assert f"{place_of(server)} cannot serve plan 2 of gb" in alert["sentence"]
    assert "is not the file that was sealed" in alert["sentence"]
    story = command("endpoints", "gb")["history"]
    assert alert["sentence"] in [event["sentence"] for event in story]
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        assert client.predict(np.zeros((1, 4))).version == "1"
    command("rollback", "gb", "--reason=it does not load")
    until(lambda: not alerts(command), WAIT_S)


@pytest.mark.usefixtures("of_own_code")
@pytest.mark.parametrize("how", ["removed", "altered", "raising"])
def test_a_server_starts_beside_a_candidate_that_cannot_be_loaded_any_more(
    how, started, command, registry
):
    version, breaks, error = BROKEN[how]
    command("deploy", "gb/1")
    first = started("gb")
    rollout = command("deploy", version, *CANARY)["rollout"]["id"]
    with bascule.Client(f"http://127.0.0.1:{first.port}", model="gb") as client:
        until(lambda: client.predict(np.zeros((1, 4))).version == version[-1], WAIT_S)
    breaks(registry.path(version))
    first.end()
    again = started("gb")
    with bascule.Client(f"http://127.0.0.1:{again.port}", model="gb") as client:
        assert client.predict(np.zeros((1, 4))).version == "1"
    story = until(lambda: (s := command("rollout", "status", rollout))["ended_at"] and s, WAIT_S)
    assert error in story["latest"]["sentence"]


def test_a_worker_is_replaced_beside_a_candidate_that_cannot_be_loaded_any_more(
    started, command, registry
):
    command("deploy", "gb/1")
    server = started("gb", "--workers=1")
    rollout = command("deploy", "gb/2", *CANARY)["rollout"]["id"]
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        until(lambda: client.predict(np.zeros((1, 4))).version == "2", WAIT_S)
    alter(registry.path("gb/2"))
    workers = [
        child.pid
        for child in psutil.Process(server.process.pid).children()
        if "bascule.serving.workers.worker" in " ".join(child.cmdline())
    ]
    os.kill(workers[0], signal.SIGKILL)
    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
        until(lambda: answers(client), WAIT_S)
    story = until(lambda: (s := command("rollout", "status", rollout))["ended_at"] and s, WAIT_S)
    assert "is not the file that was sealed" in story["latest"]["sentence"]


def answers(client):
    try:
        return client.predict(np.zeros((1, 4))).version == "1"
    except BasculeError:
        return False
