"""A PyTorch module saved as what it computes: calls of Core ATen, and its tensors.

PyTorch's own files cannot be opened safely. A pickle runs what it says. An exported program (.pt2)
names the functions that it calls, and its reader takes any that can be reached from the package
`torch`, `os.system` among them. So the calls are kept here as a list in JSON, in the header of a
safetensors file that holds the tensors, and only these are known: the operators that PyTorch marks
as Core ATen (the list that each of its backends has to know), without those that write to their
arguments, draw random numbers, or hand out memory as they find it; the few of `WHOLE`; and
arithmetic on lengths.

Why not ONNX and safetensors alone: parity compares a program with what PyTorch computes, and a
bundle is rebuilt from its original. An original in ONNX would be the program itself: nothing would
prove the exporter right, and no later exporter could be used.

Programs are compiled from the list, and not from the module that it was made of. So whoever has the
list can compile them again. `packing.flavors.saved_calls` writes it.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bascule.bundle.disk import MAX_GRAPH_DEPTH, MAX_GROWN_ELEMENTS, MAX_NODES, Manifest
from bascule.bundle.originals.networks import NetworkProgram
from bascule.core import Columns, Field, Unconvertible, Untrusted, first_line, library

FORMAT = "torch-aten"
FILE = "original/model.safetensors"
GRAPH = "graph"
GRAPH_VERSION = 1

ARITHMETIC: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem",
        "eq", "ne", "lt", "le", "gt", "ge",
    )
}  # fmt: skip
_UNCLEAN = ("empty", "_backward", "_local_scalar_dense")
"""Parts of names: memory as it is found, derivatives, and values that would become Python's."""
WHOLE: Mapping[str, str | None] = {
    "aten.gru.input": "train",
    "aten.linear.default": None,
    "aten.lstm.input": "train",
    "aten.scaled_dot_product_attention.default": "dropout_p",
}
"""Operators that are kept though Core ATen would say them in smaller ones, by the hundred for each
step of a recurrent network: ONNX has one for each as well. With the argument that has to be off,
where they would draw random numbers.
"""
_GRU, _LSTM = 3, 4
"""How many gates each has: so many times its width are its weights long."""
_SIZED = {
    "aten.full.default": 0,
    "aten.arange.start_step": 1,
    "aten.repeat.default": 1,
    "aten.expand.default": 1,
    "aten.constant_pad_nd.default": 1,
}
"""Which argument says how large the answer is, where it may be far larger than what is given."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: what it is known by, which function by which name, and what it is handed."""

    name: str
    op: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    done_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """In the place of an argument: the result of the call of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class CallList:
    """All that a file holds.

    Attributes:
        entries: What the inputs are known by, in the order of the signature.
        tensors: By what calls know them by.
        places: Under which name the file holds each; several may be one.
        calls: Each after those whose results it uses.
        results: What is answered, in the order of the signature.
    """

    entries: tuple[str, ...]
    tensors: Mapping[str, Any]
    places: Mapping[str, str]
    calls: tuple[Call, ...]
    results: tuple[str, ...]

    def answers(self, given: Sequence[Any], tensors: Mapping[str, Any]) -> list[Any]:
        """The results for these inputs, tensors both; with these in the place of its own."""
        values = {**tensors, **dict(zip(self.entries, given, strict=True))}
        for call in self.calls:
            values[call.name] = call.function(
                *(_given(argument, values) for argument in call.arguments),
                **{name: _given(value, values) for name, value in call.named.items()},
            )
            for name in call.done_with:
                del values[name]
        return [values[name] for name in self.results]


def tensor_of(values: Any) -> Any:
    """A tensor of an array; a copy where the array may not be written to, as PyTorch asks for."""
    import torch

    return torch.from_numpy(values if values.flags.writeable else values.copy())


def open_aten(data: bytes, manifest: Manifest, *, threads: int = 1) -> NetworkProgram:
    """The saved original of a bundle.

    How many threads it uses is PyTorch's setting for the whole process; a process of its own is
    started with the right one (`programs.child`).

    Raises:
        Untrusted: The file holds something else than known calls on its own tensors.
    """
    del threads
    return open_calls(
        data, manifest.original.file, manifest.signature.inputs, manifest.signature.outputs
    )


def open_calls(
    data: bytes, file: str, inputs: tuple[Field, ...], outputs: tuple[Field, ...]
) -> NetworkProgram:
    """See `open_aten`."""
    listed = read_calls(data, file, len(inputs), len(outputs))

    def ask(columns: Columns) -> Columns:
        import torch

        with torch.no_grad():
            given = [tensor_of(columns[field.name]) for field in inputs]
            answers = [tensor.numpy() for tensor in listed.answers(given, listed.tensors)]
        return dict(zip((field.name for field in outputs), answers, strict=True))

    return NetworkProgram(ask, inputs, outputs)


def read_calls(data: bytes, file: str, inputs: int, outputs: int) -> CallList:
    """What a file holds, for a signature of so many inputs and outputs.

    Raises:
        Untrusted: Something else than known calls on its own tensors.
    """
    library("torch", "torch")
    load_tensors = library("safetensors.torch", "torch").load
    try:
        graph = _graph(data)
        stored = load_tensors(data)
        places = {str(name): str(place) for name, place in graph["tensors"].items()}
        tensors = {name: stored[place] for name, place in places.items()}
        entries = [str(name) for name in graph["inputs"]]
        results = [str(name) for name in graph["outputs"]]
        if len(entries) != inputs or len(results) != outputs:
            raise ValueError("it has other inputs and outputs than the bundle")
        known = {*tensors, *entries}
        if len(known) != len(tensors) + len(entries):
            raise ValueError("an input has the name of a tensor")
        calls = [_read(call, known) for call in graph["calls"]]
        absent = set(results) - known
        if absent:
            raise ValueError(f"nothing gives {min(absent)!r}")
    except Exception as problem:  # safetensors has errors of its own
        raise Untrusted(f"{file} cannot be read: {first_line(problem)}", file=file) from problem
    freed = _freed(calls, {*results, *tensors})
    return CallList(tuple(entries), tensors, places, tuple(freed), tuple(results))


def _graph(data: bytes) -> Any:
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data) - 8:
        raise ValueError("its header is longer than the file")
    graph = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][GRAPH])
    if graph["version"] != GRAPH_VERSION:
        raise ValueError(f"it is of version {graph['version']!r}, and {GRAPH_VERSION} is known")
    if len(graph["calls"]) > MAX_NODES:
        raise ValueError(f"it holds more than {MAX_NODES:,} calls")
    return graph


def _read(call: Mapping[str, Any], known: set[str]) -> Call:
    """One call, which may use what comes before it; its name is added to what is known."""
    name, op = str(call["name"]), str(call["op"])
    if name in known:
        raise ValueError(f"{name!r} is there twice")
    arguments = tuple(_decoded(value, known) for value in call.get("args", ()))
    named = {str(key): _decoded(value, known) for key, value in call.get("kwargs", {}).items()}
    place = _SIZED.get(op)
    if place is not None and place < len(arguments):
        _check_size(op, arguments[place])
    known.add(name)
    return checked_call(name, op, arguments, named)


def checked_call(name: str, op: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Call:
    """A call; raises `Unconvertible` where it is not known, or would draw random numbers."""
    function = _function(op)
    switch = WHOLE.get(op)
    if switch is not None:
        places = [argument.name for argument in function._schema.arguments]
        given = {**dict(zip(places, arguments, strict=False)), **named}
        if given.get(switch):
            raise Unconvertible(f"{op} draws random numbers where {switch} is on")
    if op in _CAREFUL:
        function = partial(_CAREFUL[op], function)
    return Call(name, op, function, arguments, named)


def _recurrent(gates: int, function: Any, x: Any, state: Any, weights: Any, *settings: Any) -> Any:
    """Calls a recurrent operator with shapes that fit: it follows others out of its memory."""
    has_biases, layers, _, _, is_both_ways, is_batch_first = settings
    ways = 2 if is_both_ways else 1
    states = state if isinstance(state, list) else [state]
    if len(states) != (2 if gates == _LSTM else 1) or any(one.dim() != 3 for one in states):
        raise ValueError("a recurrent step has another state than it asks for")
    # What an LSTM answers may be narrower than what it keeps in its cells.
    answered, width = states[0].shape[-1], states[-1].shape[-1]
    each = 2 + (2 if has_biases else 0) + (answered != width)
    if not layers or len(weights) != layers * ways * each:
        raise ValueError("a recurrent step has another number of weights than it asks for")
    expected: list[tuple[int, ...]] = []
    for layer in range(layers):
        read = ways * answered if layer else x.shape[-1]
        one: list[tuple[int, ...]] = [(gates * width, read), (gates * width, answered)]
        one += [(gates * width,)] * (2 if has_biases else 0)
        one += [(answered, width)] if answered != width else []
        expected += one * ways
    if 0 in (answered, width, x.shape[-1]):
        raise ValueError("a recurrent step has nothing to compute with")
    if [tuple(weight.shape) for weight in weights] != expected:
        raise ValueError("the weights of a recurrent step are of other shapes than it asks for")
    rows = x.shape[0 if is_batch_first else 1]
    kept = [(layers * ways, rows, answered), (layers * ways, rows, width)]
    if [tuple(one.shape) for one in states] != kept[: len(states)]:
        raise ValueError("the state of a recurrent step is of another shape than it asks for")
    if any(tensor.dtype != x.dtype for tensor in (*weights, *states)):
        raise ValueError("a recurrent step computes with numbers of two types")
    return function(x, state, weights, *settings)


def _attention(function: Any, *given: Any, **named: Any) -> Any:
    """Calls attention, which divides by the number of heads where they are shared."""
    if named.get("enable_gqa") and any(0 in tensor.shape[-3:-2] for tensor in given[1:3]):
        raise ValueError("attention has no heads")
    return function(*given, **named)


_CAREFUL: Mapping[str, Callable[..., Any]] = {
    "aten.gru.input": partial(_recurrent, _GRU),
    "aten.lstm.input": partial(_recurrent, _LSTM),
    "aten.scaled_dot_product_attention.default": _attention,
}
"""Operators that would end the process for shapes that no module makes."""


def _function(name: str) -> Any:
    """What is called by that name; raises `Unconvertible` for all that is not known here."""
    import torch

    if name in ARITHMETIC:
        return ARITHMETIC[name]
    space, _, rest = name.partition(".")
    operation, _, overload = rest.partition(".")
    if space == "aten" and operation.isidentifier() and overload.isidentifier():
        found = getattr(getattr(torch.ops.aten, operation, None), overload, None)
        if isinstance(found, torch._ops.OpOverload) and (name in WHOLE or _is_clean(name, found)):
            return found
    raise Unconvertible(f"{name} is none of the operators that a bundle may hold")


def _is_clean(name: str, found: Any) -> bool:
    import torch

    return (
        torch.Tag.core in found.tags
        and torch.Tag.nondeterministic_seeded not in found.tags
        and not found._schema.is_mutable
        and not any(part in name for part in _UNCLEAN)
    )


def _decoded(value: Any, known: set[str], depth: int = 0) -> Any:
    import torch

    if depth > MAX_GRAPH_DEPTH:
        raise ValueError("lists are nested too deep")
    if isinstance(value, list):
        return [_decoded(item, known, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, word),) = value.items()
    if kind == "of":
        if word not in known:
            raise ValueError(f"{word!r} is used before it is there")
        return Result(word)
    if kind == "float":
        return float(word)
    if kind == "device" and word == "cpu":
        return torch.device("cpu")
    if kind in ("dtype", "memory_format", "layout"):
        found = getattr(torch, str(word), None)
        if isinstance(found, getattr(torch, kind)):
            return found
    raise ValueError(f"{kind} {word!r} is not known")


def _check_size(op: str, argument: Any) -> None:
    """Refuse constants that ask for a tensor out of nothing that would fill the memory."""
    lengths = argument if isinstance(argument, list) else [argument]
    elements = math.prod(max(1, abs(n)) for n in lengths if isinstance(n, int))
    if elements > MAX_GROWN_ELEMENTS:
        raise ValueError(
            f"it asks for {elements:,} elements by {op}, and {MAX_GROWN_ELEMENTS:,} are allowed"
        )


def _given(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, Result):
        return values[value.name]
    if isinstance(value, list):
        return [_given(item, values) for item in value]
    return value


def _freed(calls: Sequence[Call], kept: set[str]) -> list[Call]:
    """The calls with what each is the last to use, so that it takes no memory from there on."""
    seen = set(kept)
    made: list[Call] = []
    for call in reversed(calls):
        used = {name for value in (*call.arguments, *call.named.values()) for name in _names(value)}
        last = tuple(sorted({call.name, *used} - seen))
        seen |= used | {call.name}
        made.append(replace(call, done_with=last))
    return made[::-1]


def _names(value: Any) -> list[str]:
    if isinstance(value, Result):
        return [value.name]
    if isinstance(value, list):
        return [name for item in value for name in _names(item)]
    return []
