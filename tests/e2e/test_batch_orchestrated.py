"""Airflow and Prefect run jobs on a real server, each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.own_environments import ROOT, python_of
from tests.unit.batch.conftest import flights

pytestmark = pytest.mark.slow  # building an environment takes minutes the first time

WAIT_S = 900.0

DAG = """
import os
from datetime import datetime
from airflow.sdk import dag, task
from bascule_airflow.operators import BasculeBatchOperator
from bascule_airflow.sensors import BasculeRunSensor

@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def nightly():
    job = {"model": os.environ["MODEL"], "source": os.environ["SOURCE"]}
    score = BasculeBatchOperator(
        task_id="score", sink=os.environ["SINK"] + "/deferred/", poll_s=0.2,
        options={"chunk_rows": 100}, **job,
    )
    wait = BasculeRunSensor(task_id="wait", run=score.output["run"], poke_interval=0.2)
    beside = BasculeBatchOperator(
        task_id="beside", sink=os.environ["SINK"] + "/waited/", deferrable=False, poll_s=0.2, **job
    )
    wait >> beside

dag_of_test = nightly()
"""

FLOW = """
import os
from bascule_prefect import BasculeServer, RunNotDone, score_table, wait_for_run
from prefect import flow

@flow
def nightly():
    server = BasculeServer(url=os.environ["CONTROL"])
    job = (os.environ["MODEL"], os.environ["SOURCE"])
    status = score_table(*job, os.environ["SINK"] + "/a/", server=server, poll_s=0.2)
    print("scored", status["rows"])
    print("waited", wait_for_run(status["run"], server=server)["state"])
    try:
        score_table(
            *job, os.environ["SINK"] + "/b/", server=server, poll_s=0.2,
            options={"checks": ["rows >= 1000000"]},
        )
    except RunNotDone as problem:
        print("refused", problem)

nightly()
"""


@pytest.fixture
def server(serve, table_bundle: Path, tmp_path: Path) -> dict[str, str]:
    """What a job needs to know of a server, as variables."""
    pq.write_table(flights(400), tmp_path / "in.parquet", row_group_size=100)
    started = serve(table_bundle, env={"BASCULE_HOME": str(tmp_path / "home")})
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PREFECT"))}
    return {
        **plain, "MODEL": f"{table_bundle}/", "SOURCE": str(tmp_path / "in.parquet"),
        "SINK": str(tmp_path / "scored"), "CONTROL": f"http://127.0.0.1:{started.control_port}",
    }  # fmt: skip


def installed(name: str, folder: Path) -> str:
    """A folder with the package in `integrations/NAME`, as pip installs it, and the client."""
    place = folder / "installed"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
            "--disable-pip-version-check", "--target", place, ROOT / "integrations" / name,
        ],
        check=True, capture_output=True, timeout=WAIT_S,
    )  # fmt: skip
    (place / "bascule_client").symlink_to(ROOT / "src" / "bascule_client")
    return str(place)


KILL = """
import asyncio, os
from airflow.jobs.triggerer_job_runner import _USER_ACTION_CANCEL_MSG, TriggerRunner
from bascule_airflow.hooks import BasculeHook
from bascule_airflow.triggers import BasculeRunTrigger

async def killed(how):
    hook = BasculeHook()
    job = {"model": os.environ["MODEL"], "from": os.environ["SOURCE"], "to": os.environ["SINK"]}
    run = hook.start({**job, "chunk_rows": 1, "workers": 1})["run"]
    runner = TriggerRunner()
    runner.triggers[1] = {"name": "score", "events": 0}
    trigger = BasculeRunTrigger(run, hook.bascule_conn_id, 0.05)
    task = asyncio.create_task(runner.run_trigger(1, trigger))
    await asyncio.sleep(0.3)
    task.cancel(how)
    await asyncio.wait([task])
    state = hook.status(run)["state"]
    while how and state == "running":
        await asyncio.sleep(0.1)
        state = hook.status(run)["state"]
    return state

print("shut down:", asyncio.run(killed(None)))
print("killed:", asyncio.run(killed(_USER_ACTION_CANCEL_MSG)))
"""


def airflow_of(server: dict[str, str], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The Python of Airflow, and its variables: a home with the connection to the server."""
    home = tmp_path / "airflow"
    (home / "dags").mkdir(parents=True)
    python = python_of("airflow")
    port = server["CONTROL"].rpartition(":")[2]
    environment = {
        **server, "PYTHONPATH": installed("airflow", tmp_path), "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false", "NO_PROXY": "*",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW_CONN_BASCULE_DEFAULT": f"bascule://127.0.0.1:{port}",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    return python, environment


def test_killing_a_deferred_task_of_airflow_cancels_its_run(server, tmp_path):
    """By the triggerer's own code; its restart, which hands the trigger on, cancels nothing."""
    pq.write_table(flights(20_000), tmp_path / "in.parquet", row_group_size=10)
    python, environment = airflow_of(server, tmp_path)
    done = subprocess.run(
        [python, "-c", KILL], env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert "shut down: running" in done.stdout, done.stdout[-5_000:] + done.stderr[-5_000:]
    assert "killed: cancelled" in done.stdout, done.stdout[-5_000:] + done.stderr[-5_000:]


def test_airflow_scores_a_table_by_an_operator_that_defers_and_one_that_waits(server, tmp_path):
    python, environment = airflow_of(server, tmp_path)
    home = Path(environment["AIRFLOW_HOME"])
    (home / "dags" / "nightly.py").write_text(DAG)

    def airflow(*words: str) -> str:
        done = subprocess.run(
            [python, "-m", "airflow", *words], env=environment, cwd=home, capture_output=True,
            text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
        return done.stdout + done.stderr

    airflow("db", "migrate")
    assert "bascule" in airflow("providers", "list")
    said = airflow("dags", "test", "nightly")
    assert "state=success" in said or "SUCCESS" in said, said[-5_000:]
    assert "DEFERRED" in said.upper() or "trigger" in said, said[-5_000:]
    for sink in ("deferred", "waited"):
        assert ds.dataset(str(tmp_path / "scored" / sink)).count_rows() == 400


def test_prefect_scores_a_table_and_says_why_a_run_is_not_done(server, tmp_path):
    environment = {
        **server, "PYTHONPATH": installed("prefect", tmp_path), "NO_PROXY": "*",
        "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }  # fmt: skip
    done = subprocess.run(
        [python_of("prefect"), "-c", FLOW], env=environment, cwd=tmp_path, capture_output=True,
        text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    assert "scored 400" in done.stdout
    assert "waited done" in done.stdout
    assert "refused run" in done.stdout
    assert "rows >= 1000000 is not met: it is 400" in done.stdout
    assert ds.dataset(str(tmp_path / "scored" / "a")).count_rows() == 400
