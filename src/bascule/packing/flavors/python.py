"""Any Python: a class of the user's, its files, and an environment of its own.

The class is code, so no process that packs, loads or serves it imports it: it runs in a child
process, under a Python that has what it requires and nothing else; see `programs.child`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bascule.bundle import is_missing, take
from bascule.bundle.disk import RANKING, SURVIVAL, Manifest
from bascule.bundle.originals import (
    CODE_FILE,
    CODE_FORMAT,
    LOCK_FILE,
    draft,
    open_class,
    pip,
    python_version,
)
from bascule.bundle.programs import ChildProgram
from bascule.core import (
    Columns,
    DType,
    Field,
    Invalid,
    ModelFailed,
    Signature,
    Unconvertible,
    is_file_name,
    is_inside,
)
from bascule.packing.flavors.own_code import source_files, to_archive
from bascule.packing.flavors.tabular import fields_of, read_inputs, read_truth, rows_of
from bascule.packing.imported import Compilation, ImportedModel

_TRIED_ROWS = 16
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[^\]]*\])?\s*([<>=!~].*)?")
_TASKS = ("classification", "regression", RANKING, SURVIVAL, "other")
_ANSWERS = {"classification": ("label",), SURVIVAL: ("risk", "time")}
"""By task: the outputs of which one has to be there; `prediction` for the others but `other`."""


@dataclass(frozen=True)
class PythonModel:
    """A model that is a class of yours.

    The class is made without arguments. If it has `load(folder)`, that is called once with the
    folder of `files`. Then `predict(columns)` is called with a dict of numpy arrays, one per input,
    and gives an array with as many rows, or a dict of them by the name of the output.

    Attributes:
        entry: The module and the class: `my_model:Model`.
        code: The file or package that holds the module, or several.
        files: What it loads, by the name that it has there.
        requirements: What it needs from the package index. Locked when it is packed.
        task: `classification` (with outputs `label` and, in the order of `classes`,
            `probabilities`), `regression` (with an output `prediction`), or `other`.
        classes: The labels of a classifier.
    """

    entry: str
    code: str | Path | Sequence[str | Path]
    files: Mapping[str, str | Path] = field(default_factory=dict)
    requirements: Sequence[str] = ()
    task: str = "other"
    classes: Sequence[str | int | float | bool] | None = None


@dataclass(frozen=True)
class _Packed(PythonModel):
    """A model that was packed before: its archive, and the lock in it, are taken as they are."""

    archive: bytes = b""


class Python:
    """See `packing.imported.Flavor`."""

    name = "python"

    def recognises(self, model: Any) -> bool:
        return isinstance(model, PythonModel)

    def read(self, model: PythonModel, train: Any, test: Any) -> ImportedModel:
        _check(model)
        table = read_inputs(train, "train")
        truth = read_truth(train, "train", rows=table.rows, task=model.task)
        inputs = _may_be_missing(fields_of(table), table.columns)
        data = _archive(model)
        rows = rows_of(table, truth, Signature(inputs, ()))
        tried = open_class(data, model.entry, inputs, (), threads=1)
        try:
            outputs = _outputs(tried, rows.columns, model)
        finally:
            tried.close()
        signature = Signature(inputs, outputs)
        held_out = None
        if test is not None:
            tested = read_inputs(test, "test")
            known = read_truth(test, "test", rows=tested.rows, task=model.task)
            held_out = rows_of(tested, known, signature)
        return ImportedModel(
            task=model.task,
            classes=None if model.classes is None else tuple(model.classes),
            signature=signature,
            original=open_class(data, model.entry, inputs, outputs, threads=1),
            saved=data,
            saved_file=CODE_FILE,
            saved_format=CODE_FORMAT,
            frame={"entry": model.entry, "python": python_version()},
            train=rows,
            test=held_out,
            parameters={"entry": repr(model.entry)},
        )

    def compilations(self, _model: Any, _subject: ImportedModel) -> Iterator[Compilation]:
        raise Unconvertible("code of your own is not compiled")


def reopen(data: bytes, manifest: Manifest) -> PythonModel:
    """The model, with its environment as it was locked: the package index is not asked again."""
    return _Packed(
        entry=str(manifest.original.frame.get("entry")),
        code=(),
        task=manifest.task,
        classes=manifest.classes,
        archive=data,
    )


def _archive(model: PythonModel) -> bytes:
    if isinstance(model, _Packed):
        return model.archive
    return _packed(model, lock(tuple(model.requirements)))


def _check(model: PythonModel) -> None:
    module, _, name = model.entry.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise Invalid(
            f"entry {model.entry!r} is not a module and a class",
            hint="write for example 'my_model:Model'",
            field="entry",
        )
    if model.task not in _TASKS:
        raise Invalid(
            f"task {model.task!r} is none of {', '.join(_TASKS)}",
            hint="pass other where none of them fits",
            field="task",
        )
    if (model.task == "classification") != (model.classes is not None):
        raise Invalid(
            "classes go with the task classification, and with no other",
            hint="pass the labels in the order of the probabilities",
            field="classes",
        )


def _may_be_missing(fields: tuple[Field, ...], columns: Columns) -> tuple[Field, ...]:
    return tuple(replace(f, nullable=bool(is_missing(columns[f.name]).any())) for f in fields)


def _outputs(program: ChildProgram, columns: Columns, model: PythonModel) -> tuple[Field, ...]:
    try:
        answer = program.run(take(columns, slice(_TRIED_ROWS)))
    except ModelFailed as problem:
        taken = ", ".join(map(repr, list(columns)[:4])) + (" and more" if len(columns) > 4 else "")
        raise ModelFailed(
            f"{model.entry} failed on the first rows of train: {problem.message}",
            hint=f"`predict` gets a dict of arrays, here {taken}, and answers an array or a dict",
            **problem.facts,
        ) from problem
    fields = []
    for name, values in answer.items():
        dtype = DType.BYTES if values.dtype.kind == "O" else DType.of(values.dtype)
        fields.append(Field(name, dtype, values.shape[1:]))
    names = {made.name for made in fields}
    needed = () if model.task == "other" else _ANSWERS.get(model.task, ("prediction",))
    if needed and names.isdisjoint(needed):
        raise Invalid(
            f"{model.entry} answers {', '.join(sorted(names)) or 'nothing'}, and for "
            f"{model.task} it must answer {' or '.join(needed)}",
            hint="give a dict of arrays by these names",
        )
    return tuple(fields)


def _packed(model: PythonModel, locked: str) -> bytes:
    code = [model.code] if isinstance(model.code, str | Path) else list(model.code)
    parts = {LOCK_FILE: locked.encode(), **source_files(code)}
    for name, source in model.files.items():
        if not is_inside(name) or not is_file_name(name):
            raise Invalid(
                f"files: {name!r} is not a name inside a folder",
                hint="pass a relative name without .., such as {'weights/model.bin': PATH}",
                field="files",
            )
        try:
            parts[f"files/{name}"] = Path(source).read_bytes()
        except OSError as problem:
            raise Invalid(
                f"files: {source} cannot be read: {problem.strerror}",
                hint=f"pass the path of the file that the model opens as {name!r}",
                field="files",
            ) from None
    return to_archive(parts)


@cache
def lock(requirements: tuple[str, ...]) -> str:
    """Exact versions and hashes of what is required and all that it needs, one a line, sorted.

    Asked once per process: the package index may say something else a minute later.

    Raises:
        Invalid: A requirement is no requirement, or cannot be met from wheels.
    """
    for requirement in requirements:
        if not _REQUIREMENT.fullmatch(requirement.strip()):
            raise Invalid(
                f"requirement {requirement!r} is not a name with a version",
                hint="write for example 'scipy==1.16.3'",
                field="requirements",
            )
    wanted = [requirement.strip() for requirement in requirements]
    if not any(re.match(r"numpy\b", requirement) for requirement in wanted):
        wanted.append("numpy")  # the host of the model needs it
    with draft() as folder:
        report = folder / "report.json"
        pip(
            folder, "install", "--dry-run", "--ignore-installed", "--only-binary=:all:",
            "--quiet", "--report", str(report), *wanted,
        )  # fmt: skip
        found = json.loads(report.read_bytes())["install"]
    lines = []
    for part in found:
        name = re.sub(r"[-_.]+", "-", part["metadata"]["name"]).lower()
        digest = part["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={part['metadata']['version']} --hash=sha256:{digest}")
    return "\n".join(sorted(lines)) + "\n"
