"""Two controllers share one catalogue, and one of them is killed while it runs a job."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.homes import jobs_in, runs_in
from tests.unit.batch.conftest import flights

from bascule.batch import job_of
from bascule.jobs import Schedule, Schedules

WAIT_S = 90.0
ROWS = 40_000

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


class Controllers:
    """Processes that run the schedules of one home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", CONTROLLER, str(self._folder)]
        self.started.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return self.started[-1]

    def jobs(self) -> dict[int, int]:
        """By controller, the process of the job that it runs now."""
        found = {}
        for one in self.started:
            if one.poll() is None:
                for child in psutil.Process(one.pid).children():
                    if _is_job(child):
                        found[one.pid] = child.pid
        return found


def _is_job(process: psutil.Process) -> bool:
    try:
        return "bascule.kinds.child" in process.cmdline()
    except psutil.Error:
        return False


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Controllers]:
    made = Controllers(tmp_path)
    yield made
    for one in made.started:
        one.kill()
        one.communicate()


def until(is_so: Callable[[], Any], look: Callable[[], None] = lambda: None) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        look()
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.slow  # the lease of a killed controller lasts 10 s
def test_the_other_controller_goes_on_with_the_run_of_one_that_was_killed(
    controllers, table_bundle, tmp_path
):
    pq.write_table(flights(ROWS), tmp_path / "in.parquet", row_group_size=100)
    options = {"chunk_rows": 100, "workers": 1}
    job = job_of({"model": str(table_bundle), "from": "in.parquet", "to": "scored/", **options})
    home = tmp_path / ".bascule"
    home.mkdir()
    schedules = Schedules(jobs_in(home).catalogue)
    ago = datetime.now(UTC) - timedelta(minutes=2)
    yearly = (ago + timedelta(minutes=1)).strftime("%M %H %d %m *")
    schedules.add(
        Schedule(name="n", cron=yearly, job=job.to_json(), folder=str(tmp_path), created_at=ago),
        by="ada",
    )
    both = [controllers.start(), controllers.start()]
    at_once: list[int] = []
    until(lambda: len(list((tmp_path / "scored").glob("part-*"))) > 3)
    (holder,) = controllers.jobs()
    job_pid = controllers.jobs()[holder]
    next(one for one in both if one.pid == holder).kill()
    until(lambda: not psutil.pid_exists(job_pid) or _is_zombie(job_pid))
    at_death = len(list((tmp_path / "scored").glob("part-*")))

    until(
        lambda: schedules.get("n").outcome is not None,
        lambda: at_once.append(len(controllers.jobs())),
    )

    assert at_death < ROWS // 100  # it was killed before its end
    assert max(at_once) == 1
    outcome = schedules.get("n").outcome
    assert outcome is not None
    assert outcome["rows"] == ROWS, json.dumps(outcome)
    rows = ds.dataset(str(tmp_path / "scored")).to_table().sort_by("id")
    assert rows["id"].equals(flights(ROWS)["id"])
    (run,) = runs_in(home).list()
    assert (run.state, run.by, run.rows) == ("done", "schedule n", ROWS)
    assert run.rows_before > 0


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
