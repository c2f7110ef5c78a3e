"""A bundle as a model of MLflow: saved, logged, registered, and answered by our program.

    info = bascule.mlflow.log_model("late.bundle", registered_model_name="late")
    mlflow.pyfunc.load_model(info.model_uri).predict(rows)

What MLflow keeps is the bundle, whole and as it was sealed, so its digest is still its identity and
is verified whenever it is loaded. `loader_module` in the `MLmodel` file names this module, which is
why it stays where it is.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bascule.bundle import Bundle, disk, flat, is_missing, load
from bascule.bundle.disk import columns_of
from bascule.core import VERSION, Conflict, DType, Field, Invalid, writing
from bascule.packing.lineage import asking, open_mlflow, quiet, usual_uri

if TYPE_CHECKING:
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo

FLAVOR_NAME = "bascule"
_DATA = "bundle"
_EXAMPLE = "input_example.json"
_SERVING_EXAMPLE = "serving_input_example.json"
_PARAMETERS = {"number": "double", "integer": "long", "boolean": "boolean"}
"""MLflow's types of parameters, by those of JSON Schema; any other is a string."""
_TYPES = {
    DType.BOOL: "boolean",
    DType.FP32: "float",
    DType.FP64: "double",
    DType.INT64: "long",
    DType.UINT32: "long",
    DType.UINT64: "long",
    DType.BYTES: "string",
}
"""MLflow's word for a type; every other one is a whole number of at most 32 bits."""


def log_model(
    bundle: str | Path,
    *,
    name: str = "model",
    registered_model_name: str | None = None,
    **options: Any,
) -> ModelInfo:
    """Log a bundle to the active run of MLflow, or to a new one.

    Args:
        bundle: The bundle's folder.
        name: What the model is called in the run.
        registered_model_name: Register it under this name as well.
        options: Handed on to `mlflow.models.Model.log`: `run_id`, `tags`, `metadata`...

    Returns:
        What MLflow says of it: `model_uri`, `registered_model_version`...

    Raises:
        NotFound, Untrusted: As `bascule.load`.
        MissingExtra: MLflow is not installed.
    """
    open_mlflow()
    from mlflow.models import Model

    loaded = load(bundle)
    logged: ModelInfo = Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        registered_model_name=registered_model_name,
        bundle=loaded.path,
        **options,
    )
    return logged


@dataclass(frozen=True, slots=True)
class Pushed:
    """A bundle in MLflow's registry.

    Attributes:
        name: What the registry calls the model.
        version: Its number there.
        run_id: The run that it was logged to.
        model_uri: What `mlflow.pyfunc.load_model` takes.
    """

    name: str
    version: str
    run_id: str
    model_uri: str


def push(
    bundle: str | Path,
    *,
    uri: str | None = None,
    registered_model_name: str | None = None,
    run_id: str | None = None,
) -> Pushed:
    """Log a bundle to a tracking server, and register it there.

    Args:
        bundle: The bundle's folder.
        uri: The tracking server; `MLFLOW_TRACKING_URI` if None.
        registered_model_name: What the registry calls it; the bundle's own name if None.
        run_id: The run to log it to; a new one if None.

    Raises:
        Invalid: No server is named.
        NotFound: The store or the run is not there.
        Unavailable: The server does not answer, or does not take it.
    """
    loaded = load(bundle)
    name = registered_model_name or loaded.name
    mlflow = open_mlflow()
    uri = uri or usual_uri()
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    try:
        # What MLflow prints of its pages is no result.
        with asking(uri, run_id or ""), redirect_stdout(sys.stderr):
            mlflow.set_tracking_uri(uri)
            with mlflow.start_run(run_id=run_id, run_name=None if run_id else loaded.name):
                made = log_model(loaded.path, registered_model_name=name)
    finally:
        mlflow.set_tracking_uri(before)
    version = str(made.registered_model_version)
    return Pushed(name, version, made.run_id, f"models:/{name}/{version}")


def save_model(bundle: str | Path, path: str | Path, *, mlflow_model: Model | None = None) -> None:
    """Save a bundle as a model of MLflow in a folder.

    Args:
        bundle: The bundle's folder.
        path: The folder to make.
        mlflow_model: What MLflow knows of it already; it hands this in when a model is logged.

    Raises:
        Conflict: There is something at `path`.
        Invalid: It cannot be written there; an empty folder is left at most.
    """
    open_mlflow()
    from mlflow.models import Model

    loaded, place = load(bundle), Path(path)
    made = mlflow_model or Model()
    made.signature = signature_of(loaded)
    with writing(place):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise Conflict(f"{place} exists already", hint="choose another place")
        try:
            _write(loaded, place, made)
        except BaseException:
            _empty(place)  # or it would be in the way of another try
            raise


