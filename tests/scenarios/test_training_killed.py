"""Training runs that are killed anywhere, begun twice, or on two hosts: one training, one version.

The rules:

- After a kill at any line, the next run ends as if nothing had happened: one version that can be
  loaded, judged once; what was packed is not fitted again.
- A run of a pipeline that begins while another one is under way is refused with the reason.
- Triggers that pull at once submit one run.
- The run of a control process that is killed goes on in another one. A run whose own process is
  killed fails with a reason, and goes on by `bascule jobs resume`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from tests.unit.training.test_training_runs import TOML, table
from tests.waiting import until

from bascule.app import open_catalogue, open_registry
from bascule.bundle import load
from bascule.jobs import Jobs, Task
from bascule.kinds import KINDS
from bascule.settings import load_settings
from bascule.training import CHALLENGE, REFIT

from .training_hosts import TrainingHost

FIT = """
import os, time
from sklearn.linear_model import LogisticRegression

def fit(X, y):
    with open("fits.txt", "a") as fits:
        fits.write("fitted\\n")
    while os.path.exists("wait"):
        time.sleep(0.01)
    return LogisticRegression().fit(X, y)
"""
CONTROLLER = """
import sys, threading
from pathlib import Path
from bascule.control import turning
from bascule.kinds import runner_of
from bascule.settings import load_settings
begun = threading.Event()
begun.set()
jobs = runner_of(load_settings(Path(sys.argv[1])))
with turning("jobs", jobs.run, after=begun, pause_s=1.0):
    sys.stdin.read()
