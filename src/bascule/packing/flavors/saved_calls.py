"""Writes a PyTorch module as what it computes, in the form that `bundle.originals.aten` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bascule.bundle.originals import (
    ARITHMETIC,
    GRAPH,
    GRAPH_VERSION,
    Call,
    CallList,
    Result,
    checked_call,
)
from bascule.core import Unconvertible, library

_FORGOTTEN = ("aten._assert", "aten.sym_constrain")
"""Checks of lengths, which say nothing about the answer."""


def module_of(listed: CallList, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """An `nn.Module` that makes the calls: takes its inputs, and answers, by these names."""
    torch = library("torch", "torch")

    class SavedCalls(torch.nn.Module):  # type: ignore[misc, name-defined]  # imported here alone
        def __init__(self) -> None:
            super().__init__()
            self.listed = listed
            self.inputs = tuple(inputs)
            self.training = False
            for place, tensor in enumerate(listed.tensors.values()):
                self.register_buffer(f"tensor_{place}", tensor)

        def forward(self, **given: Any) -> dict[str, Any]:
            held = (getattr(self, f"tensor_{place}") for place in range(len(listed.tensors)))
            answers = listed.answers(
                [given[name] for name in self.inputs], dict(zip(listed.tensors, held, strict=True))
            )
            return dict(zip(outputs, answers, strict=True))

    return SavedCalls()


def calls_of(module: Any) -> CallList | None:
    """What `module_of` made the module of; None for any other module."""
    listed = getattr(module, "listed", None)
    return listed if isinstance(listed, CallList) else None


def save_program(core: Any) -> bytes:
    """The bytes of a program that `compilers.torch.to_core` made, with positional inputs.

    Raises:
        Unconvertible: It does what Core ATen has no word for, draws random numbers, or changes
            itself when it is asked.
    """
    signature = core.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise Unconvertible(
            "the module changes itself or its inputs when it is asked",
            hint="keep no state in forward: requests come in any order, to several processes",
        )
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    known = {**core.constants, **core.state_dict}
    core.graph.eliminate_dead_code()
    tensors = {node: known[target] for node, target in targets.items()}
    calls = [
        _call_of(node)
        for node in core.graph.nodes
        if node.op == "call_function" and not str(node.target).startswith(_FORGOTTEN)
    ]
    return write_calls(
        CallList(
            tuple(signature.user_inputs),
            tensors,
            _places(tensors),
            tuple(calls),
            tuple(_plain_result(name) for name in signature.user_outputs),
        )
    )


def write_calls(listed: CallList) -> bytes:
    """The bytes that `read_calls` reads; the same for what it read from such bytes."""
    library("safetensors.torch", "torch")
    from safetensors.torch import save as save_tensors

    graph = {
        "version": GRAPH_VERSION,
        "inputs": list(listed.entries),
        "tensors": dict(listed.places),
        "calls": [_written(call) for call in listed.calls],
        "outputs": list(listed.results),
    }
    words = json.dumps(graph, sort_keys=True, separators=(",", ":"))
    kept = {
        place: listed.tensors[name].detach().clone().contiguous()
        for name, place in listed.places.items()
        if name == place
    }
    return bytes(save_tensors(kept, {GRAPH: words}))


def _places(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Which tensor every name stands for: each is kept once, though modules may share it."""
    places: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        which = (
            tensor.untyped_storage().data_ptr(), tensor.storage_offset(),
            tuple(tensor.shape), tensor.stride(), tensor.dtype,
        )  # fmt: skip
        places[name] = seen.setdefault(which, name)
    return places


def _plain_result(name: Any) -> str:
    if not isinstance(name, str):
        raise Unconvertible(
            f"the module answers {name!r} for all rows", hint="answer tensors of the rows"
        )
    return name


def _call_of(node: Any) -> Call:
    op = _name_of(node.target)
    arguments = tuple(_argument(value) for value in node.args)
    named = {str(key): _argument(value) for key, value in node.kwargs.items()}
    return checked_call(node.name, op, arguments, named)


def _argument(value: Any) -> Any:
    import torch

    if isinstance(value, torch.fx.Node):
        return Result(value.name)
    if isinstance(value, list | tuple):
        return [_argument(item) for item in value]
    return value


def _written(call: Call) -> dict[str, Any]:
    made: dict[str, Any] = {"name": call.name, "op": call.op}
    if call.arguments:
        made["args"] = [_encoded(argument, call.op) for argument in call.arguments]
    if call.named:
        made["kwargs"] = {key: _encoded(value, call.op) for key, value in call.named.items()}
    return made


def _name_of(target: Any) -> str:
    for name, function in ARITHMETIC.items():
        if target is function:
            return name
    return str(target)


def _encoded(value: Any, op: str) -> Any:
    """A value as JSON: everything that JSON has no word for is an object with one key."""
    import torch

    if isinstance(value, Result):
        return {"of": value.name}
    if isinstance(value, list):
        return [_encoded(item, op) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for kind in ("dtype", "memory_format", "layout"):
        if isinstance(value, getattr(torch, kind)):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device) and value.type == "cpu":
        return {"device": "cpu"}
    raise Unconvertible(f"the module hands {type(value).__name__} {value} to {op}")
