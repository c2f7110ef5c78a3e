"""Keras 3, on whichever backend it runs: models that are made of its own layers.

`flavors.keras_archive` says how a model is saved. On PyTorch it is compiled as a module is;
elsewhere Keras exports it, on TensorFlow through tf2onnx.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.compilers import ROWS, export, tidy, to_onnx
from bascule.bundle.disk import Manifest
from bascule.bundle.flavors import keras_archive as archive
from bascule.bundle.flavors.aten import tensor_of
from bascule.bundle.flavors.libraries import installed_version, is_of, library
from bascule.bundle.flavors.networks import (
    NamedRows,
    NetworkProgram,
    Takes,
    check_saved,
    named_outputs,
    output_fields,
    read_given,
    rows_of,
    task_of,
    tried,
)
from bascule.bundle.imported import Compilation, ImportedModel
from bascule.bundle.overrides import own_methods
from bascule.bundle.probing import bounded
from bascule.bundle.tables import MATRIX, conform, take
from bascule.core import (
    Columns,
    DType,
    Field,
    Invalid,
    MissingExtra,
    Scratch,
    Signature,
    Unconvertible,
    Untrusted,
    first_line,
)

_BACKENDS = ("jax", "tensorflow", "torch")


class Keras:
    """See `bundle.imported.Flavor`."""

    name = "keras"

    def recognises(self, model: Any) -> bool:
        return is_of(model, "keras") and hasattr(model, "layers")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        if train is None:
            raise Invalid(
                "train is missing, and it says what the lengths of the model's inputs are",
                hint="pass some rows: an array, or a dict of arrays by the names of the inputs",
                field="train",
            )
        saved = archive.save(model)
        own = [n for n in own_methods(model, ("keras", *_BACKENDS)) if n.startswith("predict")]
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
        ask = partial(tried, partial(_answers, model))
        outputs = output_fields(ask(few), len(next(iter(few.values()))), list(few))
        inputs = bounded(inputs, columns, ask)
        signature = Signature(inputs, outputs, given.names)
        live = _program(model, signature)
        rows = rows_of(given, signature)
        held_out = None if test is None else rows_of(read_given(test, "test", takes), signature)
        check_saved(_program(archive.load(saved, archive.FILE), signature), live, rows)
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


def open_keras(data: bytes, manifest: Manifest, *, threads: int = 1) -> NetworkProgram:
    """The saved original of a bundle, on the backend that it was packed on where that is there.

    How many threads it uses is a setting of the backend for the whole process; a process of its
    own is started with the right one (`programs.child`).
    """
    del threads
    return _program(reopen(data, manifest), manifest.signature)


def reopen(data: bytes, manifest: Manifest) -> Any:
    """The model itself; raises `Untrusted` as every opener of an original does."""
    backend = manifest.original.frame.get("backend")
    if backend not in _BACKENDS:
        raise Untrusted(f"{manifest.name} was packed on {backend!r}, which is no backend of Keras")
    os.environ.setdefault("KERAS_BACKEND", str(backend))
    return archive.load(data, manifest.original.file)


def _program(model: Any, signature: Signature) -> NetworkProgram:
    return NetworkProgram(partial(_answers, model), signature.inputs, signature.outputs)


def _declared(model: Any) -> dict[str, str]:
    """The types of the inputs by name: those of a dict, or of the layers, or `input` if alone."""
    if not model.built:
        raise Invalid(
            f"{model.name} is not built",
            hint="fit it, or call it on some rows, before it is packed",
        )
    structure = _inputs(model)
    if isinstance(structure, Mapping):
        named = dict(structure)
    elif isinstance(structure, list | tuple):
        named = {tensor.name: tensor for tensor in structure}
    else:
        named = {MATRIX: structure}
    return {str(name): str(tensor.dtype) for name, tensor in named.items()}


def _inputs(model: Any) -> Any:
    """The inputs in the form that the model was made with; a Sequential has one."""
    return model.input if hasattr(model, "input") else model.inputs[0]


def _outputs(model: Any) -> Any:
    return model.output if hasattr(model, "output") else model.outputs[0]


def _fields(given: NamedRows, declared: Mapping[str, str]) -> tuple[Field, ...]:
    fields = []
    for name, values in given.columns.items():
        try:
            dtype = DType.of(np.dtype(declared[name]))
        except (Invalid, TypeError):
            raise Invalid(
                f"input {name} is {declared[name]}, which no tensor of a request is", field=name
            ) from None
        fields.append(Field(name, dtype, values.shape[1:]))
    return tuple(fields)


def _structured(model: Any, tensors: Mapping[str, Any]) -> Any:
    """The inputs in the form that the model was made with."""
    structure = _inputs(model)
    if isinstance(structure, Mapping):
        return {name: tensors[str(name)] for name in structure}
    if isinstance(structure, list | tuple):
        return [tensors[tensor.name] for tensor in structure]
    (tensor,) = tensors.values()
    return tensor


def _named(model: Any, answer: Any) -> dict[str, Any]:
    """The outputs by their names in a dict, or those of their layers, or `output` if alone.

    Of a dict in the order of the names: some backends give it so, and some not once it was saved.
    """
    if isinstance(answer, list | tuple):
        answer = _in_order(model, answer)
    elif isinstance(answer, Mapping):
        answer = dict(sorted(answer.items()))
    return named_outputs(answer)


def _in_order(model: Any, tensors: Sequence[Any]) -> dict[str, Any]:
    """Several outputs, each by the name of its layer; by its place if a layer gives two."""
    names = list(model.output_names)
    if len(set(names)) < len(tensors):
        names = [f"output_{place}" for place in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


def _answers(model: Any, columns: Columns) -> dict[str, NDArray[Any]]:
    with _no_gradients(model):
        answer = model(_structured(model, columns), training=False)
        return {name: _array(value) for name, value in _named(model, answer).items()}


def _array(tensor: Any) -> NDArray[Any]:
    """A backend's tensor as an array; Keras' own way makes numpy 2 warn about PyTorch's."""
    if hasattr(tensor, "detach"):
        return np.asarray(tensor.detach().cpu().numpy())
    return np.asarray(library("keras", "keras").ops.convert_to_numpy(tensor))


def _no_gradients(model: Any) -> contextlib.AbstractContextManager[Any]:
    if not is_of(model, "torch"):
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def _through_torch(model: Any, subject: ImportedModel) -> bytes:
    assert subject.train is not None
    few = take(subject.train.columns, slice(ROWS))

    def ask(tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        answer = model(_structured(model, tensors), training=False)
        return tuple(_named(model, answer).values())

    exported = export(model, ask, {name: tensor_of(values) for name, values in few.items()})
    return to_onnx(exported, subject.signature.inputs, subject.signature.outputs)


def _through_keras(model: Any, subject: ImportedModel) -> bytes:
    """By the export of Keras, which flattens dicts in the order of their names."""
    import onnx

    with Scratch() as folder:
        place = folder / "model.onnx"
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
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
                f"Keras cannot write the model as ONNX: {first_line(problem)}",
                hint="pass serve_original=True (--serve-original) to serve the original, slower",
            ) from problem
    inputs, outputs = list(subject.signature.inputs), list(subject.signature.outputs)
    if isinstance(_inputs(model), Mapping):
        inputs.sort(key=lambda field: field.name)
    if isinstance(_outputs(model), Mapping):
        outputs.sort(key=lambda field: field.name)
    elif isinstance(_outputs(model), list | tuple):
        order = [*_in_order(model, model.outputs)]
        outputs.sort(key=lambda field: order.index(field.name))
    return tidy(made, tuple(inputs), tuple(outputs))
