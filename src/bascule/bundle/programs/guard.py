"""Looks into an ONNX graph before the runtime does, and refuses what a bundle has no business with.

Refused are: tensors whose data lives in another file; operators that are not the runtime's own;
operators that open files; tensors over `limits.MAX_TENSOR_ELEMENTS`, and requests by constant for
grown ones over `limits.MAX_GROWN_ELEMENTS`; graphs nested over `limits.MAX_GRAPH_DEPTH`; functions
that call themselves, that are given graphs, or that grow to over `limits.MAX_NODES` operators or
copy over `limits.MAX_INLINED` when they are inlined; loops that nothing ends, or that constants
have take over `limits.MAX_STEPS` steps; trees that lead the runtime astray (see `forests`); and
bytes that are no ONNX model at all, such as the runtime's own format, which it would take too.

Field numbers are those of `onnx.proto` (ONNX IR version 12). No framework is imported.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, field

from bascule.bundle.disk import (
    MAX_GRAPH_DEPTH,
    MAX_GROWN_ELEMENTS,
    MAX_INLINED,
    MAX_NODES,
    MAX_STEPS,
    MAX_TENSOR_ELEMENTS,
)
from bascule.bundle.programs.forests import OPERATORS as TREES, Attribute, fault, read_attribute
from bascule.bundle.programs.wire import BYTES, VARINT, Damaged, Record, numbers, records
from bascule.core import Untrusted

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Where the runtime's own operators live. Any other one needs a third-party library."""

_OPENS_FILES = frozenset({"EPContext", "PyOp"})
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Pad": 1, "Resize": 3}
"""Which input says how large the answer is."""
_SHAPE_ATTRIBUTE = frozenset({"RandomNormal", "RandomUniform"})
_KEEP_VALUES = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Concat"})
"""What hands on all numbers of its first input, or those of every input one after the other."""
_KEEP_SIZE = _KEEP_VALUES | {"Constant", "Flatten", "Shape", "Size", "Slice", "Split", "Transpose"}
"""What answers with no more elements than all of its inputs have."""
_MULTIPLY_SIZES = frozenset(
    (
        "Abs", "Add", "And", "ArgMax", "ArgMin", "Ceil", "Clip", "CumSum", "DequantizeLinear",
        "Div", "Equal", "Erf", "Exp", "Floor", "Gather", "Gemm", "Greater", "GreaterOrEqual",
        "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
        "Pow", "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceProd", "ReduceSum", "Relu", "Round", "ScatterElements", "ScatterND", "Sigmoid",
        "Sign", "Sqrt", "Sub", "Tanh", "Where", "Xor",
    )
)  # fmt: skip
"""What takes no more time, and no more elements, than the sizes of its inputs multiplied."""
_INT64 = 7
_MOST_NUMBERS_OF_A_SHAPE = 64


@dataclass(slots=True)
class _Scope:
    """What one graph, and those around it, know of constants; and what running it takes.

    Attributes:
        constants: Whole numbers that may be shapes or counts, by name.
        sizes: Elements of what can be computed from constants alone, at most, by name.
        depth: Of graphs inside graphs.
        inputs: The names of its own.
        outputs: The names of its own.
        nodes: Its operators where functions are inlined.
        weight: The same, each with its kilobytes.
        copied: How much of `weight` is copied from functions.
        steps: Its operators, each as often as constants say that it is run.
    """

    constants: ChainMap[str, tuple[int, ...]] = field(default_factory=ChainMap)
    sizes: ChainMap[str, float] = field(default_factory=ChainMap)
    depth: int = 0
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: int = 0
    weight: int = 0
    copied: int = 0
    steps: int = 0


@dataclass(slots=True)
class _Node:
    kind: str = ""
    domain: str = ""
    overload: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    value: tuple[int, ...] | None = None
    size: float = 1
    kilobytes: int = 0
    scanned: int = 0
    bodies: list[_Scope] = field(default_factory=list)
    attributes: list[tuple[int, int]] = field(default_factory=list)


def check_graph(data: bytes, file: str) -> bool:
    """Raise `Untrusted` when the serialized model holds something of the above.

    Args:
        data: The model's bytes.
        file: What to call it.

    Returns:
        Whether the runtime may compute constants when it opens the graph: not where that might take
        long, or much memory.
    """
    try:
        return _Guard(data, file).model()
    except (Damaged, IndexError, UnicodeDecodeError):
        raise Untrusted(
            f"{file} cannot be loaded by ONNX Runtime: it is no ONNX model", file=file
        ) from None


