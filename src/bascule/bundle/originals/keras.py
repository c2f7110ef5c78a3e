"""A Keras model of a bundle as a program, on whichever backend it runs.

`keras_archive` says what may be in its file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import Manifest
from bascule.bundle.originals.keras_archive import load
from bascule.bundle.originals.libraries import is_of
from bascule.bundle.originals.networks import NetworkProgram, named_outputs
from bascule.core import Columns, Signature, Untrusted, library

BACKENDS = ("jax", "tensorflow", "torch")


def open_keras(data: bytes, manifest: Manifest, *, threads: int = 1) -> NetworkProgram:
    """The saved original of a bundle, on the backend that it was packed on where that is there.

    How many threads it uses is a setting of the backend for the whole process; a process of its
    own is started with the right one (`programs.child`).
    """
    del threads
    return keras_program(reopen(data, manifest), manifest.signature)


def reopen(data: bytes, manifest: Manifest) -> Any:
    """The model itself; raises `Untrusted` as every opener of an original does."""
    backend = manifest.original.frame.get("backend")
    if backend not in BACKENDS:
        raise Untrusted(f"{manifest.name} was packed on {backend!r}, which is no backend of Keras")
    os.environ.setdefault("KERAS_BACKEND", str(backend))
    return load(data, manifest.original.file)


def keras_program(model: Any, signature: Signature) -> NetworkProgram:
    """A model, saved or as it was handed in, as a program."""
    return NetworkProgram(partial(keras_answers, model), signature.inputs, signature.outputs)


def keras_inputs(model: Any) -> Any:
    """The inputs in the form that the model was made with; a Sequential has one."""
    return model.input if hasattr(model, "input") else model.inputs[0]


def structured_inputs(model: Any, tensors: Mapping[str, Any]) -> Any:
    """The inputs in the form that the model was made with."""
    structure = keras_inputs(model)
    if isinstance(structure, Mapping):
        return {name: tensors[str(name)] for name in structure}
    if isinstance(structure, list | tuple):
        return [tensors[tensor.name] for tensor in structure]
    (tensor,) = tensors.values()
    return tensor


def outputs_by_name(model: Any, answer: Any) -> dict[str, Any]:
    """The outputs by their names in a dict, or those of their layers, or `output` if alone.

    Of a dict in the order of the names: some backends give it so, and some not once it was saved.
    """
    if isinstance(answer, list | tuple):
        answer = outputs_in_order(model, answer)
    elif isinstance(answer, Mapping):
        answer = dict(sorted(answer.items()))
    return named_outputs(answer)


def outputs_in_order(model: Any, tensors: Sequence[Any]) -> dict[str, Any]:
    """Several outputs, each by the name of its layer; by its place if a layer gives two."""
    names = list(model.output_names)
    if len(set(names)) < len(tensors):
        names = [f"output_{place}" for place in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


def keras_answers(model: Any, columns: Columns) -> dict[str, NDArray[Any]]:
    """All outputs by name, without gradients."""
    with _no_gradients(model):
        answer = model(structured_inputs(model, columns), training=False)
        return {name: _array(value) for name, value in outputs_by_name(model, answer).items()}


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