"""


class Place:
    """A folder with a pipeline, and a catalogue that others may share."""

    def __init__(self, folder: Path, store: str = "sqlite") -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "train.py").write_text(FIT)
        (folder / "pipeline.toml").write_text(TOML)
        (folder / "bascule.toml").write_text(
            f'[registry]\nstore = "{store}"\nobjects = "files://{folder.parent}/objects"\n'
        )
        pq.write_table(table(120), folder / "rows.parquet")
        self.settings = load_settings(folder)
        self.jobs = Jobs(open_catalogue(self.settings))

    @property
    def fits(self) -> int:
        file = self.folder / "fits.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def check(self, count: int = 1) -> None:
        """So many versions are there, whole and judged; the champion is among them."""
        registry = open_registry(self.settings)
        versions = registry.versions("late")
        assert len(versions) == count
        for version in versions:
            load(registry.path(version))
            assert len(registry.statements(version, CHALLENGE)) == 1
        assert registry.resolve("late@champion") in versions
        done = [job for job in self.jobs.find(kind="train") if job.state == "done"]
        assert done[0].result["version"] == str(versions[-1])

    def submit(self) -> str:
        content = KINDS["train"].parse({})
        task = Task(kind="train", input=content, title="train", by="ada", folder=str(self.folder))
        return self.jobs.submit(task).id


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="module")
def host() -> Iterator[TrainingHost]:
    with closing(TrainingHost()) as host:
        yield host


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_any_line_is_done_by_the_next(host, store, kills, tmp_path):
    place = Place(tmp_path / "undisturbed", store)
    lines = host.do(place.folder, kill_at=-1)["lines"]
    place.check()
    moments = random.Random(kills)
    for number in range(kills):
        other = Place(tmp_path / str(number), _another(store, number))
        killed_at = moments.randrange(lines * number // kills, lines * (number + 1) // kills) + 1
        assert host.do(other.folder, kill_at=killed_at) == {"kind": "killed"}, killed_at
        was_packed = any(other.folder.glob(".bascule/training/*/facts.json"))
        fits = other.fits
        ended = host.do(other.folder)
        assert ended.get("wins"), (killed_at, ended)
        assert ended["was_known"] == was_packed
        assert other.fits == (fits if was_packed else fits + 1)
        other.check()
        assert [job.state for job in other.jobs.find(kind="train")].count("running") == 0


def _another(store: str, number: int) -> str:
    """A catalogue of its own."""
    if store == "sqlite":
        return store
    import psycopg

    server, _, name = store.rpartition("/")
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}_{number}"')
    return f"{server}/{name}_{number}"


@pytest.mark.slow
def test_two_runs_at_once_are_one_training(host, store, tmp_path):
    place = Place(tmp_path / "here", store)
    host.begin(place.folder)
    host.begin(place.folder)
    ends = host.wait()
    refused = [end for end in ends if end.get("kind")]
    assert all(end["kind"] == "Conflict" and "under way" in end["error"] for end in refused)
    assert place.fits == 1  # the second is refused, or knows what the first has made
    place.check()


def test_two_triggers_at_once_start_one_run(host, store, tmp_path):
    place = Place(tmp_path / "here", store)
    for _ in range(2):
        host.begin(place.folder, "trigger", on=["time"], cool_down_h=0)
    first, second = host.wait()
    (run,) = place.jobs.find(kind="train")
    assert run.id in (first["run"], second["run"])
    assert {first["run"], second["run"]} <= {run.id, ""}


@pytest.mark.slow  # the lease of a host that is gone lasts 10 s
def test_another_host_waits_for_the_lease_and_trains_the_same_version(
    host, postgresql_url, tmp_path
):
    here, there = (Place(tmp_path / name, postgresql_url) for name in ("here", "there"))
    lines = host.do(Place(tmp_path / "undisturbed").folder, kill_at=-1)["lines"]
    with closing(TrainingHost(is_own_container=True)) as other:
        assert host.do(here.folder, kill_at=lines * 2 // 3) == {"kind": "killed"}
        refused = other.do(there.folder)
        assert refused["kind"] == "Conflict"
        assert "under way" in refused["error"]
        until(lambda: "version" in other.do(there.folder), 60.0)
    there.check()


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def _controller(place: Place) -> subprocess.Popen[bytes]:
    argv: list[Any] = [sys.executable, "-c", CONTROLLER, place.folder]
    return subprocess.Popen(argv, stdin=subprocess.PIPE)


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children()]


@pytest.mark.slow  # the lease of a killed controller lasts 10 s
def test_a_killed_controller_and_a_killed_run(controllers, store, tmp_path):
    place = Place(tmp_path / "here", store)
    (place.folder / "wait").touch()
    job = place.submit()
    controllers += [_controller(place)]
    until(lambda: place.fits == 1, 600.0)  # children give way to everything else
    controllers[0].kill()
    controllers += [_controller(place)]
    until(lambda: place.fits == 2 or place.jobs.find(stored="failed"), 600.0)
    resumed = place.jobs.get(job)
    assert (resumed.state, resumed.attempt) == ("running", 2), resumed
    (child,) = _children(controllers[1])
    os.kill(child, signal.SIGKILL)
    until(lambda: place.jobs.get(job).is_ended, 600.0)
    failed = place.jobs.get(job)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["error"]
    assert not open_registry(place.settings).models()
    (place.folder / "wait").unlink()
    place.jobs.command(job, "resume")
    until(lambda: place.jobs.get(job).is_ended, 600.0)
    assert place.fits == 3
    place.check()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 12])
def test_a_run_that_is_killed_before_its_refit_goes_out_is_done_by_the_next(host, kills, tmp_path):
    def place(name: str) -> Place:
        made = Place(tmp_path / name)
        (made.folder / "pipeline.toml").write_text(TOML + "refit = true\n")
        return made

    lines = host.do(place("undisturbed").folder, kill_at=-1)["lines"]
    for number in range(kills):
        other = place(str(number))  # the second half judges, fits again and sends out
        killed_at = lines // 2 + lines * number // (2 * kills) + 1
        assert host.do(other.folder, kill_at=killed_at) == {"kind": "killed"}, killed_at
        assert host.do(other.folder).get("wins"), killed_at
        registry = open_registry(other.settings)
        judged, refit = registry.versions("late")
        assert len(registry.statements(judged, CHALLENGE)) == 1
        assert [own.body["judged"] for own in registry.statements(refit, REFIT)] == [str(judged)]
        assert registry.resolve("late@champion") == refit
        assert load(registry.path(judged)).test_data() is not None
        assert load(registry.path(refit)).test_data() is None
        kept = len(list(other.folder.glob(".bascule/training/*/facts.json")))
        assert kept == 2
        assert other.fits <= 3  # a fit that was cut off is done again