def _write(loaded: Bundle, place: Path, made: Model) -> None:
    _copy(loaded.path, place / _DATA)
    made.saved_input_example_info = _save_example(loaded, place)
    environment = disk.read_file(loaded.path, loaded.manifest, disk.ENVIRONMENT).decode()
    packages = [line for line in environment.splitlines() if "==" in line]
    (place / "requirements.txt").write_text("\n".join([f"bascule=={VERSION}", *packages]) + "\n")
    # JSON is YAML as well.
    python = {
        "python": platform.python_version(),
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    (place / "python_env.yaml").write_text(json.dumps(python))
    _pyfunc().add_to_model(
        made, loader_module="bascule.mlflow", data=_DATA, python_env="python_env.yaml"
    )
    made.add_flavor(
        FLAVOR_NAME,
        bascule_version=VERSION,
        data=_DATA,
        digest=loaded.digest,
        model=loaded.name,
        serves=loaded.manifest.serves,
    )
    made.model_size_bytes = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    made.save(str(place / "MLmodel"))


def _copy(source: Path, target: Path) -> None:
    """Copy a folder; `shutil.copytree` makes one list of all that the system refuses."""
    target.mkdir(parents=True)
    for file in sorted(source.rglob("*")):
        if file.is_dir():
            (target / file.relative_to(source)).mkdir()
        else:
            shutil.copy2(file, target / file.relative_to(source))


def _empty(folder: Path) -> None:
    with suppress(OSError):  # it would hide why it could not be written
        for inner in folder.iterdir():
            if inner.is_dir():
                shutil.rmtree(inner)
            else:
                inner.unlink()


def _pyfunc() -> Any:
    """MLflow's module, which warns of type hints of its own when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import pyfunc

        pyfunc.add_to_model  # noqa: B018 (it is imported when it is first asked)
    return pyfunc


def _load_pyfunc(path: str) -> _Model:
    """Called by `mlflow.pyfunc.load_model`, with the folder of the bundle."""
    return _Model(load(path))


class _Model:
    """What MLflow asks."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, rows: Any, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """One column per output, and one per class of the probabilities.

        With `params={"confidence": 0.9}` those of a prediction set or an interval as well; so with
        the parameters of other extra outputs.
        """
        import pandas

        answer = self.bundle.predict(rows, parameters=params)
        return pandas.DataFrame(flat(answer, self.bundle.manifest))


def signature_of(bundle: Bundle) -> ModelSignature:
    """The signature of a bundle in MLflow's words: named columns, or one unnamed matrix.

    Raises:
        Invalid: MLflow has no words for it: rows that are more than one value a column.
    """
    open_mlflow()
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    known = bundle.signature
    inputs: Any
    if known.is_matrix and not known.columns:
        (field,) = known.inputs
        inputs = Schema([TensorSpec(np.dtype(field.dtype.numpy), (-1, *field.shape))])
    else:
        inputs = Schema([ColSpec(kind, name) for name, kind in _columns(bundle)])
    outputs: list[Any] = []
    for field in known.outputs:
        if not field.shape:
            outputs.append(ColSpec(_type(field.dtype), field.name))
            continue
        one_row = np.zeros((1, *(max(length, 1) for length in field.shape)), field.dtype.numpy)
        names = flat({field.name: one_row}, bundle.manifest)
        outputs += [ColSpec(_type(field.dtype), name) for name in names]
    params: Any = None
    asked = [one for extra in bundle.extras if extra.fields for one in extra.parameters]
    if asked:
        kinds = [(one.name, str(one.schema()["anyOf"][0].get("type"))) for one in asked]
        specs = [ParamSpec(name, _PARAMETERS.get(kind, "string"), None) for name, kind in kinds]
        params = ParamSchema(specs)
    return ModelSignature(inputs=inputs, outputs=Schema(outputs), params=params)


def _columns(bundle: Bundle) -> list[tuple[str, str]]:
    known = bundle.signature
    if known.is_matrix:
        return [(name, _type(known.inputs[0].dtype)) for name in known.columns]
    for field in known.inputs:
        if field.shape:
            raise Invalid(
                f"input {field.name} has {list(field.shape)} values a row, and a table of MLflow "
                "has one",
                field=field.name,
            )
    return [(field.name, _column_type(field)) for field in known.inputs]


def _column_type(field: Field) -> str:
    if field.dates is not None:
        return "datetime"
    return "boolean" if field.booleans else _type(field.dtype)


def _type(dtype: DType) -> str:
    return _TYPES.get(dtype, "integer" if dtype.is_integer else "float")


def _save_example(bundle: Bundle, place: Path) -> dict[str, Any]:
    """The bundle's own example, in both of MLflow's forms: to read, and to send to a server."""
    data = disk.read_file(bundle.path, bundle.manifest, disk.EXAMPLE)
    columns = columns_of(data, bundle.signature.inputs)
    known = bundle.signature
    if known.is_matrix and not known.columns:
        (values,) = columns.values()
        (place / _EXAMPLE).write_text(json.dumps(_plain(values)))
        (place / _SERVING_EXAMPLE).write_text(json.dumps({"inputs": _plain(values)}))
        return {
            "artifact_path": _EXAMPLE,
            "serving_input_path": _SERVING_EXAMPLE,
            "type": "ndarray",
            "format": "tf-serving",
        }
    if known.is_matrix:
        (values,) = columns.values()
        columns = dict(zip(known.columns, values.T, strict=True))
    rows = [list(row) for row in zip(*map(_plain, columns.values()), strict=True)]
    table = {"columns": list(columns), "data": rows}
    (place / _EXAMPLE).write_text(json.dumps(table))
    (place / _SERVING_EXAMPLE).write_text(json.dumps({"dataframe_split": table}))
    return {
        "artifact_path": _EXAMPLE,
        "serving_input_path": _SERVING_EXAMPLE,
        "type": "dataframe",
        "pandas_orient": "split",
    }


def _plain(values: Any) -> Any:
    """Lists, with null for what is missing."""
    absent = is_missing(values)
    made = values.astype(object)
    made[absent] = None
    return made.tolist()


quiet()
