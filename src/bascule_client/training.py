"""Training runs on a server, for orchestrators: started, followed to their end, stopped.

The status of a run is a dict: `run` (its id), `state` (`running`, also while it waits; `done`,
`failed`, `cancelled`, `killed`), `error`. Of a run that is done also `version`, `wins`, `sentence`
(the verdict), `deployed`, `metrics`, `parameters`, and `digest` of the bundle, `rows` and `code`,
which are empty where a model goes on learning from outcomes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bascule_client.control import ControlClient
from bascule_client.errors import BasculeError, Conflict, ModelFailed, Unavailable

_RUNNING, _DONE = "running", "done"
_AWAY_S = 300.0
"""So long a server may be away while a run is followed: it may be restarted."""
_LONG = ("curves", "logged")
"""What a result has that is too long for the messages of orchestrators."""

Status = dict[str, Any]


class TrainingRuns:
    """Runs of pipelines on one server. One of equal inputs fits nothing, so a retry is cheap."""

    def __init__(self, client: ControlClient, *, user: str = "") -> None:
        self._client, self._user = client, user

    def start(
        self, pipeline: str, file: str = "pipeline.toml", *,
        parameters: Mapping[str, Any] | None = None, why: str = "",
    ) -> Status:  # fmt: skip
        """Submit a run; `file` is meant from the folder of the server."""
        content = {"pipeline": pipeline, "file": file, "parameters": parameters or {}, "why": why}
        job = {"kind": "train", "input": content}
        return _status(self._client.do("POST /api/v1/jobs", job, user=self._user))

    def status(self, run: str) -> Status:
        return _status(self._client.do("GET /api/v1/jobs/{job}", job=run))

    def cancel(self, run: str) -> None:
        """Stop a run; one that has ended stays as it is."""
        with suppress(Conflict):
            self._client.do("POST /api/v1/jobs/{job}/cancel", user=self._user, job=run)

    def follow(self, run: str, *, poll_s: float = 5.0) -> Status:
        """The status of a run once it is done; it is cancelled where this thread is interrupted.

        Raises:
            ModelFailed: It ended otherwise; the message says why.
            Unavailable: The server is away for five minutes.
        """
        answered_s = time.monotonic()
        try:
            while True:
                with suppress(Unavailable):
                    status, answered_s = self.status(run), time.monotonic()
                    if status["state"] == _DONE:
                        return status
                    if status["state"] != _RUNNING:
                        why = status["error"] or "no reason is recorded"
                        raise ModelFailed(f"run {run} is {status['state']}: {why}")
                if time.monotonic() - answered_s > _AWAY_S:
                    self.status(run)  # raises what was wrong
                time.sleep(poll_s)
        except BasculeError:
            raise
        except BaseException:
            with suppress(BasculeError):
                self.cancel(run)
            raise


def _status(job: Mapping[str, Any]) -> Status:
    # One whose process died is `killed` without an end until another process goes on with it.
    state = job["state"] if job["ended_at"] and job["state"] != "queued" else _RUNNING
    result = {name: value for name, value in (job["result"] or {}).items() if name not in _LONG}
    if state == _DONE:
        result = {"digest": "", "rows": {}, "code": {}, **result}
    return {**result, "run": job["id"], "state": state, "error": (job["error"] or {}).get("error")}
