"""The connection to the control API of a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.exceptions import AirflowException
from airflow.sdk import BaseHook

from bascule_client.control import ControlClient
from bascule_client.training import TrainingRuns

RUNNING, DONE = "running", "done"


class BasculeHook(BaseHook):
    """Asks a server about batch and training runs.

    The connection has the host, the port of the control API (8082), `https` as its schema where
    the API has a certificate, and a key of `bascule keys create` as its password.
    """

    conn_name_attr = "bascule_conn_id"
    default_conn_name = "bascule_default"
    conn_type = "bascule"
    hook_name = "Bascule"

    def __init__(self, bascule_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.bascule_conn_id = bascule_conn_id
        self._client: ControlClient | None = None

    def get_conn(self) -> ControlClient:
        """The client; nothing is sent."""
        if self._client is None:
            connection = self.get_connection(self.bascule_conn_id)
            host = connection.host or "127.0.0.1"
            url = f"{connection.schema or 'http'}://{host}:{connection.port or 8082}"
            self._client = ControlClient(url, key=connection.password or "")
        return self._client

    def runs(self, *, trains: bool) -> BasculeHook | TrainingRuns:
        """What asks about training runs, or about batch runs."""
        return TrainingRuns(self.get_conn(), user="airflow") if trains else self

    def start(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Start a batch job, or go on with it: the status of its run."""
        return self.get_conn().do("POST /api/v1/batch/runs", dict(job), user="airflow")

    def status(self, run: str) -> dict[str, Any]:
        """How far a batch run is."""
        return self.get_conn().do("GET /api/v1/batch/runs/{run}", run=run)

    def cancel(self, run: str) -> None:
        """Stop a batch run after the batch under way."""
        stop = "POST /api/v1/batch/runs/{run}/cancel"
        self.get_conn().do(stop, user="airflow", run=run)

    def test_connection(self) -> tuple[bool, str]:
        """What the page of connections shows."""
        try:
            self.get_conn().do("GET /api/v1/batch/runs", limit=1)
        except Exception as problem:
            return False, str(problem)
        return True, "the server answers"


def check_done(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a run that is done; raises `AirflowException` for any other end."""
    if status["state"] != DONE:
        why = status["error"] or "it was " + status["state"]
        raise AirflowException(f"run {status['run']} is not done: {why}")
    return dict(status)
