"""Fits a pipeline in a worker of a Ray cluster, which must have the same packages.

The worker is trusted as this process is: what it sends back is a pickle, as all that Ray moves.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.batch import connected_to_ray
from bascule.core import (
    BasculeError,
    Scratch,
    Unavailable,
    error_from_json,
    error_to_json,
    first_line,
)
from bascule.training.pipelines import named_code
from bascule.training.run_log import RunLog

if TYPE_CHECKING:
    from bascule.training.pipelines import Pipeline
    from bascule.training.rows import Rows

Fitted = Callable[..., Any]
"""`training.fitted`: of a pipeline, its code, its rows, a log and a folder, the model."""


def fitted_on_ray(
    fitted: Fitted, pipeline: Pipeline, code: Mapping[str, bytes], rows: Rows, log: RunLog,
    variables: Mapping[str, str],
) -> Any:  # fmt: skip
    """The model that the code of a pipeline makes of the older rows; again where a worker dies.

    Args:
        fitted: Calls the code, there.
        pipeline: It says on which cluster.
        code: The modules beside that of `fit`, and it, by their paths.
        rows: Of the pipeline.
        log: Gets what the code has noted, and the files that it has left.
        variables: Of the environment there.

    Raises:
        MissingExtra: Ray is not installed.
        Unavailable: The cluster is away, or the worker has failed.
        BasculeError: What `fitted` raises.
    """
    file, _, name = pipeline.fit.rpartition(":")
    there = msgspec.structs.replace(pipeline, fit=f"{Path(file).name}:{name}")
    with connected_to_ray(pipeline.on, 1):
        import ray

        try:
            task = ray.remote(answer_of_worker)
            answer = ray.get(task.remote(fitted, there, code, rows, variables))
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise Unavailable(
                f"the fit on Ray has ended: {first_line(getattr(error, 'cause', None) or error)}",
                hint="has the cluster the same packages? Its logs say more",
            ) from None
    result = pickle.loads(answer)
    if isinstance(result, dict):
        raise error_from_json(result)
    model, noted, files = result
    log.parameters, log.metrics, log.curves = noted.parameters, noted.metrics, noted.curves
    _write(log.folder, files)
    return model


def answer_of_worker(
    fitted: Fitted, pipeline: Pipeline, code: Mapping[str, bytes], rows: Rows,
    variables: Mapping[str, str],
) -> bytes:  # fmt: skip
    """A pickle of model, log and files, or of an error; Ray would wrap the latter.

    Of bytes, because arrays of Ray are read-only, and end with the connection.
    """
    os.environ |= variables
    with Scratch("bascule-train-") as scratch:
        _write(scratch / "code", code)
        log = RunLog(scratch / "artefacts")
        log.folder.mkdir()
        try:
            fit = named_code(f"{scratch}/code/{pipeline.fit}", "fit")
            model = fitted(pipeline, fit, rows, log, scratch)
        except BasculeError as problem:
            return pickle.dumps(error_to_json(problem))
        left = [file for file in log.folder.rglob("*") if file.is_file()]
        files = {str(file.relative_to(log.folder)): file.read_bytes() for file in left}
        return pickle.dumps((model, log, files))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (file := folder / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
