"""One training run: rows, check, fit, pack. What a run has done before, it does not do again.

The bundle and what was recorded about its making are kept in a folder that is named by all that
went in: rows, code, parameters, installed packages, the pipeline itself. So a run that is killed
goes on after its last step, and a second run of the same inputs fits nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.core import (
    BasculeError,
    Conflict,
    Invalid,
    ModelFailed,
    NotFound,
    Scratch,
    canonical_json,
    first_line,
    masked,
    replacing,
    sha256_bytes,
    without_secrets,
)
from bascule.training.pipelines import named_code
from bascule.training.rows import Rows, as_pandas, read_newest
from bascule.training.run_log import RunLog

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.bundle import Bundle
    from bascule.training.pipelines import Pipeline

_LOG = logging.getLogger("bascule.jobs")
_FACTS, _BUNDLE = "facts.json", "bundle"

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Trained:
    """A bundle, and how it came about.

    Attributes:
        bundle: It holds the newest rows, to be judged by.
        facts: What is recorded: inputs, code, parameters, metrics, curves, seconds.
        was_known: Whether an earlier run has made it.
    """

    bundle: Bundle
    facts: Mapping[str, Any]
    was_known: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that goes into a run.

    Attributes:
        pipeline: What it does.
        rows: Read, and checked.
        fit: The code; None for a command.
        inputs: What is recorded of them, as JSON.
    """

    pipeline: Pipeline
    rows: Rows
    fit: Any
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Names the run: equal for equal inputs."""
        return sha256_bytes(canonical_json(self.inputs)).removeprefix("sha256:")[:32]

    def on_all_rows(self) -> Prepared:
        """The same run with nothing held out: see `Pipeline.refit`."""
        import pyarrow as pa

        table = pa.concat_tables([self.rows.train, self.rows.newest])
        rows = replace(self.rows, train=table, newest=table.slice(len(table)))
        counts = {**self.inputs["rows"], "newest": 0}
        return replace(self, rows=rows, inputs={**self.inputs, "rows": counts})


def prepare(pipeline: Pipeline, tell: Tell = lambda _: None) -> Prepared:
    """Read the rows and the code of a pipeline; its paths are relative to the current folder.

    Raises:
        Invalid: The rows are not as they must be, or the code cannot be imported.
        NotFound: Rows or code are not there.
    """
    tell("read")
    rows = read_newest(pipeline)
    if pipeline.check:
        tell("check")
        _check(pipeline, rows)
    fit = named_code(pipeline.fit, "fit") if pipeline.fit else None
    return Prepared(pipeline, rows, fit, _inputs(pipeline, rows))


def train(
    prepared: Prepared, work: Path, tell: Tell = lambda _: None, *, mlflow: str = ""
) -> Trained:
    """Fit and pack, unless an earlier run has done so with the same inputs.

    Args:
        prepared: See `prepare`.
        work: A folder for what is kept between runs; two runs of a key do not share one at a time.
        tell: Called with the name of each step when it begins.
        mlflow: The tracking server or store of the run of MLflow that the fit happens in; empty
            for none.

    Raises:
        Invalid: The code gives no model that can be packed.
        ModelFailed: The code of the pipeline failed.
        Conflict: Another process runs it now.
        Unavailable: MLflow does not answer; nothing was fitted.
    """
    with _alone(work, prepared.key):
        return _trained(prepared, work, tell, mlflow)


@contextmanager
def _alone(work: Path, key: str) -> Iterator[None]:
    """Hold the folder of a key, which this process leaves by its end at the latest."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                "a run of the same inputs is under way", hint="wait until it has ended"
            ) from None
        yield


def _trained(prepared: Prepared, work: Path, tell: Tell, mlflow: str) -> Trained:
    from bascule.bundle import load
    from bascule.training.on_ray import fitted_on_ray
    from bascule.training.tracking import end_autologging, inside_run

    pipeline, rows, fit = prepared.pipeline, prepared.rows, prepared.fit
    folder = work / prepared.key
    if (folder / _FACTS).is_file():
        facts = msgspec.json.decode((folder / _FACTS).read_bytes())
        return Trained(load(folder / _BUNDLE), facts, was_known=True)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run has left
    folder.mkdir(parents=True)
    log = RunLog(folder / "artefacts")
    log.folder.mkdir()
    tell("fit")
    began_s = time.monotonic()
    with Scratch("bascule-train-") as scratch:
        with inside_run(mlflow, pipeline, log, work) if mlflow else nullcontext("") as run_id:
            if pipeline.on:
                code = _code_files(_folder_of(pipeline))
                # What the code logs to MLflow joins the run.
                joined = {"MLFLOW_TRACKING_URI": mlflow, "MLFLOW_RUN_ID": run_id} if run_id else {}
                model = fitted_on_ray(fitted, pipeline, code, rows, log, joined)
            else:
                model = fitted(pipeline, fit, rows, log, scratch, run_id)
        end_autologging()
        fit_s = time.monotonic() - began_s
        tell("pack")
        origins = [*_tracked_data(pipeline), *([f"mlflow:{run_id}@{mlflow}"] if run_id else [])]
        bundle = packed(
            pipeline, model, rows, folder / _BUNDLE, metrics=log.metrics, overwrite=True,
            lineage=origins,
        )  # fmt: skip
    facts = {
        **prepared.inputs, "mlflow": {"run": run_id, "uri": without_secrets(mlflow)},
        "logged": log.parameters, "metrics": log.metrics, "curves": log.thinned(),
        "digest": bundle.digest,
        "seconds": {"fit": round(fit_s, 3), "pack": round(time.monotonic() - began_s - fit_s, 3)},
        "artefacts": sorted(file.name for file in log.folder.iterdir()),
    }  # fmt: skip
    with replacing(folder / _FACTS) as file:
        file.write_bytes(msgspec.json.encode(facts))
    return Trained(bundle, facts, was_known=False)


