"""Keras 3, on whichever backend it runs: models that are made of its own layers.

`bundle.originals.keras_archive` says what is read of a saved model. On PyTorch it is compiled as a
module is; elsewhere Keras exports it, on TensorFlow through tf2onnx.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from bascule.bundle import MATRIX, conform, take
from bascule.bundle.originals import (
    BACKENDS,
    installed_version,
    is_of,
    keras_answers,
    keras_archive as archive,
    keras_inputs,
    keras_program,
    outputs_by_name,
    outputs_in_order,
    own_methods,
    structured_inputs,
    tensor_of,
)
from bascule.core import (
    DType,
    Field,
    Invalid,
    MissingExtra,
    Scratch,
    Signature,
    Unconvertible,
    first_line,
    library,
)
from bascule.packing.compilers import ROWS, export, tidy, to_onnx
from bascule.packing.flavors.networks import (
    NamedRows,
    Takes,
    check_saved,
    output_fields,
    read_given,
    rows_of,
    task_of,
    tried,
)
from bascule.packing.flavors.own_code import to_archive
from bascule.packing.imported import Compilation, ImportedModel
from bascule.packing.probing import bounded


class Keras:
    """See `packing.imported.Flavor`."""

    name = "keras"

    def recognises(self, model: Any) -> bool:
        return is_of(model, "keras") and hasattr(model, "layers")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        saved = save(model)
        own = [n for n in own_methods(model, ("keras", *BACKENDS)) if n.startswith("predict")]
        if own:
            raise Invalid(
                f"{model.name} has its own {own[0]}, which Keras does not save",
                hint="pack it as a bascule.PythonModel",
            )
        declared = _declared(model)
        takes = Takes(tuple(declared))
        given = read_given(train, "train", takes)
        inputs = _fields(given, declared)
        columns = conform(given.columns, Signature(inputs, ()))
        few = take(columns, slice(ROWS))
        ask = partial(tried, partial(keras_answers, model))
        outputs = output_fields(ask(few), len(next(iter(few.values()))), list(few))
        inputs = bounded(inputs, columns, ask)
        signature = Signature(inputs, outputs, given.names)
        live = keras_program(model, signature)
        rows = rows_of(given, signature)
        held_out = None if test is None else rows_of(read_given(test, "test", takes), signature)
        check_saved(keras_program(archive.load(saved, archive.FILE), signature), live, rows)
        backend = library("keras", "keras").config.backend()
        task, classes = task_of(outputs)
        return ImportedModel(
            task=task,
            classes=classes,
            signature=signature,
            original=live,
            saved=saved,
            saved_file=archive.FILE,
            saved_format=archive.FORMAT,
            requires={name: installed_version(name) for name in ("h5py", "keras", "numpy")},
            frame={"backend": backend},
            train=rows,
            test=held_out,
            parameters={"layers": str(len(model.layers)), "parameters": str(model.count_params())},
            is_network=True,
        )

    def compilations(self, model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        backend = subject.frame["backend"]
        compile_ = _through_torch if backend == "torch" else _through_keras
        graph = compile_(model, subject)
        inputs, outputs = subject.signature.inputs, subject.signature.outputs
        yield Compilation("the model's own", graph, inputs, outputs, None)


def _declared(model: Any) -> dict[str, str]:
    """The types of the inputs by name: those of a dict, or of the layers, or `input` if alone."""
    if not model.built:
        raise Invalid(
            f"{model.name} is not built",
            hint="fit it, or call it on some rows, before it is packed",
        )
    structure = keras_inputs(model)
    if isinstance(structure, Mapping):
        named = dict(structure)
    elif isinstance(structure, list | tuple):
        named = {tensor.name: tensor for tensor in structure}
    else:
        named = {MATRIX: structure}
    return {str(name): str(tensor.dtype) for name, tensor in named.items()}


def _outputs(model: Any) -> Any:
    return model.output if hasattr(model, "output") else model.outputs[0]


def _fields(given: NamedRows, declared: Mapping[str, str]) -> tuple[Field, ...]:
    fields = []
    for name, values in given.columns.items():
        try:
            dtype = DType.of(np.dtype(declared[name]))
        except (Invalid, TypeError):
            raise Invalid(
                f"input {name} is {declared[name]}, which no tensor of a request is",
                hint="give the model inputs of numbers, booleans or text",
                field=name,
            ) from None
        fields.append(Field(name, dtype, values.shape[1:]))
    return tuple(fields)


def _through_torch(model: Any, subject: ImportedModel) -> bytes:
    assert subject.train is not None
    few = take(subject.train.columns, slice(ROWS))

    def ask(tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        answer = model(structured_inputs(model, tensors), training=False)
        return tuple(outputs_by_name(model, answer).values())

    exported = export(model, ask, {name: tensor_of(values) for name, values in few.items()})
    return to_onnx(exported, subject.signature.inputs, subject.signature.outputs)


def _through_keras(model: Any, subject: ImportedModel) -> bytes:
    """By the export of Keras, which flattens dicts in the order of their names."""
    import onnx

    with Scratch() as folder:
        place = folder / "model.onnx"
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                model.export(str(place), format="onnx", verbose=False)
            made = onnx.load(place)
        except ImportError as problem:
            # By the backend: tf2onnx for TensorFlow, which is of no use on the others.
            missing = problem.name or "tf2onnx"
            raise MissingExtra(
                f"{missing} is not installed", hint=f"pip install {missing}"
            ) from None
        except Exception as problem:  # an exporter fails in as many ways as there are layers
            raise Unconvertible(
                f"Keras cannot write the model as ONNX: {first_line(problem)}"
            ) from problem
    inputs, outputs = list(subject.signature.inputs), list(subject.signature.outputs)
    if isinstance(keras_inputs(model), Mapping):
        inputs.sort(key=lambda field: field.name)
    if isinstance(_outputs(model), Mapping):
        outputs.sort(key=lambda field: field.name)
    elif isinstance(_outputs(model), list | tuple):
        order = [*outputs_in_order(model, model.outputs)]
        outputs.sort(key=lambda field: order.index(field.name))
    return tidy(made, tuple(inputs), tuple(outputs))


def save(model: Any) -> bytes:
    """The bytes of a model, the same ones whenever and wherever it is saved.

    What is written is the model as Keras reads it back: without what it was trained by, and without
    marks of what happened to be one object in this process.

    Raises:
        Invalid: It holds a layer whose code is not Keras' own, or one that a server refuses.
    """
    return _written(archive.load(_written(model), archive.FILE))


def _written(model: Any) -> bytes:
    with Scratch() as folder:
        place = folder / "model.keras"
        try:
            with archive.quietly():
                model.save(place)
        except Exception as problem:  # a layer of one's own may raise anything
            raise Invalid(
                f"Keras cannot save the model: {first_line(problem)}",
                hint="build it from Keras' own layers, or pack it as a bascule.PythonModel",
            ) from problem
        with zipfile.ZipFile(place) as written:
            parts = {name: written.read(name) for name in written.namelist()}
    config = json.loads(parts[archive.CONFIG])
    # How it was trained is not part of what it answers.
    config.pop("compile_config", None)
    _number_shared(config)
    try:
        archive.check_config(config)
    except ValueError as problem:
        raise Invalid(
            f"the model cannot be saved without code: {problem}",
            hint="build it from Keras' own layers, or pack it as a bascule.PythonModel, which runs "
            "your own code",
        ) from None
    about = json.loads(parts[archive.ABOUT])
    about.pop("date_saved", None)
    parts[archive.CONFIG] = json.dumps(config, sort_keys=True).encode()
    parts[archive.ABOUT] = json.dumps(about, sort_keys=True).encode()
    strange = sorted(parts.keys() - set(archive.MEMBERS))
    if strange:
        raise Invalid(
            f"the model brings a file of its own, {strange[0]}, which is not supported",
            hint="keep it as a weight of a layer, or pack the model as a bascule.PythonModel",
        )
    return to_archive(parts)


def _number_shared(config: Any) -> None:
    """Call what is shared by its number, where Keras calls it by its address in this process."""
    numbers: dict[Any, int] = {}
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "shared_object_id" in part:
                address = part["shared_object_id"]
                part["shared_object_id"] = numbers.setdefault(address, len(numbers))
            waiting += [part[key] for key in sorted(part)]
        elif isinstance(part, list):
            waiting += part
