"""Models and tables from the files that people have."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bascule.core.errors import Invalid, NotFound
from bascule.core.files import is_there

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl", ".feather", ".npy", ".npz")

_LOADED_BY = {
    ".keras": "keras.saving.load_model({file!r})",
    ".cbm": "catboost.CatBoost().load_model({file!r})",
    ".json": "xgboost.Booster(model_file={file!r})",
    ".ubj": "xgboost.Booster(model_file={file!r})",
    ".txt": "lightgbm.Booster(model_file={file!r})",
    ".pt": "module",
    ".pth": "module",
}
"""What a model is in Python, by the ending of the files that its own library writes."""


def existing(path: Path, what: str) -> Path:
    """`path`, if there is a file."""
    if not is_there(path):
        raise NotFound(f"no {what} at {path}", hint="check the path")
    if not path.is_file():
        raise Invalid(f"{what} {path} is not a file", hint="name the file itself")
    return path


@dataclass(frozen=True, slots=True)
class Code:
    """What is said on the command line of a model that is code.

    Attributes:
        files: `PATH` or `NAME=PATH` of what it loads.
        requirements: What it needs from the package index.
        task: As in `bascule.PythonModel`; None if it was not said.
        labels: The classes of a classifier, each a JSON value or else a text.
    """

    files: Sequence[str] = ()
    requirements: Sequence[str] = ()
    task: str | None = None
    labels: Sequence[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it was said."""
        return self == Code()


def read_model(path: Path, *, allow_pickle: bool, code: Code | None = None) -> Any:
    """A fitted model from a file; or `CODE:CLASS`, a class in a file or package.

    Raises:
        NotFound: There is no such file.
        Invalid: It is of no kind that is known, or a pickle that was not allowed, or broken.
        Untrusted: It holds types that are not scikit-learn's own.
    """
    code = code or Code()
    if not is_there(path) and ":" in path.name:
        return _read_code(str(path), code)
    existing(path, "model")
    if path.suffix == ".py":
        raise Invalid(
            f"{path} is code, and which class of it is the model?",
            hint=f"write {path}:Model",
        )
    if not code.is_empty:
        raise Invalid(
            f"--file, --require, --task and --label are of code, and {path.name} is a model's file",
            hint="leave them out, or name a class: my_model.py:Model",
        )
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return path
    if suffix == ".skops":
        return _read_skops(path)
    if suffix in (".pkl", ".pickle", ".joblib"):
        if not allow_pickle:
            raise Invalid(
                f"{path} is a pickle, and loading one runs whatever code it holds",
                hint="save the model with skops.io.dump(model, 'model.skops'), or pass "
                "--allow-pickle if you made the file yourself",
            )
        return _read_pickle(path)
    hint = "save it as .skops (skops.io.dump) or .onnx"
    if suffix in _LOADED_BY:
        loaded = _LOADED_BY[suffix].format(file=str(path))
        hint = f"pack it in Python: bascule.pack({loaded}, name='NAME', train=X)"
        if loaded == "module":
            hint += ", with the module that its weights were loaded into"
    raise Invalid(f"{path.name}: a model in a {suffix or 'nameless'} file is not known", hint=hint)


def _read_code(written: str, said: Code) -> Any:
    from bascule.bundle import PythonModel

    home, _, attribute = written.rpartition(":")
    place = Path(home)
    if not is_there(place):
        raise NotFound(f"no code at {place}", hint="check the path")
    module = place.resolve().name
    if place.is_file():
        if place.suffix != ".py":
            raise Invalid(f"{place} is not a Python file", hint="write my_model.py:Model")
        module = place.stem
    inner, _, name = attribute.rpartition(".")
    return PythonModel(
        entry=f"{module}.{inner}:{name}" if inner else f"{module}:{name}",
        code=place.resolve(),
        files=dict(map(_named_file, said.files)),
        requirements=tuple(said.requirements),
        task=said.task or ("classification" if said.labels else "other"),
        classes=tuple(map(_label, said.labels)) or None,
    )


def _named_file(written: str) -> tuple[str, Path]:
    """`NAME=PATH`, or a path whose last part is the name."""
    name, given, path = written.partition("=")
    return (name, Path(path)) if given else (Path(written).name, Path(written))