class _Guard:
    def __init__(self, data: bytes, file: str) -> None:
        self._data = data
        self._file = file
        self._functions: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._called: dict[tuple[str, str, str], _Scope] = {}
        self._calling: list[tuple[str, str, str]] = []
        self._folded = 0.0
        self._nodes = 0

    def model(self) -> bool:
        parts = list(records(self._data, 0, len(self._data)))
        if not any(number == 7 and kind == BYTES for number, kind, _, _ in parts):
            raise Damaged("no graph")
        for number, kind, start, end in parts:
            if number == 25 and kind == BYTES:
                name = self._name_of_function(start, end)
                if name in self._functions:
                    raise self._refused(f"has two functions {name[1]}")
                self._functions[name] = (start, end)
        for number, kind, start, end in parts:
            if kind != BYTES:
                continue
            if number == 7:
                self._bound(self._graph(start, end, _Scope()))
            elif number == 20:
                for inner, inner_kind, begin, stop in records(self._data, start, end):
                    if inner in (1, 2) and inner_kind == BYTES:
                        self._bound(self._graph(begin, stop, _Scope()))
        for name in self._functions:
            self._function(name)
        return self._folded <= max(MAX_GROWN_ELEMENTS, 4 * len(self._data))

    def _bound(self, scope: _Scope) -> None:
        if scope.nodes > MAX_NODES:
            raise self._refused(f"grows to more than {MAX_NODES:,} operators by its functions")
        if scope.copied > MAX_INLINED:
            raise self._refused(
                f"has over {MAX_INLINED:,} operators, or kilobytes of them, copied by functions"
            )
        if scope.steps > MAX_STEPS:
            raise self._refused(f"tells its loops to take more than {MAX_STEPS:,} steps")

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode()

    def _name_of_function(self, start: int, end: int) -> tuple[str, str, str]:
        texts = {1: "", 10: "", 13: ""}
        for number, kind, begin, stop in records(self._data, start, end):
            if kind == BYTES and number in texts:
                texts[number] = self._text(begin, stop)
        return texts[10], texts[1], texts[13]

    def _function(self, name: tuple[str, str, str]) -> _Scope:
        """What a call of a function takes; each is looked at once."""
        if name in self._called:
            return self._called[name]
        if name in self._calling:
            raise self._refused(f"has a function {name[1]} that calls itself")
        if len(self._calling) >= MAX_GRAPH_DEPTH:
            raise self._refused(f"nests calls of functions more than {MAX_GRAPH_DEPTH} deep")
        self._calling.append(name)
        scope = _Scope()
        for number, kind, begin, stop in records(self._data, *self._functions[name]):
            if kind == BYTES and number == 7:
                self._node(begin, stop, scope)
            elif kind == BYTES and number == 11:
                self._attribute(begin, stop, scope, _Node())
        self._calling.pop()
        self._called[name] = scope
        return scope

    def _graph(self, start: int, end: int, outer: _Scope, *, in_loop: bool = False) -> _Scope:
        scope = _Scope(outer.constants.new_child(), outer.sizes.new_child(), outer.depth + 1)
        if scope.depth > MAX_GRAPH_DEPTH:
            raise self._refused(f"nests graphs more than {MAX_GRAPH_DEPTH} deep")
        parts = list(records(self._data, start, end))
        for number, kind, begin, stop in parts:
            if kind == BYTES and number == 5:
                name, value, scope.sizes[name] = self._tensor(begin, stop)
                if value is not None:
                    scope.constants[name] = value
            elif kind == BYTES and number in (11, 12):
                named = records(self._data, begin, stop)
                name = next((self._text(at, to) for one, _, at, to in named if one == 1), "")
                (scope.inputs if number == 11 else scope.outputs).append(name)
            elif kind == BYTES and number == 15:
                self._sparse(begin, stop)
        if in_loop and len(scope.inputs) > 1:
            # The condition of the step before, which changes only if something computes another.
            scope.sizes[scope.inputs[1]] = 1
        for number, kind, begin, stop in parts:
            if kind == BYTES and number == 1:
                self._node(begin, stop, scope)
        return scope

    def _node(self, start: int, end: int, scope: _Scope) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refused(f"holds more than {MAX_NODES:,} operators")
        node = _Node(kilobytes=(end - start) >> 10)
        for number, kind, begin, stop in records(self._data, start, end):
            if kind != BYTES:
                continue
            if number == 1:
                node.inputs.append(self._text(begin, stop))
            elif number == 2:
                node.outputs.append(self._text(begin, stop))
            elif number == 3:
                node.name = self._data[begin:stop].decode(errors="replace")
            elif number == 4:
                node.kind = self._text(begin, stop)
            elif number == 5:
                node.attributes.append((begin, stop))
            elif number == 7:
                node.domain = self._text(begin, stop)
            elif number == 8:
                node.overload = self._text(begin, stop)
        for begin, stop in node.attributes:
            self._attribute(begin, stop, scope, node)
        asked = self._judge(node, scope)
        value = node.value if node.kind == "Constant" else _value(node, scope)
        if value is not None and node.outputs:
            scope.constants[node.outputs[0]] = value
        self._count(node, scope, asked)

    def _count(self, node: _Node, scope: _Scope, asked: int | None) -> None:
        """Add what a node takes, and what it makes of constants."""
        scope.nodes += 1
        scope.weight += 1 + node.kilobytes
        scope.steps += 1
        name = (node.domain, node.kind, node.overload)
        sizes = tuple(scope.sizes.get(one) for one in node.inputs)
        if name in self._functions:
            called = self._function(name)
            if node.bodies:
                raise self._refused(f"gives a graph to the function {node.kind}")
            # Each operator of a function may refer to what it is given, and get a copy.
            copied = called.weight + called.nodes * node.kilobytes
            scope.nodes += called.nodes
            scope.weight += copied
            scope.copied += copied
            scope.steps += called.steps
            if any(size is not None for size in sizes):
                self._folded = math.inf  # what the function makes of it is not followed
            return
        if node.bodies:
            trips = self._trips(node, scope)
            scope.nodes += sum(body.nodes for body in node.bodies)
            scope.weight += sum(body.weight for body in node.bodies)
            scope.copied += sum(body.copied for body in node.bodies)
            scope.steps += trips * sum(body.steps for body in node.bodies)
            return
        known = [size for one, size in zip(node.inputs, sizes, strict=True) if one]
        if node.kind in _SHAPE_ATTRIBUTE or None in known:
            return
        size = math.inf
        if asked is not None:
            size = asked * max(1.0, *(one or 0 for one in known), 1.0)
        elif node.domain == "" and node.kind in _KEEP_SIZE:
            size = node.size + sum(one or 0 for one in known)
        elif node.domain == "" and node.kind in _MULTIPLY_SIZES:
            size = math.prod(max(1.0, one or 0) for one in known)
        self._folded += size if node.kind != "Constant" else 0
        scope.sizes.update(dict.fromkeys(node.outputs, size))

    def _trips(self, node: _Node, scope: _Scope) -> int:
        """How often constants alone have a loop run; 1 where something else decides."""
        if node.kind == "Scan":
            # One that is no longer than the file has its elements in it; a grown one has not.
            found = [scope.sizes.get(name, 1) for name in node.inputs[-node.scanned :]]
            longest = min(found, default=1)
            is_grown = longest > len(self._data) or scope.depth > 1
            return int(min(longest, MAX_STEPS + 1)) if is_grown else 1
        outputs = node.bodies[0].outputs
        if node.kind != "Loop" or not outputs or outputs[0] not in node.bodies[0].sizes:
            return 1
        limit = node.inputs[0] if node.inputs else ""
        if not limit:
            raise self._refused("holds a loop that nothing ends")
        count = scope.constants.get(limit)
        return max(1, count[0]) if count else 1

    def _judge(self, node: _Node, scope: _Scope) -> int | None:
        """Raise what is wrong with a node; returns how many elements it asks for by constants."""
        name = (node.domain, node.kind, node.overload)
        if node.domain not in DOMAINS and name not in self._functions:
            raise self._refused(
                f"uses the operator {node.domain}.{node.kind}, which is not the runtime's own",
                hint="export the model with the operators of ONNX",
            )
        if node.kind in _OPENS_FILES:
            raise self._refused(f"uses the operator {node.kind}, which reads other files")
        if node.kind in TREES:
            self._judge_trees(node)
        asked: Sequence[int] | None = None
        if node.kind in _SHAPE_ATTRIBUTE:
            asked = node.shape
        elif node.kind in _SHAPE_INPUT and len(node.inputs) > _SHAPE_INPUT[node.kind]:
            asked = scope.constants.get(node.inputs[_SHAPE_INPUT[node.kind]])
        elif node.kind == "Range" and len(node.inputs) == 3:
            asked = _range_length([scope.constants.get(name) for name in node.inputs])
        if asked is None:
            return None
        elements = math.prod(max(1, abs(length)) for length in asked)
        if elements > MAX_GROWN_ELEMENTS:
            raise self._refused(
                f"asks for a tensor of {elements:,} elements by {node.kind}, and "
                f"{MAX_GROWN_ELEMENTS:,} are allowed"
            )
        return elements

    def _judge_trees(self, node: _Node) -> None:
        known: dict[str, Attribute] = {}
        for start, end in node.attributes:
            name, attribute = read_attribute(self._data, start, end)
            if name in known:
                raise self._refused(f"says twice what the {name} of {node.kind} are")
            known[name] = attribute
        if wrong := fault(node.kind, known):
            raise self._refused(f"holds trees in {node.kind} with {wrong}")

    def _attribute(self, start: int, end: int, scope: _Scope, node: _Node) -> None:
        name = ""
        values: list[int] = []
        # Numbers are stepped over where there are many; a shape is short, and is read.
        short = end - start <= 16 * _MOST_NUMBERS_OF_A_SHAPE
        for record in records(self._data, start, end, skip_numbers=not short):
            number, kind, begin, stop = record
            if (number == 8 and short) or (number == 3 and kind == VARINT):
                values += numbers(self._data, record)
            if kind != BYTES:
                continue
            if number == 1:
                name = self._text(begin, stop)
            elif number in (5, 10):
                _, value, node.size = self._tensor(begin, stop)
                node.value = value if number == 5 else None
            elif number in (6, 11):
                in_loop = node.kind == "Loop"
                node.bodies.append(self._graph(begin, stop, scope, in_loop=in_loop))
            elif number in (22, 23):
                self._sparse(begin, stop)
        if name == "num_scan_inputs" and values:
            node.scanned = values[-1]
        elif name == "shape":
            node.shape = tuple(values)
        elif name in ("value_int", "value_ints"):
            node.value = tuple(values)

    def _tensor(self, start: int, end: int) -> tuple[str, tuple[int, ...] | None, float]:
        """A tensor's name, its numbers where they may be a shape, and how many it has."""
        name, kind_of_data = "", 0
        dims: list[int] = []
        raw: Record | None = None
        listed: list[int] = []
        for record in records(self._data, start, end):
            number, kind, begin, stop = record
            if number == 1:
                dims += numbers(self._data, record)
            elif number == 2:
                kind_of_data = begin
            elif number == 8 and kind == BYTES:
                name = self._text(begin, stop)
            elif number == 9 and kind == BYTES:
                raw = record
            elif number == 7 and len(listed) <= _MOST_NUMBERS_OF_A_SHAPE and stop - begin < 1024:
                listed += numbers(self._data, record)
            elif number == 13 or (number == 14 and begin == 1):
                raise self._refused(
                    "refers to data in other files",
                    hint="save the model with its weights inside, as one file",
                )
        self._check_size(dims, f"tensor {name!r}")
        size = float(math.prod(dims))
        if kind_of_data != _INT64:
            return name, None, size
        if raw is not None:
            _, _, begin, stop = raw
            if stop - begin > 8 * _MOST_NUMBERS_OF_A_SHAPE:
                return name, None, size
            values = (self._data[at : at + 8] for at in range(begin, stop, 8))
            return name, tuple(int.from_bytes(v, "little", signed=True) for v in values), size
        return name, tuple(listed) if listed else None, size

    def _sparse(self, start: int, end: int) -> None:
        dims: list[int] = []
        for record in records(self._data, start, end):
            number, kind, begin, stop = record
            if number in (1, 2) and kind == BYTES:
                self._tensor(begin, stop)
            elif number == 3:
                dims += numbers(self._data, record)
        # The runtime makes a full tensor of it.
        if math.prod(max(1, length) for length in dims) > MAX_GROWN_ELEMENTS:
            raise self._refused(f"holds a sparse tensor of the shape {dims[:8]}")

    def _check_size(self, dims: Sequence[int], what: str) -> None:
        if any(length < 0 for length in dims):
            raise self._refused(f"holds {what} of the shape {list(dims)[:8]}")
        if math.prod(max(1, length) for length in dims) > MAX_TENSOR_ELEMENTS:
            raise self._refused(
                f"holds {what} of the shape {list(dims)[:8]}, and {MAX_TENSOR_ELEMENTS:,} elements "
                "are allowed"
            )

    def _refused(self, what: str, hint: str = "") -> Untrusted:
        return Untrusted(f"{self._file} {what}", hint=hint, file=self._file)


def _value(node: _Node, scope: _Scope) -> tuple[int, ...] | None:
    """The whole numbers that a node makes of constants, where they may be a shape or a count."""
    known = [scope.constants.get(name) for name in node.inputs]
    if node.kind in _KEEP_VALUES and node.kind != "Concat":
        return known[0] if known else None
    found = [one for one in known if one is not None]
    if node.domain or len(found) < len(known) or not found:
        return None
    if node.kind == "Concat" and sum(map(len, found)) <= _MOST_NUMBERS_OF_A_SHAPE:
        return tuple(number for one in found for number in one)
    if node.kind in ("Add", "Mul") and {len(one) for one in found} == {1}:
        numbers_of = [one[0] for one in found]
        return (sum(numbers_of) if node.kind == "Add" else math.prod(numbers_of),)
    return None


def _range_length(bounds: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    (start,), (limit,), (step,) = bounds  # type: ignore[misc]  # none of them is None
    return (max(0, math.ceil((limit - start) / step)),) if step else None
