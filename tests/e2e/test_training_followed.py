"""An orchestrator follows a run on a real server: restarted, stopped, refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.stores import free_ports
from tests.unit.training.test_training_runs import TOML, table
from tests.waiting import until

from bascule_client.control import ControlClient
from bascule_client.errors import ModelFailed, Unavailable
from bascule_client.training import TrainingRuns

pytestmark = pytest.mark.slow

FIT = """
import os, time
from sklearn.linear_model import LogisticRegression

def fit(X, y):
    with open("fits.txt", "a") as fits:
        fits.write("x")
    while os.path.exists("wait"):
        time.sleep(0.01)
    return LogisticRegression().fit(X, y)
"""
WAIT_S = 300.0


class Control:
    """A control process that is started, killed and started again at one address."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self._folder = folder
        self.runs = TrainingRuns(ControlClient(f"http://127.0.0.1:{self.port}"), user="ada")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bascule.cli", "control", f"--control-port={self.port}"],
            env={**os.environ, "BASCULE_HOME": str(self._folder / "home")}, cwd=self._folder,
        )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def begin(self, pipeline: str = "late") -> str:
        while True:
            try:
                return str(self.runs.start(pipeline)["run"])
            except Unavailable:
                assert self.process.poll() is None


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    (tmp_path / "train.py").write_text(FIT)
    (tmp_path / "pipeline.toml").write_text(TOML)
    pq.write_table(table(120), tmp_path / "rows.parquet")
    control = Control(tmp_path)
    yield control
    control.kill()


def test_a_run_is_followed_over_the_death_of_the_control_process(control, tmp_path):
    (tmp_path / "wait").touch()
    run = control.begin()
    with ThreadPoolExecutor() as pool:
        followed = pool.submit(control.runs.follow, run, poll_s=0.05)
        until((tmp_path / "fits.txt").exists, WAIT_S)
        control.kill()
        control.start()
        until(lambda: (tmp_path / "fits.txt").read_text() == "xx", WAIT_S)
        (tmp_path / "wait").unlink()
        status = followed.result(WAIT_S)
    assert (status["run"], status["state"], status["version"]) == (run, "done", "late/1")
    assert status["sentence"] == "late/1 wins: there is no champion yet"
    assert control.runs.follow(control.begin())["was_known"], "a retry fits nothing"


def test_a_run_is_cancelled_where_its_follower_is_interrupted(control, tmp_path, monkeypatch):
    (tmp_path / "wait").touch()
    run = control.begin()
    status = control.runs.status

    def interrupt(run: str) -> dict[str, Any]:
        if (tmp_path / "fits.txt").exists():
            raise KeyboardInterrupt
        return status(run)

    with monkeypatch.context() as patch:
        patch.setattr(control.runs, "status", interrupt)
        with pytest.raises(KeyboardInterrupt):
            control.runs.follow(run, poll_s=0.05)
    with pytest.raises(ModelFailed, match=f"run {run} is cancelled: cancelled by ada"):
        control.runs.follow(run, poll_s=0.05)
    control.runs.cancel(run)  # it has ended: nothing happens


def test_a_run_that_fails_ends_with_its_reason(control):
    run = control.begin("none")
    with pytest.raises(ModelFailed, match=f"run {run} is failed: .*has no pipeline 'none'"):
        control.runs.follow(run, poll_s=0.05)
