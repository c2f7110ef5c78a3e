"""MLflow: the run that trained a model, as its tracking server or store knows it.

`mlflow:RUN_ID@URI`; without the URI it is `MLFLOW_TRACKING_URI`, as for MLflow itself. MLflow's
telemetry is switched off before it is imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bascule.core import (
    Invalid,
    NotFound,
    Unavailable,
    library,
    masked,
    without_secrets,
)

_MAX_TEXT = 2_000
_OWN = "mlflow."
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Seven tries, each waiting twice as long as the one before, are four minutes of silence.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def trace(what: str) -> dict[str, Any]:
    """What the run recorded: parameters, last metrics, tags, datasets and its source.

    Raises:
        Invalid: No run or no tracking server is named.
        NotFound: The store or the run is not there.
        Unavailable: The server does not answer.
        MissingExtra: MLflow is not installed.
    """
    run_id, _, uri = what.partition("@")
    mlflow = open_mlflow()
    uri = uri or usual_uri()
    with asking(uri, run_id):
        client = mlflow.MlflowClient(tracking_uri=uri)
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
    tags: Mapping[str, str] = run.data.tags
    return {
        "run": run_id,
        "name": run.info.run_name,
        "experiment": experiment.name,
        "uri": without_secrets(uri),
        "status": run.info.status,
        "started": _moment(run.info.start_time),
        "ended": _moment(run.info.end_time),
        "source": {
            "name": tags.get("mlflow.source.name"),
            "commit": tags.get("mlflow.source.git.commit"),
        },
        "parameters": dict(sorted(run.data.params.items())),
        "metrics": {name: _number(value) for name, value in sorted(run.data.metrics.items())},
        "tags": {
            name: _text(value) for name, value in sorted(tags.items()) if not name.startswith(_OWN)
        },
        "datasets": [_dataset(one) for one in run.inputs.dataset_inputs],
    }


def quiet() -> None:
    """Tell MLflow, before it is imported, to send no word of its use; unless the user said so."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def open_mlflow() -> Any:
    """The library, quiet; raises `MissingExtra` with the line that installs it."""
    quiet()
    mlflow = library("mlflow", "mlflow")
    library("mlflow.exceptions", "mlflow")
    return mlflow


@contextmanager
def asking(uri: str, run_id: str) -> Iterator[None]:
    """Ask a store about a run, and say in our words what goes wrong.

    Raises:
        NotFound: The store, or the run, is not there.
        Unavailable: The server does not answer, or refuses.
    """
    _must_be_there(uri)
    mlflow = open_mlflow()
    try:
        yield
    except mlflow.exceptions.MlflowException as problem:
        raise _refusal(problem, run_id, uri) from None


def usual_uri() -> str:
    """What `MLFLOW_TRACKING_URI` says; raises `Invalid` where it says nothing."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise Invalid(
            "where does MLflow keep its runs?",
            hint="set MLFLOW_TRACKING_URI, or write mlflow:RUN@URI (--uri URI)",
            field="uri",
        )
    return uri


def _must_be_there(uri: str) -> None:
    """MLflow makes an empty store where there is none, and a question should make nothing."""
    path = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:") else None
    if path is None and uri.startswith(("file:", "/", ".")):
        path = uri.removeprefix("file://").removeprefix("file:")
    if path is not None and not Path(path).exists():
        raise NotFound(f"there is no store of MLflow at {masked(uri)}", hint="check the URI")


def _refusal(problem: Any, run_id: str, uri: str) -> Exception:
    said = without_secrets(str(problem).splitlines()[0])[:300]
    if run_id and problem.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return NotFound(
            f"MLflow at {without_secrets(uri)} has no run {run_id}", hint="check the run's id"
        )
    return Unavailable(
        f"MLflow at {without_secrets(uri)} does not answer: {said}", hint="try again later"
    )


def _dataset(used: Any) -> dict[str, Any]:
    about = used.dataset
    contexts = [tag.value for tag in used.tags if tag.key == "mlflow.data.context"]
    return {
        "name": about.name,
        "digest": about.digest,
        "context": contexts[0] if contexts else "",
        "source_type": about.source_type,
        "source": _text(without_secrets(about.source)),
    }


def _moment(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1e3, UTC).isoformat()


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _text(value: str) -> str:
    return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "..."
