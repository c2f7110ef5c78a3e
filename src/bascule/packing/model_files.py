"""Fitted models from the files that people have, and classes from their code."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bascule.bundle.originals import installed_version
from bascule.core import Invalid, NotFound, check_file, first_line, is_there

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

_OF_FOLDERS = ("config.json", "genai_config.json", "tokenizer.json")
"""Files of the folders that are models themselves."""
_SKLEARN_VERSION = re.compile(rb"_sklearn_version\W{1,4}(\d[\w.]+)")
"""As scikit-learn writes it into the pickle of an estimator; not found in a compressed one."""


@dataclass(frozen=True, slots=True)
class CodeOptions:
    """What a caller says of a model that is code, and that its files do not say.

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
        return self == CodeOptions()


def read_model(
    path: Path, *, allow_pickle: bool, options: CodeOptions | None = None, code: Sequence[str] = ()
) -> Any:
    """A fitted model from a file; or `CODE:CLASS`, a class in a file or package.

    Args:
        path: The file; or the folder of a saved model of transformers or ONNX Runtime GenAI.
        allow_pickle: Whether it may be a pickle.
        options: Of a model that is code.
        code: What a pickle imports: files and folders are importable while it is read, and stay so.

    Raises:
        NotFound: There is no such file.
        Invalid: It is of no kind that is known, or a pickle that was not allowed, or broken.
        Untrusted: It holds types that are not scikit-learn's own.
    """
    options = options or CodeOptions()
    if any(is_there(path / name, Path.is_file) for name in _OF_FOLDERS):
        return path
    if not is_there(path) and ":" in path.name:
        return _read_code(str(path), options)
    check_file(path, "model")
    if path.suffix == ".py":
        raise Invalid(
            f"{path} is code, and which class of it is the model?", hint=f"write {path}:Model"
        )
    if not options.is_empty:
        raise Invalid(
            f"--file, --require, --task and --label are of code, and {path.name} is a model's file",
            hint="leave them out, or name a class: my_model.py:Model",
        )
    suffix = path.suffix.lower()
    if suffix in (".onnx", ".gguf"):
        return path
    if suffix == ".toml" and describes_generation(path):
        return _read_generation(path)
    if suffix == ".skops":
        return _read_skops(path)
    if suffix in (".pkl", ".pickle", ".joblib"):
        if not allow_pickle:
            raise Invalid(
                f"{path} is a pickle, and loading one runs whatever code it holds",
                hint="save the model with skops.io.dump(model, 'model.skops'), or pass "
                "--allow-pickle if you made the file yourself",
            )
        return _read_pickle(path, code)
    hint = "save it as .skops (skops.io.dump) or .onnx"
    if suffix in _LOADED_BY:
        loaded = _LOADED_BY[suffix].format(file=str(path))
        hint = f"pack it in Python: bascule.pack({loaded}, name='NAME', train=X)"
        if loaded == "module":
            hint += ", with the module that its weights were loaded into"
    raise Invalid(f"{path.name}: a model in a {suffix or 'nameless'} file is not known", hint=hint)


def _read_code(written: str, said: CodeOptions) -> Any:
    from bascule.packing.flavors import PythonModel

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


def describes_generation(path: Path) -> bool:
    """Whether a TOML file describes a model of text generation; other ones are compositions."""
    try:
        return not {"weights", "upstream"}.isdisjoint(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return False


def _read_generation(path: Path) -> Any:
    """A model of text generation, described in TOML by the fields of `TextGeneration`."""
    from bascule.packing.flavors import TextGeneration

    described = tomllib.loads(path.read_text(encoding="utf-8"))
    known = [field.name for field in fields(TextGeneration)]
    if unknown := {*described} - {*known}:
        raise Invalid(f"{path}: {min(unknown)!r} is not known", hint=f"it has {', '.join(known)}")
    for name in {"weights", "adapter"} & {*described}:
        described[name] = path.parent / str(described[name])
    return TextGeneration(**described)


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
    from bascule.bundle.originals import load_trusted

    return load_trusted(path.read_bytes(), path.name)


def _read_pickle(path: Path, code: Sequence[str]) -> Any:
    import joblib

    for place in map(Path, code):
        home = str(place.resolve().parent)
        if is_there(place) and home not in sys.path:
            sys.path.append(home)
    try:
        return joblib.load(path)
    except Exception as error:  # a pickle may raise anything at all
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> Invalid:
    fitted_with = _SKLEARN_VERSION.search(path.read_bytes())
    here = installed_version("scikit-learn")
    if fitted_with and (version := fitted_with[1].decode()) != here:
        return Invalid(
            f"{path} cannot be loaded: it was made with scikit-learn {version}, and {here} is "
            f"installed ({first_line(error)})",
            hint=f"pip install 'scikit-learn=={version}' and pack it there, or fit it again here",
        )
    if isinstance(error, ModuleNotFoundError):
        name = str(error.name).partition(".")[0]
        return Invalid(
            f"{path} cannot be loaded: it imports {name}, which is not found",
            hint=f"pass --code with the path of {name}.py or the folder {name}, or install it",
            field="code",
        )
    return Invalid(
        f"{path} cannot be loaded: {error}",
        hint="load it in Python, in the environment that trained it, and call bascule.pack there",
    )
