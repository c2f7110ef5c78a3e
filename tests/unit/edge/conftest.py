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


TRAP = 12345.0
"""A value that makes the versions of `trapped` hang or fail."""


def trapped(*, hangs):
    """An ONNX model that adds 0 to its input, but to `TRAP`: there it never ends, or fails."""
    from onnx import TensorProto, helper
    from onnx.numpy_helper import from_array

    node, tensor = helper.make_node, helper.make_tensor_value_info
    constants = {
        "trap": np.float64(TRAP), "axes": np.array([0, 1]), "once": np.int64(1), "on": np.True_,
        "for_ever": np.int64(2**62), "zero": np.float64(0), "zeros": np.zeros(1),
    }  # fmt: skip
    nodes = [
        node("ReduceMax", ["input", "axes"], ["largest"], keepdims=0),
        node("Equal", ["largest", "trap"], ["is_trap"]),
    ]
    if hangs:
        flag, number = (tensor("is_on", TensorProto.BOOL, []), tensor("x", TensorProto.DOUBLE, []))
        ends = tensor("still_on", TensorProto.BOOL, []), tensor("y", TensorProto.DOUBLE, [])
        steps = [node("Identity", ["is_on"], ["still_on"]), node("Add", ["x", "x"], ["y"])]
        count = tensor("count", TensorProto.INT64, [])
        body = helper.make_graph(steps, "step", [count, flag, number], ends)
        nodes += [
            node("Where", ["is_trap", "for_ever", "once"], ["times"]),
            node("Loop", ["times", "on", "zero"], ["added"], body=body),
        ]
    else:
        nodes += [
            node("Cast", ["is_trap"], ["place"], to=TensorProto.INT64),
            node("Gather", ["zeros", "place"], ["added"]),
        ]
    nodes.append(node("Add", ["input", "added"], ["output"]))
    ends = (tensor(name, TensorProto.DOUBLE, ["rows", 4]) for name in ("input", "output"))
    graph = helper.make_graph(
        nodes, "late", *([end] for end in ends),
        [from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="session")
def trap(packed):
    """`trap(hangs=...)`: a bundle of `trapped` with recorded answers."""

    def pack(*, hangs):
        rows = np.random.default_rng(0).normal(size=(20, 4))
        path = packed("late", trapped(hangs=hangs), rows)
        lay_statements(path, device_statements(path, by="test"))
        return path

    return pack


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
        repository = FolderRepository(home, repository, home)
        self.agent = Agent(self.device, repository, "stable", **config)
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