def _inputs(pipeline: Pipeline, rows: Rows) -> dict[str, Any]:
    """All that decides about the model. The code is that of the folder of `fit`, as imported."""
    from bascule.packing.lineage import provenance

    folder = _folder_of(pipeline)
    fields = msgspec.to_builtins(pipeline)
    deciding = {name: fields[name] for name in fields if name not in ("on", "search")}
    return {
        "pipeline": {**deciding, "data": masked(pipeline.data)},
        "rows": {
            "all": len(rows), "newest": len(rows.newest), "sha256": rows.digest,
            "held_back": rows.held_back, "is_clean": rows.is_clean,
        },
        "code": {"sha256": _code_digest(folder), **(provenance.git_state(folder) or {})},
        "environment": _environment_digest(),
        "python": sys.version.split()[0],
    }  # fmt: skip


def _folder_of(pipeline: Pipeline) -> Path:
    return Path(pipeline.fit.rpartition(":")[0] or ".").resolve().parent


@cache
def _environment_digest() -> str:
    """Of what is installed when a process asks first: reading it takes tenths of a second."""
    installed = sorted(f"{package.name}=={package.version}" for package in distributions())
    return sha256_bytes("\n".join(installed).encode())


def _code_files(folder: Path) -> dict[str, bytes]:
    """The modules below a folder that are imported now, by their paths in it."""
    resolved = cache(os.path.realpath)  # thousands of modules are in hundreds of folders
    files = {
        Path(resolved(os.path.dirname(file)), os.path.basename(file))
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) and file.endswith(".py")
    }
    # Some modules of torch name a file that is nowhere.
    modules = sorted(file for file in files if file.is_relative_to(folder) and file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in modules}


def _code_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name, content in _code_files(folder).items():
        digest.update(f"{name}\0".encode() + content)
    return "sha256:" + digest.hexdigest()


def _check(pipeline: Pipeline, rows: Rows) -> None:
    """Ask a pandera schema, or a function, whether the rows may be trained on."""
    check = named_code(pipeline.check, "check")
    table = as_pandas(rows.train)
    try:
        check.validate(table, lazy=True) if hasattr(check, "validate") else check(table)
    except Exception as problem:  # a schema of the user may raise anything
        raise Invalid(
            f"the rows of {masked(pipeline.data)} fail {pipeline.check}: {first_line(problem)}",
            hint="nothing was trained; mend the rows, or the check",
        ) from problem


def fitted(
    pipeline: Pipeline, fit: Any, rows: Rows, log: RunLog, scratch: Path, run_id: str = ""
) -> Any:  # fmt: skip
    """The model that the code of a pipeline makes of the older rows."""
    if fit is None:
        return _by_command(pipeline, rows, scratch, run_id)
    inputs, truth = split(pipeline, rows.train)
    known = {"run": log} if "run" in inspect.signature(fit).parameters else {}
    try:
        return fit(inputs, truth, **known, **pipeline.parameters)
    except BasculeError:
        raise
    except Exception as problem:  # code of the user may raise anything
        raise ModelFailed(
            f"{pipeline.fit} failed: {first_line(problem)}",
            hint="mend the code, and run it again; nothing was pushed",
        ) from problem


def _by_command(pipeline: Pipeline, rows: Rows, scratch: Path, run_id: str) -> Any:
    """Run the program; what it prints goes to the log of the job."""
    import pyarrow.parquet as pq

    from bascule.packing import read_model

    train, model = scratch / "train.parquet", scratch / pipeline.model_file
    pq.write_table(rows.train, train)
    words = [word.format(train=train, model=model) for word in pipeline.command]
    texts = {name.upper(): str(value) for name, value in pipeline.parameters.items()}
    texts |= {"MLFLOW_RUN_ID": run_id} if run_id else {}  # the URI is in the environment
    try:
        subprocess.run(words, env={**os.environ, **texts}, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as problem:
        raise ModelFailed(
            f"the command of {pipeline.name} failed: {problem}",
            hint="bascule train logs RUN shows what it printed",
        ) from None
    return read_model(model, allow_pickle=False)


def _tracked_data(pipeline: Pipeline) -> list[str]:
    """The rows as DVC knows them, where it tracks them."""
    from bascule.packing.lineage import trace

    origin = f"dvc:{pipeline.data}"
    try:
        trace(origin)
    except (Invalid, NotFound):  # it does not
        return []
    except BasculeError as problem:
        _LOG.warning("the record of DVC is left out: %s", problem)
        return []
    return [origin]


def packed(pipeline: Pipeline, model: Any, rows: Rows, to: Path, **options: Any) -> Bundle:
    """The bundle of a fitted model, with the rows and the feature store of its pipeline."""
    from bascule.packing import pack

    test = split(pipeline, rows.newest) if len(rows.newest) else None
    options |= {"parameters": pipeline.parameters, "features": pipeline.features}
    train = split(pipeline, rows.train)
    return pack(model, name=pipeline.name, train=train, test=test, to=to, **options)


def split(pipeline: Pipeline, table: pa.Table) -> tuple[Any, Any]:
    """The inputs and the truth; the time tells old rows from new ones, and is no input."""
    names = [name for name in (pipeline.target, pipeline.time) if name]
    return as_pandas(table.drop_columns(names)), as_pandas(table)[pipeline.target]
