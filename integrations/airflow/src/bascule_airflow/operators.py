"""Scores a table, or trains a model, on a server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator

from bascule_airflow.hooks import RUNNING, BasculeHook, check_done
from bascule_airflow.triggers import BasculeRunTrigger


class _RunOperator(BaseOperator):
    """Starts a run, and returns its status once it is done.

    Args:
        bascule_conn_id: The connection; see `BasculeHook`.
        deferrable: Whether the worker is given back meanwhile.
        poll_s: How often the server is asked.
    """

    trains = False

    def __init__(
        self, *, bascule_conn_id: str = BasculeHook.default_conn_name, deferrable: bool = True,
        poll_s: float = 5.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        # Each field of the status is an XCom of its own, such as `output["run"]`.
        super().__init__(**{"multiple_outputs": True, **kwargs})
        self.bascule_conn_id = bascule_conn_id
        self.deferrable, self.poll_s = deferrable, poll_s
        self._run: str | None = None

    def start(self, hook: BasculeHook) -> dict[str, Any]:
        """The status of the run that has begun."""
        raise NotImplementedError

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002 -- Airflow's interface
        """Start the run, and wait for its end."""
        hook = BasculeHook(self.bascule_conn_id)
        status = self.start(hook)
        self._run = run = status["run"]
        self.log.info("run %s: %s", run, status["state"])
        if status["state"] == RUNNING and self.deferrable:
            trigger = BasculeRunTrigger(run, self.bascule_conn_id, self.poll_s, trains=self.trains)
            self.defer(trigger=trigger, method_name="finished")
        while status["state"] == RUNNING:
            time.sleep(self.poll_s)
            status = hook.runs(trains=self.trains).status(run)
        return check_done(status)

    def finished(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What the trigger found."""
        return check_done(event)

    def on_kill(self) -> None:
        """Stop the run too; what it has committed stays."""
        if self._run is not None:
            BasculeHook(self.bascule_conn_id).runs(trains=self.trains).cancel(self._run)


class BasculeBatchOperator(_RunOperator):
    """Runs a batch job on a server, and returns the status of its run.

    A retry goes on with the run where it was: the same job on the same rows is one run.

    Args:
        model: A reference at the server: `late@champion`.
        source: The table to score, as the server sees it.
        sink: Where scored rows go.
        options: The other fields of a job, such as `columns`, `where` or `mode`.
        kwargs: `bascule_conn_id`, `deferrable`, `poll_s`, and those of every operator.
    """

    template_fields: Sequence[str] = ("model", "source", "sink", "options")

    def __init__(
        self, *, model: str, source: str, sink: str, options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.model, self.source, self.sink = model, source, sink
        self.options = dict(options or {})

    def start(self, hook: BasculeHook) -> dict[str, Any]:
        """Start the job, or go on with it."""
        job = {**self.options, "model": self.model, "from": self.source, "to": self.sink}
        return hook.start(job)


class BasculeTrainOperator(_RunOperator):
    """Has a server train a model, and returns the status of its run: `version`, `wins`, `digest`...

    A run of equal inputs fits nothing, so a retry is cheap.

    Args:
        pipeline: The name.
        file: Of the pipeline, as the server sees it.
        parameters: Of the run, over those of the pipeline.
        kwargs: See `BasculeBatchOperator`.
    """

    trains = True
    template_fields: Sequence[str] = ("pipeline", "file", "parameters")

    def __init__(
        self, *, pipeline: str, file: str = "pipeline.toml",
        parameters: Mapping[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.pipeline, self.file, self.parameters = pipeline, file, dict(parameters or {})

    def start(self, hook: BasculeHook) -> dict[str, Any]:
        """Submit the run."""
        runs, why = hook.runs(trains=True), f"task {self.task_id} of Airflow"
        return runs.start(self.pipeline, self.file, parameters=self.parameters, why=why)
