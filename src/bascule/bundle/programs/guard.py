"""Looks into an ONNX graph before the runtime does, and refuses what a bundle has no business with.

Refused are: tensors whose data lives in another file; operators that are not the runtime's own;
operators that open files; tensors over `limits.MAX_TENSOR_ELEMENTS`, and requests by constant for
grown ones over `limits.MAX_GROWN_ELEMENTS`; graphs nested over `limits.MAX_GRAPH_DEPTH`; trees that
lead the runtime astray (see `forests`); and bytes that are no ONNX model at all, such as the
runtime's own format, which it would take too.

Field numbers are those of `onnx.proto` (ONNX IR version 12). No framework is imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bascule.bundle.limits import (
    MAX_GRAPH_DEPTH,
    MAX_GROWN_ELEMENTS,
    MAX_NODES,
    MAX_TENSOR_ELEMENTS,
)
from bascule.bundle.programs.forests import OPERATORS as TREES
from bascule.bundle.programs.forests import Attribute, fault, read_attribute
from bascule.bundle.programs.wire import BYTES, Damaged, Record, numbers, records
from bascule.core.errors import Untrusted

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Where the runtime's own operators live. Any other one needs a library of somebody's."""

_OPENS_FILES = frozenset({"EPContext", "PyOp"})
_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Pad": 1, "Resize": 3}
"""Which input says how large the answer is."""
_SHAPE_ATTRIBUTE = frozenset({"RandomNormal", "RandomUniform"})
_INT64 = 7
_MOST_NUMBERS_OF_A_SHAPE = 64


@dataclass(slots=True)
class _Scope:
    """What one graph, and those around it, know of constants."""

    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    depth: int = 0


@dataclass(slots=True)
class _Node:
    kind: str = ""
    domain: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    value: tuple[int, ...] | None = None
    attributes: list[tuple[int, int]] = field(default_factory=list)


def check_graph(data: bytes, file: str) -> None:
    """Raise `Untrusted` when the serialized model holds something of the above.

    Args:
        data: The model's bytes.
        file: What to call it.
    """
    try:
        _Guard(data, file).model()
    except (Damaged, IndexError, UnicodeDecodeError):
        raise Untrusted(
            f"{file} cannot be loaded by ONNX Runtime: it is no ONNX model", file=file
        ) from None


class _Guard:
    def __init__(self, data: bytes, file: str) -> None:
        self._data = data
        self._file = file
        self._functions: set[tuple[str, str]] = set()
        self._nodes = 0

    def model(self) -> None:
        parts = list(records(self._data, 0, len(self._data)))
        if not any(number == 7 and kind == BYTES for number, kind, _, _ in parts):
            raise Damaged("no graph")
        for number, kind, start, end in parts:
            if number == 25 and kind == BYTES:
                self._functions.add(self._name_of_function(start, end))
        for number, kind, start, end in parts:
            if kind != BYTES:
                continue
            if number == 7:
                self._graph(start, end, _Scope())
            elif number == 20:
                for inner, inner_kind, begin, stop in records(self._data, start, end):
                    if inner in (1, 2) and inner_kind == BYTES:
                        self._graph(begin, stop, _Scope())
            elif number == 25:
                self._function(start, end)

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode()

    def _name_of_function(self, start: int, end: int) -> tuple[str, str]:
        name = domain = ""
        for number, kind, begin, stop in records(self._data, start, end):
            if kind == BYTES and number == 1:
                name = self._text(begin, stop)
            elif kind == BYTES and number == 10:
                domain = self._text(begin, stop)
        return domain, name

    def _function(self, start: int, end: int) -> None:
        scope = _Scope()
        for number, kind, begin, stop in records(self._data, start, end):
            if kind == BYTES and number == 7:
                self._node(begin, stop, scope)
            elif kind == BYTES and number == 11:
                self._attribute(begin, stop, scope, _Node())

    def _graph(self, start: int, end: int, outer: _Scope) -> None:
        scope = _Scope(dict(outer.constants), outer.depth + 1)
        if scope.depth > MAX_GRAPH_DEPTH:
            raise self._refused(f"nests graphs more than {MAX_GRAPH_DEPTH} deep")
        parts = list(records(self._data, start, end))
        for number, kind, begin, stop in parts:
            if kind == BYTES and number == 5:
                name, value = self._tensor(begin, stop)
                if value is not None:
                    scope.constants[name] = value
            elif kind == BYTES and number == 15:
                self._sparse(begin, stop)
        for number, kind, begin, stop in parts:
            if kind == BYTES and number == 1:
                self._node(begin, stop, scope)

    def _node(self, start: int, end: int, scope: _Scope) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refused(f"holds more than {MAX_NODES:,} operators")
        node = _Node()
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
                self._attribute(begin, stop, scope, node)
            elif number == 7:
                node.domain = self._text(begin, stop)
        self._judge(node, scope)
        if node.kind == "Constant" and node.value is not None and node.outputs:
            scope.constants[node.outputs[0]] = node.value

    def _judge(self, node: _Node, scope: _Scope) -> None:
        if node.domain not in DOMAINS and (node.domain, node.kind) not in self._functions:
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
            return
        elements = math.prod(max(1, abs(length)) for length in asked)
        if elements > MAX_GROWN_ELEMENTS:
            raise self._refused(
                f"asks for a tensor of {elements:,} elements by {node.kind}, and "
                f"{MAX_GROWN_ELEMENTS:,} are allowed"
            )

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
            if number == 8 and short:
                values += numbers(self._data, record)
            if kind != BYTES:
                continue
            if number == 1:
                name = self._text(begin, stop)
            elif number in (5, 10):
                _, value = self._tensor(begin, stop)
                node.value = value if number == 5 else None
            elif number in (6, 11):
                self._graph(begin, stop, scope)
            elif number in (22, 23):
                self._sparse(begin, stop)
        if name == "shape":
            node.shape = tuple(values)
        elif name == "value_ints":
            node.value = tuple(values)

    def _tensor(self, start: int, end: int) -> tuple[str, tuple[int, ...] | None]:
        """A tensor's name, and its numbers where they may be a shape."""
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
        if kind_of_data != _INT64:
            return name, None
        if raw is not None:
            _, _, begin, stop = raw
            if stop - begin > 8 * _MOST_NUMBERS_OF_A_SHAPE:
                return name, None
            return name, tuple(
                int.from_bytes(self._data[at : at + 8], "little", signed=True)
                for at in range(begin, stop, 8)
            )
        return name, tuple(listed) if listed else None

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


def _range_length(bounds: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    (start,), (limit,), (step,) = bounds  # type: ignore[misc]  # none of them is None
    return (max(0, math.ceil((limit - start) / step)),) if step else None