def _label(written: str) -> str | int | float | bool:
    try:
        value = json.loads(written)
    except ValueError:
        return written
    return value if isinstance(value, str | int | float | bool) else written


def _read_skops(path: Path) -> Any:
    from bascule.bundle.flavors.sklearn import load_trusted

    return load_trusted(path.read_bytes(), path.name)


def _read_pickle(path: Path) -> Any:
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # a pickle may raise anything at all
        raise Invalid(f"{path} cannot be loaded: {error}") from None


def read_rows(path: Path, what: str) -> Any:
    """The rows of a file: a pyarrow Table, or for .npy and .npz a matrix or a dict of arrays.

    Raises:
        NotFound: There is no such file.
        Invalid: It cannot be read.
    """
    existing(path, what)
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise Invalid(
            f"{what} {path.name}: a {suffix or 'nameless'} file is not known",
            hint=f"use one of {', '.join(TABLE_SUFFIXES)}",
        )
    try:
        return _read_numpy(path) if suffix in (".npy", ".npz") else _read_arrow(path)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Invalid(f"{what} {path} cannot be read: {reason}") from None


def _read_numpy(path: Path) -> Any:
    import numpy as np

    loaded = np.load(path, allow_pickle=False)
    return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}


def _read_arrow(path: Path) -> Any:
    import pyarrow.csv
    import pyarrow.feather
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".parquet": pyarrow.parquet.read_table,
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".feather": pyarrow.feather.read_table,
    }
    return readers[path.suffix.lower()](path)


def split_truth(
    rows: Any, targets: Sequence[str] | None, what: str, *, required: bool
) -> tuple[Any, Any]:
    """The inputs and the truth of a table; the truth is None where a target is not there.

    An .npz holds them as `X` and `y`. Several targets are a dict of columns.

    Raises:
        Invalid: `required`, and there is no truth.
    """
    if isinstance(rows, dict):
        if "X" not in rows:
            raise Invalid(f"{what}: no array X in it", hint="save it as np.savez(path, X=X, y=y)")
        return rows["X"], rows.get("y")
    if not hasattr(rows, "column_names"):
        if required:
            raise Invalid(
                f"{what} has rows and no truth", hint="save it as np.savez(path, X=X, y=y)"
            )
        return rows, None
    if not targets:
        if required:
            raise Invalid(
                f"{what}: which of its columns holds the truth?",
                hint=f"name it with --target; its columns are {', '.join(rows.column_names[:20])}",
            )
        return rows, None
    absent = [name for name in targets if name not in rows.column_names]
    if absent:
        if not required:
            return rows, None
        raise Invalid(
            f"{what} has no column {absent[0]!r}",
            hint=f"its columns are {', '.join(rows.column_names[:20])}",
        )
    truth = {name: rows.column(name).to_numpy(zero_copy_only=False) for name in targets}
    inputs = rows.drop_columns(list(truth))
    return inputs, next(iter(truth.values())) if len(truth) == 1 else truth


def as_trained(model: Any, rows: Any) -> Any:
    """The rows in the form that the model was fitted on: a table, or a plain matrix.

    scikit-learn notes the names of the columns when it is fitted on a table, and warns when it
    is then given something else.
    """
    if not hasattr(rows, "column_names") or not hasattr(model, "n_features_in_"):
        return rows
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        import numpy as np

        try:
            return np.column_stack(
                [rows.column(name).to_numpy(zero_copy_only=False) for name in rows.column_names]
            ).astype(np.float64)
        except ValueError:
            raise Invalid(
                "the model was fitted on a plain matrix, and the table has columns that are "
                "not numbers",
                hint="leave out the columns that the model does not take",
            ) from None
    missing = [name for name in names if name not in rows.column_names]
    if missing:
        raise Invalid(
            f"the model was fitted on columns that the table lacks: {', '.join(missing[:10])}",
            hint=f"its columns are {', '.join(rows.column_names[:20])}",
        )
    selected = rows.select(list(names))
    if importlib.util.find_spec("pandas") is None:
        return selected
    return selected.to_pandas()
