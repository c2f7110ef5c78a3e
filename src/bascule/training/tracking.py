"""A training run in MLflow: the fit happens inside a run there; what came of it is written to it.

What the code logs to MLflow, by itself or by autologging, becomes part of the run's own log. One
run of a pipeline is under way at a time in a home. So one of this home that still runs in MLflow
when the next begins was killed, and is ended.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Unavailable, canonical_json, first_line, without_secrets

if TYPE_CHECKING:
    from bascule.training.pipelines import Pipeline
    from bascule.training.run_log import RunLog

_PIPELINE, _HOME, _WRITTEN = "bascule.pipeline", "bascule.home", "bascule.written"
_NO_NAME = re.compile(r"[^\w./ :-]")
"""What names of metrics and parameters may not have there."""
_MAX_DIGEST, _MAX_BATCH, _MAX_TEXT = 36, 500, 5_000
"""Letters of a dataset's digest, entries of a request and letters of a value: MLflow's limits."""


@contextmanager
def inside_run(uri: str, pipeline: Pipeline, log: RunLog, home: Path) -> Iterator[str]:
    """Have the block run inside a new run of MLflow; then read from it what was logged there.

    Autologging and `mlflow.log_metric` write to this run, as does the command of a pipeline that
    calls `mlflow.start_run()`. A `fit` that calls it needs `nested=True`.

    Args:
        uri: Of the tracking server or store.
        pipeline: Names the experiment, unless `MLFLOW_EXPERIMENT_NAME` does.
        log: Gets parameters and metrics with their histories.
        home: Where this run works.

    Yields:
        The run's id.

    Raises:
        Unavailable: MLflow does not answer. Nothing was fitted then.
        MissingExtra: It is not installed.
    """
    from bascule.packing.lineage import open_mlflow

    mlflow = open_mlflow()
    usual = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        with _asking(uri):
            client = mlflow.MlflowClient()
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or pipeline.name
            experiment = mlflow.set_experiment(name).experiment_id
            tags = {_PIPELINE: pipeline.name, _HOME: f"{socket.gethostname()}:{home.resolve()}"}
            _end_killed(client, experiment, tags)
            run = mlflow.start_run(experiment_id=experiment, run_name=pipeline.name, tags=tags)
        run_id: str = run.info.run_id
        with run:
            yield run_id
        with _asking(uri):
            _read(client, run_id, log)
    finally:
        mlflow.set_tracking_uri(usual)


def end_autologging() -> None:
    """Have MLflow log no model that is fitted from now on: packing fits some of its own."""
    if "mlflow" in sys.modules:
        from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

        for options in AUTOLOGGING_INTEGRATIONS.values():
            options["disable"] = True


def write_to_mlflow(
    uri: str, facts: Mapping[str, Any], outcome: Mapping[str, str], files: Path
) -> None:
    """Write what is known of a run to its run in MLflow; a second time, the outcome alone.

    Args:
        uri: Of the tracking server or store.
        facts: As of `Trained`, with the `run` of `inside_run`.
        outcome: Tags: the version, the verdict.
        files: A folder, whose files become artefacts.

    Raises:
        Unavailable: MLflow does not answer.
    """
    from bascule.packing.lineage import open_mlflow

    mlflow = open_mlflow()
    run_id = facts["mlflow"]["run"]
    with _asking(uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        run = client.get_run(run_id)
        if _WRITTEN not in run.data.tags:
            _write_facts(client, run, facts)
            if any(files.iterdir()):
                client.log_artifacts(run_id, str(files))
        tags = {
            "mlflow.note.content": outcome["sentence"], _WRITTEN: "true",
            **{f"bascule.{name}": value for name, value in outcome.items()},
        }  # fmt: skip
        for name, value in tags.items():
            client.set_tag(run_id, name, value[:_MAX_TEXT])


def _write_facts(client: Any, run: Any, facts: Mapping[str, Any]) -> None:
    """Parameters, curves, rows, code. What the run has logged itself stays as it is."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    pipeline, code, rows = facts["pipeline"], facts["code"], facts["rows"]
    run_id, began_ms = run.info.run_id, run.info.start_time
    # Equal times make a point that is written twice, after a kill, one point.
    points = [
        Metric(_NO_NAME.sub("_", name), value, began_ms, int(step) if step == int(step) else place)
        for name, curve in facts["curves"].items() if name not in run.data.metrics
        for place, (step, value) in enumerate(curve) if value is not None
    ]  # fmt: skip
    for start in range(0, len(points), _MAX_BATCH):
        client.log_batch(run_id, metrics=points[start : start + _MAX_BATCH])
    parameters = [
        Param(_NO_NAME.sub("_", name), str(value)[:_MAX_TEXT])
        for name, value in pipeline["parameters"].items() if name not in run.data.params
    ]  # fmt: skip
    client.log_batch(run_id, params=parameters[:_MAX_BATCH])
    digest = rows["sha256"].removeprefix("sha256:")[:_MAX_DIGEST]
    source = canonical_json({"uri": pipeline["data"], "rows": rows}).decode()
    dataset = Dataset(pipeline["name"], digest, "bascule", source)
    client.log_inputs(
        run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    )
    client.set_tag(run_id, "mlflow.source.name", pipeline["fit"] or " ".join(pipeline["command"]))
    if "commit" in code:
        client.set_tag(run_id, "mlflow.source.git.commit", code["commit"])
    client.set_tag(run_id, "bascule.code", code["sha256"])


def _read(client: Any, run_id: str, log: RunLog) -> None:
    data = client.get_run(run_id).data
    log.parameters.update(sorted(data.params.items()))
    for name in sorted(data.metrics.keys() - log.metrics.keys()):
        history = sorted(client.get_metric_history(run_id, name), key=lambda point: point.step)
        for point in history:
            if math.isfinite(point.value):
                log.log(name, point.value, point.step)


def _end_killed(client: Any, experiment: str, tags: Mapping[str, str]) -> None:
    same = [f"tags.`{name}` = {json.dumps(value)}" for name, value in tags.items()]
    runs = " AND ".join([*same, "attributes.status = 'RUNNING'"])
    for run in client.search_runs([experiment], runs):
        client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    """Say in our words what goes wrong."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as problem:
        message = first_line(without_secrets(str(problem)))
        raise Unavailable(
            f"MLflow at {without_secrets(uri)} does not answer: {message}",
            hint="check tracking.mlflow, or leave it out",
        ) from None
