"""Devices that are killed, lose power, or run out of disk: a version always serves afterwards."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tests
from tests.edge_devices import Publisher
from tests.waiting import until

from bascule.edge import Device, Home, record_golden

ROWS = np.ones((1, 4))
KILLS = 200


@pytest.fixture(scope="module")
def versions(packed):
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 4))
    labels = rows.sum(axis=1) > 0
    paths = [packed("late", LogisticRegression(C=c).fit(rows, labels), rows) for c in (0.1, 1.0)]
    for path in paths:
        record_golden(path, by="test")
    return paths


class Process:
    """`bascule-edge run` on a home."""

    def __init__(self, folder, **plan):
        plan = {"look_s": 0.0, "retry_s": 0.1, "trial_requests": 1, "trial_s": 1.0} | plan
        (folder / "plan.json").write_text(json.dumps(plan))
        command = [
            sys.executable, "-m", "tests.edge_devices", "run", "--repository", folder / "repository",
            "--channel", "stable", "--home", folder / "home", "--plan", folder / "plan.json",
            "--listen", "127.0.0.1:0", "--device", "d-1",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=Path(tests.__file__).parents[1]
        )

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
    offers = [publisher.publish(versions[0], "1")]
    process = Process(tmp_path)
    until(lambda: (state := home.read_state()) and state.current)
    process.kill()
    served = set()
    for number in range(KILLS):
        if number % 4 == 0:
            offers.append(publisher.publish(versions[1 - number // 4 % 2], str(number)))
        process = Process(tmp_path, max_starts=10_000)
        threading.Event().wait(draw.uniform(0.2, 8.0))
        process.kill()
        state = home.read_state()
        assert state.current is not None
        assert not state.refused
        assert Device(home.path).predict(ROWS)["label"].shape == (1,)
        served.add(state.current.version)
    assert len(served) >= 5
