"""PyTorch: any `nn.Module` that `torch.export` can follow.

`bundle.originals.aten` says how it is saved. Programs are compiled from what was saved, and
compared with the module that was handed in; what was saved is held against it first.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.bundle.disk import Manifest
from bascule.bundle.originals import NetworkProgram, aten, installed_version, is_of, named_outputs
from bascule.core import Columns, DType, Invalid, Signature
from bascule.packing.compilers import ROWS, export, to_core, to_onnx
from bascule.packing.flavors.networks import (
    Takes,
    check_saved,
    input_fields,
    output_fields,
    read_given,
    rows_of,
    task_of,
    tried,
)
from bascule.packing.flavors.saved_calls import calls_of, module_of, save_program, write_calls
from bascule.packing.imported import Compilation, ImportedModel
from bascule.packing.probing import bounded


class Torch:
    """See `packing.imported.Flavor`."""

    name = "torch"

    def recognises(self, model: Any) -> bool:
        return is_of(model, "torch") and hasattr(model, "forward")

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        takes = _takes(model)
        given = read_given(train, "train", takes)
        few = take(given.columns, slice(ROWS))
        count = len(next(iter(few.values())))
        ask = partial(_answers, model)
        outputs = output_fields(tried(ask, few), count, list(few))
        inputs = bounded(input_fields(given), given.columns, ask)
        signature = Signature(inputs, outputs, given.names)
        live = program_of(model, signature)
        rows = rows_of(given, signature)
        held_out = None if test is None else rows_of(read_given(test, "test", takes), signature)
        saved = _saved(model, few)
        again = aten.open_calls(saved, aten.FILE, signature.inputs, signature.outputs)
        check_saved(again, live, rows)
        task, classes = task_of(outputs)
        return ImportedModel(
            task=task,
            classes=classes,
            signature=signature,
            original=live,
            saved=saved,
            saved_file=aten.FILE,
            saved_format=aten.FORMAT,
            requires={name: installed_version(name) for name in ("numpy", "safetensors", "torch")},
            train=rows,
            test=held_out,
            parameters={
                "module": repr(type(model).__qualname__),
                "parameters": str(sum(each.numel() for each in model.parameters())),
            },
            reopened=again,
            is_network=True,
        )

    def compilations(self, _model: Any, subject: ImportedModel) -> Iterator[Compilation]:
        assert subject.train is not None
        few = take(subject.train.columns, slice(ROWS))
        inputs, outputs = subject.signature.inputs, subject.signature.outputs
        module = module_from(subject.saved, aten.FILE, subject.signature)
        graph = to_onnx(export(module, _asking(module), _tensors(few)), inputs, outputs)
        yield Compilation("the module's own", graph, inputs, outputs, None)


def reopen(data: bytes, manifest: Manifest) -> Any:
    """A module that makes the saved calls: what it computes, without its code.

    Packed again, it is saved as the same calls, and neither followed nor taken apart once more.

    Raises:
        Untrusted: The file holds something else than known calls on its own tensors.
    """
    return module_from(data, manifest.original.file, manifest.signature)


def module_from(data: bytes, file: str, signature: Signature) -> Any:
    """See `reopen`: of the model's own file, while it is packed."""
    inputs = [field.name for field in signature.inputs]
    outputs = [field.name for field in signature.outputs]
    return module_of(aten.read_calls(data, file, len(inputs), len(outputs)), inputs, outputs)


def _saved(model: Any, few: Columns) -> bytes:
    calls = calls_of(model)
    if calls is not None:
        return write_calls(calls)
    with evaluating(model):
        return save_program(to_core(export(model, _asking(model), _tensors(few)), aten.WHOLE))


def program_of(module: Any, signature: Signature) -> NetworkProgram:
    """A module as it was handed in, as a program."""
    return NetworkProgram(partial(_answers, module), signature.inputs, signature.outputs)


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module and all inside it in evaluation mode; afterwards each in the mode that it had."""
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True


def _takes(module: Any) -> Takes:
    import torch

    if calls_of(module) is not None:
        return Takes(module.inputs)  # in the types that the signature has
    if isinstance(module, torch.jit.ScriptModule):
        raise Invalid(
            "the model is TorchScript, which PyTorch no longer keeps up",
            hint="pack the nn.Module that it was made from",
        )
    tensors = [*module.parameters(), *module.buffers()]
    away = [tensor.device for tensor in tensors if tensor.device.type != "cpu"]
    if away:
        raise Invalid(f"the module is on {away[0]}", hint="pack module.cpu()")
    required: list[str] = []
    optional: list[str] = []
    any_name = False
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            any_name = True
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise Invalid(
                f"forward takes {parameter}, which has no name to be asked by",
                hint="wrap the module in one whose forward(self, a, b) names its inputs",
                field=name,
            )
        else:
            (required if parameter.default is parameter.empty else optional).append(name)
    numbers = {
        str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()
    }
    number = DType.of(np.dtype(numbers.pop())) if len(numbers) == 1 and numbers <= _NUMPY else None
    return Takes(tuple(required), tuple(optional), any_name, number)


_NUMPY = {"float16", "float32", "float64"}


def _asking(module: Any) -> Any:
    return lambda tensors: tuple(named_outputs(module(**tensors)).values())


def _tensors(columns: Columns) -> dict[str, Any]:
    return {name: aten.tensor_of(values) for name, values in columns.items()}


def _answers(module: Any, columns: Columns) -> dict[str, NDArray[Any]]:
    import torch

    with evaluating(module), torch.no_grad():
        answer = module(**_tensors(columns))
    return {name: tensor.numpy() for name, tensor in named_outputs(answer).items()}
