"""Batch jobs and training runs of a Bascule server in Prefect."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_run_logger, task
from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from bascule_client.control import ControlClient
from bascule_client.errors import ModelFailed
from bascule_client.training import TrainingRuns

__all__ = ["BasculeServer", "RunNotDone", "score_table", "train_pipeline", "wait_for_run"]

_RUNNING, _DONE = "running", "done"
_LOG_S = 30.0


class RunNotDone(Exception):
    """A run failed, or was cancelled or killed."""


class BasculeServer(Block):
    """The control API of a server."""

    _block_type_name = "Bascule server"

    url: str = Field(default="http://127.0.0.1:8082", description="Of the control API")
    key: SecretStr = Field(default=SecretStr(""), description="Of `bascule keys create`")

    def client(self) -> ControlClient:
        """Asks it; nothing is sent yet."""
        return ControlClient(self.url, key=self.key.get_secret_value())


@task(name="bascule-score-table")
def score_table(
    model: str, source: str, sink: str, *, server: BasculeServer, poll_s: float = 2.0,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run a batch job on a server; returns the status of its run.

    A retry goes on with the run where it was: the same job on the same rows is one run.

    Args:
        model: A reference at the server: `late@champion`.
        source: The table to score, as the server sees it.
        sink: Where scored rows go.
        server: Runs it.
        poll_s: How often the server is asked.
        options: The other fields of a job, such as `columns`, `where` or `mode`.

    Raises:
        RunNotDone: The run did not come to its end.
    """
    job = {**(options or {}), "model": model, "from": source, "to": sink}
    status = server.client().do("POST /api/v1/batch/runs", job, user="prefect")
    return _waited(server.client(), status["run"], poll_s)


@task(name="bascule-wait-for-run")
def wait_for_run(run: str, *, server: BasculeServer, poll_s: float = 2.0) -> dict[str, Any]:
    """Wait for a run that something else has started; raises as `score_table`."""
    return _waited(server.client(), run, poll_s)


@task(name="bascule-train-pipeline")
def train_pipeline(
    pipeline: str, file: str = "pipeline.toml", *, server: BasculeServer, poll_s: float = 2.0,
    parameters: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Do a training run on a server; returns its status: `version`, `wins`, `sentence`, `digest`...

    A run of equal inputs fits nothing, so a retry is cheap.

    Args:
        pipeline: The name.
        file: Of the pipeline, as the server sees it.
        server: Runs it.
        poll_s: How often the server is asked.
        parameters: Of this run, over those of the pipeline.

    Raises:
        RunNotDone: The run did not come to its end.
    """
    runs = TrainingRuns(server.client(), user="prefect")
    run = runs.start(pipeline, file, parameters=parameters, why="a flow of Prefect")["run"]
    get_run_logger().info("run %s", run)
    try:
        return runs.follow(run, poll_s=poll_s)
    except ModelFailed as problem:
        raise RunNotDone(problem.message) from None


def _waited(client: ControlClient, run: str, poll_s: float) -> dict[str, Any]:
    log, told_s = get_run_logger(), time.monotonic()
    while (status := client.do("GET /api/v1/batch/runs/{run}", run=run))["state"] == _RUNNING:
        if time.monotonic() - told_s > _LOG_S:
            told_s = time.monotonic()
            log.info("run %s: %s of %s rows", run, status["rows"], status["expected_rows"])
        time.sleep(poll_s)
    if status["state"] != _DONE:
        why = status["error"] or "it was " + status["state"]
        raise RunNotDone(f"run {status['run']} is not done: {why}")
    log.info("run %s: %s rows in %s", run, status["rows"], status["sink"])
    return dict(status)
