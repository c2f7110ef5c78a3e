"""A fit happens inside a run of MLflow: what is logged there comes in, what we know goes out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.homes import finished, inline_jobs
from tests.unit.training.test_training_runs import TOML, table

from bascule.app import open_registry
from bascule.core import ModelFailed, Refused, Unavailable
from bascule.jobs import Task
from bascule.kinds.training import TRAIN
from bascule.settings import Settings, TrackingSettings
from bascule.training import Run, RunLog, prepare, read_pipeline, train
from bascule.training.tracking import inside_run

pytestmark = pytest.mark.slow  # MLflow and its autologging take ten seconds to import

FIT = """
import mlflow
from sklearn.linear_model import LogisticRegression

def fit(X, y, run, strength=1.0):
    mlflow.sklearn.autolog(log_models=False, log_datasets=False)
    for step in range(3):
        mlflow.log_metric("loss", 1 / (1 + step), step=step)
        run.log("gain@1", step / 2)
    mlflow.log_metric("nothing", float("nan"))
    (run.folder / "note.txt").write_text("kept")
    return LogisticRegression(C=strength).fit(X, y)
"""
COMMAND = """
import sys
import mlflow, pyarrow.parquet as pq

rows = pq.read_table(sys.argv[1]).to_pandas()
with mlflow.start_run():
    mlflow.log_metric("rows", len(rows))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(FIT)
    Path("pipeline.toml").write_text(TOML + "parameters = {strength = 0.5}\n")
    pq.write_table(table(), "rows.parquet")
    return tmp_path


def run_of(folder: Path, mlflow: str) -> Run:
    settings = Settings(home=folder / "home", tracking=TrackingSettings(mlflow=mlflow))
    jobs = inline_jobs(settings)
    content = TRAIN.parse({"why": "a test"})
    job = jobs.submit(Task(kind="train", input=content, by="ada", folder=str(folder)))
    finished(jobs)
    return Run.of(jobs.get(job.id))


def test_autologging_comes_in_and_the_page_of_mlflow_shows_ours(folder, mlflow_server):
    """By the tracking server whose REST API its pages read."""
    import mlflow

    run = run_of(folder, mlflow_server)

    assert run.state == "done", run.sentence
    assert run.parameters["solver"] == "lbfgs"
    assert run.parameters["strength"] == 0.5
    assert run.metrics["training_roc_auc"] > 0.8
    assert run.curves["loss"] == [[0.0, 1.0], [1.0, 0.5], [2.0, pytest.approx(1 / 3)]]
    assert "nothing" not in run.metrics
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("late")
    (theirs,) = client.search_runs([experiment.experiment_id])
    tags = theirs.data.tags
    assert theirs.info.status == "FINISHED"
    assert theirs.data.params["strength"] == "0.5"
    assert tags["bascule.version"] == run.version == "late/1"
    assert tags["mlflow.note.content"] == run.sentence == "late/1 wins: there is no champion yet"
    assert tags["bascule.why"] == "a test"
    history = client.get_metric_history(theirs.info.run_id, "gain_1")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert "note.txt" in [file.path for file in client.list_artifacts(theirs.info.run_id)]
    (dataset,) = theirs.inputs.dataset_inputs
    rows = json.loads(dataset.dataset.source)["rows"]
    assert rows["sha256"].removeprefix("sha256:").startswith(dataset.dataset.digest)

    again = run_of(folder, mlflow_server)  # known: it is neither fitted nor written twice

    assert again.version == "late/1"
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert len(client.get_metric_history(theirs.info.run_id, "gain_1")) == 3
    registry = open_registry(Settings(home=folder / "home"))
    (statement,) = registry.statements(registry.resolve("late@champion"), "provenance")
    assert statement.body["lineage"][0]["run"] == theirs.info.run_id


def test_a_run_that_was_killed_is_ended_by_the_next_of_its_home_alone(folder, mlflow_server):
    import mlflow

    client = mlflow.MlflowClient(mlflow_server)
    pipeline = read_pipeline(Path("pipeline.toml"))
    log, home = RunLog(folder / "files"), folder / "home"
    killed = []
    for place in (home, folder / "other"):
        with inside_run(mlflow_server, pipeline, log, place) as run_id:
            killed.append(run_id)
        client.update_run(run_id, status="RUNNING")
    with inside_run(mlflow_server, pipeline, log, home) as run_id:
        assert client.get_run(run_id).info.status == "RUNNING"
    states = [client.get_run(own).info.status for own in (*killed, run_id)]
    assert states == ["KILLED", "RUNNING", "FINISHED"]


def test_a_command_logs_to_the_same_run(folder, mlflow_server):
    import mlflow

    Path("fit.py").write_text(COMMAND + "raise SystemExit('no model')\n")
    text = TOML.replace('fit = "train.py:fit"', "")
    text += f'command = ["{sys.executable}", "fit.py", "{{train}}"]\nmodel_file = "model.skops"\n'
    Path("command.toml").write_text(text)
    pipeline = read_pipeline(Path("command.toml"))

    with pytest.raises(ModelFailed, match="the command of late failed"):
        train(prepare(pipeline), folder / "work", mlflow=mlflow_server)
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("late")
    newest = client.search_runs([experiment.experiment_id], max_results=1)[0]
    assert newest.info.status == "FAILED"
    assert newest.data.metrics == {"rows": 250.0}


def test_nothing_is_fitted_where_mlflow_is_away(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    prepared = prepare(read_pipeline(Path("pipeline.toml")))
    with pytest.raises(Unavailable, match=r"MLflow at http://127\.0\.0\.1:1 does not"):
        train(prepared, folder / "work", mlflow="http://ada:s3cret@127.0.0.1:1")
    assert not list((folder / "work").glob("*/facts.json"))


def test_callers_of_a_server_name_no_tracking_server_that_it_does_not_allow(folder):
    content = {"file": "pipeline.toml", "mlflow": "http://169.254.169.254"}
    with pytest.raises(Refused, match="mlflow"):
        TRAIN.confine(content, [str(folder)], str(folder))
    TRAIN.confine(content, [str(folder), "http://169.254.169.254"], str(folder))
