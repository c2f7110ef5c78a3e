"""Orchestrators have a real server do training runs, each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.e2e.test_batch_orchestrated import WAIT_S, airflow_of, installed
from tests.origins import ROOT, environment_of
from tests.own_environments import python_of
from tests.unit.training.test_training_runs import FIT, TOML, table

pytestmark = pytest.mark.slow  # building an environment takes minutes the first time

PIPELINE = """
import os
from kfp import compiler, dsl, local
from train_pipeline import train_pipeline

@dsl.pipeline(name="late")
def late(server: str, file: str) -> str:
    return train_pipeline(server=server, pipeline="late", file=file, poll_s=0.2).outputs["version"]

compiler.Compiler().compile(late, "late.yaml")
local.init(runner=local.SubprocessRunner(use_venv=False), raise_on_error=True)
done = train_pipeline(
    server=os.environ["CONTROL"], pipeline="late", file=os.environ["FILE"], poll_s=0.2
)
print("verdict:", done.outputs["verdict"], done.outputs["version"])
"""


DAG = """
import os
from datetime import datetime
from airflow.sdk import dag, task
from bascule_airflow.operators import BasculeTrainOperator

@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def weekly():
    run = {"pipeline": "late", "file": os.environ["FILE"], "poll_s": 0.2}
    train = BasculeTrainOperator(task_id="train", **run)
    again = BasculeTrainOperator(
        task_id="again", deferrable=False, parameters={"strength": 2.0}, **run
    )
    fails = BasculeTrainOperator(task_id="fails", deferrable=False, **{**run, "pipeline": "none"})

    @task(trigger_rule="all_done")
    def told(version, sentence):
        print("told", version, sentence)

    train >> again >> fails
    told(train.output["version"], train.output["sentence"])

dag_of_test = weekly()
"""
FLOW = """
import os
from bascule_prefect import BasculeServer, RunNotDone, train_pipeline
from prefect import flow

@flow
def weekly():
    server = BasculeServer(url=os.environ["CONTROL"])
    status = train_pipeline("late", os.environ["FILE"], server=server, poll_s=0.2)
    print("told", status["version"], status["sentence"])
    try:
        train_pipeline("none", os.environ["FILE"], server=server, poll_s=0.2)
    except RunNotDone as problem:
        print("refused", problem)

weekly()
"""
ASSETS = """
import json, os
from bascule_dagster import BasculeServer, model_asset
from dagster import DagsterInstance, asset, materialize

file = os.environ["FILE"]
late = model_asset("late", file, poll_s=0.2)
none = model_asset("none", file, poll_s=0.2)

@asset(deps=[late])
def scored() -> None: ...

resources = {"bascule": BasculeServer(url=os.environ["CONTROL"])}
for _ in range(2):
    instance = DagsterInstance.ephemeral()
    done = materialize([late, scored], resources=resources, instance=instance)
    (made,) = done.asset_materializations_for_node("late")
    told = {name: value.value for name, value in made.metadata.items()}
    print("told", json.dumps({**told, "data": made.tags["dagster/data_version"]}))
failed = materialize([none], resources=resources, raise_on_error=False)
(event,) = failed.get_step_failure_events()
print("refused", event.step_failure_data.error.message)
"""


@pytest.fixture
def server(serve, table_bundle: Path, tmp_path: Path) -> dict[str, str]:
    """What a run needs to know of a server, as variables; its pipeline is `late`."""
    (tmp_path / "train.py").write_text(FIT)
    (tmp_path / "pipeline.toml").write_text(
        TOML.replace("rows.parquet", f"{tmp_path}/rows.parquet").replace(
            "train.py:", f"{tmp_path}/train.py:"
        )
    )
    pq.write_table(table(), tmp_path / "rows.parquet")
    started = serve(table_bundle, env={"BASCULE_HOME": str(tmp_path / "home")})
    own = ("AIRFLOW", "PREFECT", "DAGSTER")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "CONTROL": f"http://127.0.0.1:{started.control_port}", "NO_PROXY": "*",
        "FILE": str(tmp_path / "pipeline.toml"), "DO_NOT_TRACK": "1",
    }  # fmt: skip


def said(python: Path, code: str, environment: dict[str, str], folder: Path) -> str:
    """What a program prints that succeeds."""
    done = subprocess.run(
        [python, "-c", code], env=environment, cwd=folder, capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    return done.stdout


def test_airflow_trains_by_an_operator_that_defers_and_one_that_waits(server, tmp_path):
    python, environment = airflow_of(server, tmp_path)
    home = Path(environment["AIRFLOW_HOME"])
    (home / "dags" / "weekly.py").write_text(DAG)

    def airflow(*words: str) -> str:
        done = subprocess.run(
            [python, "-m", "airflow", *words], env=environment, cwd=home, capture_output=True,
            text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    airflow("db", "migrate")
    output = airflow("dags", "test", "weekly")
    assert "told late/1 late/1 wins: there is no champion yet" in output, output[-9_000:]
    assert "trigger" in output, output[-5_000:]
    assert "has no pipeline 'none'" in output, output[-5_000:]


def test_prefect_trains_and_says_why_a_run_is_not_done(server, tmp_path):
    environment = {
        **server, "PYTHONPATH": installed("prefect", tmp_path),
        "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }  # fmt: skip
    printed = said(python_of("prefect"), FLOW, environment, tmp_path)
    assert "told late/1 late/1 wins: there is no champion yet" in printed
    assert "is failed:" in printed
    assert "has no pipeline 'none'" in printed


def test_dagster_materialises_a_model_whose_data_version_is_its_digest(server, tmp_path):
    (tmp_path / "dagster").mkdir()
    environment = {
        **server, "PYTHONPATH": installed("dagster", tmp_path),
        "DAGSTER_HOME": str(tmp_path / "dagster"), "DAGSTER_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    printed = said(python_of("dagster"), ASSETS, environment, tmp_path).splitlines()
    first, again = (
        json.loads(line.removeprefix("told ")) for line in printed if line.startswith("told ")
    )
    assert first["version"] == again["version"] == "late/1"
    assert first["sentence"] == "late/1 wins: there is no champion yet"
    assert first["data"] == again["data"], "a run of equal inputs gives the same data version"
    assert first["data"].startswith("sha256:")
    assert first["rows"].startswith("sha256:")
    assert any(name.startswith("metric/") for name in first)
    (refused,) = (line for line in printed if line.startswith("refused "))
    assert "is failed" in refused
    assert "has no pipeline 'none'" in refused


def test_a_component_of_kubeflow_is_compiled_and_run_by_its_local_runner(server, tmp_path):
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", ROOT / "packages/client"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path / "wheels"], check=True, cwd=tmp_path)
    environment = {
        **server, "PYTHONPATH": str(ROOT / "integrations/kfp"),
        # The runner installs what the component names.
        "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }  # fmt: skip
    python = environment_of(ROOT / "tests/environments/kfp.txt") / "bin" / "python"
    printed = said(python, PIPELINE, environment, tmp_path)
    assert "verdict: late/1 wins: there is no champion yet late/1" in printed
    assert "bascule-client" in (tmp_path / "late.yaml").read_text()
