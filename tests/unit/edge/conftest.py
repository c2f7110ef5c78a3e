"""Published versions, and devices that run in this process."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
from tests.edge_devices import FolderRepository, Publisher
from tests.waiting import until

from bascule.edge import Agent, Device, Plan, device_statements, lay_statements


@pytest.fixture(scope="session")
def versions(packed):
    """Two versions of one model: folders with recorded answers. Not to be changed."""
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    rows = draw.normal(size=(300, 4))
    paths = []
    for strength in (0.1, 1.0):
        labels = rows.sum(axis=1) + draw.normal(size=300) > 0
        model = LogisticRegression(C=strength).fit(rows, labels)
        path = packed("late", model, rows, (rows[:40], labels[:40]))
        lay_statements(path, device_statements(path, by="test"))
        paths.append(path)
    return paths


@pytest.fixture
def publisher(tmp_path):
    (tmp_path / "repository").mkdir()
    return Publisher(tmp_path / "repository")


@pytest.fixture
def altered(versions, tmp_path):
    """`altered(number)`: a copy of a version, to be changed."""

    def copied(number):
        return shutil.copytree(versions[number], tmp_path / f"altered-{number}")

    return copied


QUICK = Plan(look_s=2.5, retry_s=1.0, trial_requests=3, trial_s=60.0, min_requests=5)


class Run:
    """An agent whose turns the test takes; the time is the test's."""

    def __init__(self, home, repository, **config):
        self.device = Device(home)
        config = {"name": "d-1", "plan": QUICK} | config
        self.agent = Agent(self.device, FolderRepository(repository), "stable", **config)
        self.now_s = time.monotonic()
        self.agent.start()

    @property
    def state(self):
        return self.agent.state

    def turn(self, seconds=0.0):
        """One turn, and the end of the errand that it begins."""
        self.now_s += seconds
        self.agent.turn(self.now_s)
        errand = self.agent._errand
        if errand is not None:
            errand.join()

    def until(self, condition):
        def turned():
            self.turn(1.0)
            return condition()

        return until(turned)

    def serves(self, offer):
        return self.until(lambda: self.state.current == offer)

    def kill(self):
        """Forget the agent as a loss of power does."""
        self.agent.home.unlock()


@pytest.fixture
def run(tmp_path, publisher):
    """`run()`: the agent of one home; the next call is as a start after a loss of power."""
    last = []

    def start(**config):
        while last:
            last.pop().kill()
        last.append(Run(tmp_path / "home", publisher.folder, **config))
        return last[-1]

    yield start
    for started in last:
        started.kill()


@pytest.fixture(scope="session")
def settled_home(versions, tmp_path_factory):
    """The home of a device that serves the first version, and has stayed up."""
    folder = tmp_path_factory.mktemp("settled")
    (folder / "repository").mkdir()
    device = Run(folder / "home", folder / "repository")
    device.serves(Publisher(folder / "repository").publish(versions[0], "late/1"))
    device.turn(60.0)
    assert not device.state.starts
    device.kill()
    return folder / "home"


@pytest.fixture
def installed(run, publisher, versions, settled_home, tmp_path):
    """A device that serves the first version, which is what its channel names."""
    publisher.publish(versions[0], "late/1")
    shutil.copytree(settled_home, tmp_path / "home")
    device = run()
    device.turn(60.0)
    return device
