"""Devices that are killed, lose power, or run out of disk: a version always serves afterwards."""

from __future__ import annotations

import itertools
import json
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from tests.edge_devices import FolderRepository, Publisher
from tests.power_loss import stop_at
from tests.waiting import until

from bascule.edge import Agent, Device, Home, Plan, device_statements, golden, lay_statements
from bascule.edge.trying import compare

ROWS = np.ones((1, 4))
BODY = b'{"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [1, 1, 1, 1]}]}'
KILLS = 200
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def versions(packed):
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 4))
    labels = rows.sum(axis=1) > 0
    paths = [packed("late", LogisticRegression(C=c).fit(rows, labels), rows) for c in (0.1, 1.0)]
    for path in paths:
        lay_statements(path, device_statements(path, by="test"))
    return paths


class Process:
    """`bascule-edge run` on a home."""

    def __init__(self, folder, **plan):
        plan = {"look_s": 0.0, "retry_s": 0.1, "trial_requests": 1, "trial_s": 1.0} | plan
        (folder / "plan.json").write_text(json.dumps(plan))
        command = [
            sys.executable, "-m", "tests.edge_devices", "run",
            "--repository", folder / "repository", "--channel", "stable",
            "--home", folder / "home", "--plan", folder / "plan.json",
            "--listen", "127.0.0.1:0", "--device", "d-1",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)

    def address(self):
        """Where it listens, once it does; it serves then."""
        return json.loads(self.process.stdout.readline())["listening"]

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def publisher(tmp_path):
    (tmp_path / "repository").mkdir()
    return Publisher(tmp_path / "repository")


@pytest.mark.slow
def test_a_device_that_is_killed_at_200_random_moments_of_updates_always_serves(
    tmp_path, publisher, versions
):
    """Each start must serve a version of the two; half of the kills are within an update."""
    draw = random.Random(0)
    home = Home(tmp_path / "home")
    offers = [publisher.publish(versions[0], "late/1")]
    started = time.monotonic()
    process = Process(tmp_path)
    until(lambda: (state := home.read_state()) and state.current)
    first_s = time.monotonic() - started
    process.kill()
    served = set()
    for number in range(KILLS):
        if number % 4 == 0:
            offers.append(publisher.publish(versions[1 - number // 4 % 2], f"late/{number}"))
        process = Process(tmp_path, max_starts=10_000)
        threading.Event().wait(draw.uniform(0.0, 3 * first_s))
        process.kill()
        state = home.read_state()
        assert state.current is not None
        assert not state.refused
        assert Device(home.path).predict(ROWS)["label"].shape == (1,)
        served.add(state.current.version)
    assert len(served) >= 5


@pytest.mark.slow
def test_a_device_whose_disk_is_full_serves_on_and_updates_when_there_is_room(
    tmp_path, publisher, versions
):
    """No file of the process or of its errands may have a byte: `RLIMIT_FSIZE`."""
    publisher.publish(versions[0], "late/1")
    process = Process(tmp_path)
    address, body = process.address(), (versions[0] / "data/example.json").read_bytes()

    def version():
        request = Request(f"http://{address}/v2/models/late/infer", body)
        with suppress(HTTPError), urlopen(request) as reply:
            return json.load(reply)["model_version"]

    until(lambda: version() == "1")
    pid, none = process.process.pid, (0, resource.RLIM_INFINITY)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, none)
    publisher.publish(versions[1], "late/2")
    until_s = time.monotonic() + 15.0
    while time.monotonic() < until_s:
        assert version() == "1"
    assert Home(tmp_path / "home").read_state().current.version == "late/1"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    until(lambda: version() == "2")
    process.kill()


def _update(home, repository, version="late/2"):
    """What an agent does from its start until a version serves; its errands in this process."""
    device = Device(home)
    plan = Plan(retry_s=0.0, trial_requests=1)
    agent = Agent(device, FolderRepository(home, repository, home), "stable", name="d-1", plan=plan)
    question = {"home": str(home), "claims": (), "keys": ()}
    children = {"golden": golden.prove, "trying": compare}
    agent._child = lambda module, what, **more: children[module](question | more)
    agent.start()
    for turn in range(200):
        agent.turn(time.monotonic() + 0.4 * turn)
        if agent._errand is not None:
            agent._errand.join()
        if agent.state.current is not None:
            device.answer(BODY)
        if agent.state.current is not None and agent.state.current.version == version:
            break
    return agent


@pytest.mark.slow
def test_a_device_that_loses_power_at_any_write_of_an_update_always_serves(
    tmp_path, publisher, versions
):
    """What was not synced is gone; see `tests.power_loss`."""
    publisher.publish(versions[0], "late/1")
    settled = tmp_path / "settled"
    agent = _first(settled, publisher.folder)
    offers = {agent.state.current, publisher.publish(versions[1], "late/2")}
    agent.home.unlock()
    home, moments = tmp_path / "home", 0
    for number in itertools.count():
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(settled, home)
        work = partial(_update, home, publisher.folder)
        if not stop_at(home, number, work, tmp_path / "scratch"):
            break
        moments += 1
        assert Home(home).read_state().current in offers
        assert Device(home).predict(ROWS)["label"].shape == (1,)
        again = _update(home, publisher.folder)
        assert again.state.current in offers
        assert not again.state.refused
        again.home.unlock()
    assert moments >= 30


def _first(home, repository):
    """The agent of a new home once its version has stayed up."""
    agent = _update(home, repository, "late/1")
    agent.turn(time.monotonic() + 1000.0)
    assert agent.state.current is not None
    assert not agent.state.starts
    return agent
