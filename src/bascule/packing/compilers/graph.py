"""Builds an ONNX graph, one node at a time, with the same names every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle import Prepared, Texts
from bascule.core import DType, Field, Unconvertible

OPSET = 21
IR_VERSION = 10
ML = "ai.onnx.ml"
MICROSOFT = "com.microsoft"
"""Where ONNX Runtime keeps operators of its own that it always has."""
MISSING_TEXT = "\ufdd0missing"
"""What a missing text is inside a program: it begins with a character that Unicode keeps out of
texts, so no category is equal to it."""

_ELEMENTS = {
    DType.BOOL: TensorProto.BOOL,
    DType.FP16: TensorProto.FLOAT16,
    DType.FP32: TensorProto.FLOAT,
    DType.FP64: TensorProto.DOUBLE,
    DType.BYTES: TensorProto.STRING,
    **{dtype: getattr(TensorProto, dtype.value) for dtype in DType if dtype.is_integer},
}


class Graph:
    """A graph in the making. Tensors are spoken of by name."""

    def __init__(self, inputs: tuple[Field, ...]) -> None:
        self.inputs = inputs
        self.ml_opset = 3
        self.uses_microsoft = False
        self.rows_at_once = 0
        self.rounding = 0.0
        self.shares: list[NDArray[np.float64] | None] = []
        self._prepared: dict[tuple[str, tuple[str, ...]], Prepared] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def add(self, op: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name.

        An input is the name of a tensor, or else a constant: numbers and arrays are doubles, those
        of whole numbers have 64 bits.
        """
        return self.add_many(op, inputs, 1, domain=domain, **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[Any], count: int, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; returns their names. Inputs as of `add`."""
        read = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        names = [self.fresh(op) for _ in range(count)]
        self._nodes.append(
            helper.make_node(op, read, names, name=names[0], domain=domain, **attributes)
        )
        return names

    def _constant(self, value: Any) -> str:
        kinds = {"b": np.bool_, "i": np.int64, "u": np.int64}
        return self.constant(value, kinds.get(np.asarray(value).dtype.kind, np.float64))

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        """The name of a constant; equal constants share one."""
        array = np.asarray(value, dtype=dtype)
        raw = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
        key = (str(array.dtype), array.shape, raw)
        if key not in self._known:
            name = self.fresh("constant")
            self._constants[name] = numpy_helper.from_array(array, name)
            self._known[key] = name
        return self._known[key]

    def tensor(self, value: Any, dtype: Any) -> onnx.TensorProto:
        """A tensor for an attribute."""
        return numpy_helper.from_array(np.asarray(value, dtype=dtype), "value")

    def arithmetic(self, tensor: str) -> tuple[str, str, NDArray[Any]] | None:
        """What makes `tensor`, where that is a sum, product... of a tensor and a constant row.

        Returns:
            `Add`, `Sub`, `Mul` or `Div`, the tensor on its left, and the constant on its right.
        """
        for node in reversed(self._nodes):
            if tensor in node.output and node.op_type == "Cast":
                tensor = node.input[0]  # a rounding to floats
            if tensor in node.output and node.op_type in ("Add", "Sub", "Mul", "Div"):
                constant = self._constants.get(node.input[1])
                if constant is not None and node.input[0] not in self._constants:
                    return node.op_type, node.input[0], numpy_helper.to_array(constant)
        return None

    def cast(self, tensor: str, dtype: DType) -> str:
        return self.add("Cast", tensor, to=_ELEMENTS[dtype])

    def prepared_text(self, column: str, steps: tuple[str, ...]) -> str:
        """A text column after some steps of `programs.texts`: one more input of the graph."""
        if column not in {field.name for field in self.inputs}:
            raise Unconvertible(f"{column} is no column of texts as it was sent")
        key = (column, steps)
        if key not in self._prepared:
            name = self.fresh(f"{column}, prepared")
            self._prepared[key] = Prepared(name, column, steps)
        return self._prepared[key].name

    @property
    def texts(self) -> Texts | None:
        """What the graph needs beside its inputs; None where it counts no words."""
        if not self._prepared:
            return None
        return Texts(tuple(self._prepared.values()), self.rows_at_once)

    @property
    def shares_of_one(self) -> NDArray[np.float64] | None:
        """See `Compilation.shares`."""
        return self.shares[0] if len(self.shares) == 1 else None

    def output(self, tensor: str, field: Field) -> None:
        """Declare `tensor` as the output that `field` describes."""
        self._nodes.append(helper.make_node("Identity", [tensor], [field.name], name=field.name))
        self._outputs.append(_declared(field))

    def inline(self, model: onnx.ModelProto, feed: dict[str, str]) -> list[str]:
        """Put another graph's nodes in, its inputs fed from tensors; returns its outputs' names.

        Everything is named anew, by its place: converters number what they make, and go on where
        they left off for the model before.
        """
        prefix = self.fresh("part") + "_"
        names = {**feed, "": ""}

        def renamed(name: str) -> str:
            return names.setdefault(name, f"{prefix}{len(names)}")

        for constant in model.graph.initializer:
            copied = onnx.TensorProto()
            copied.CopyFrom(constant)
            copied.name = renamed(constant.name)
            self._constants[copied.name] = copied
        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            _rename(copy, renamed)
            self._nodes.append(copy)
        for opset in model.opset_import:
            if opset.domain == ML:
                self.ml_opset = max(self.ml_opset, opset.version)
        return [renamed(value.name) for value in model.graph.output]

    def finish(self) -> bytes:
        """The model's bytes. Equal graphs give equal bytes."""
        extra = [one.field for one in self._prepared.values()]
        nodes = _used(self._nodes, {value.name for value in self._outputs})
        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            _without_last_identities(nodes, {field.name for field in (*self.inputs, *extra)}),
            "model",
            [_declared(field) for field in (*self.inputs, *extra)],
            self._outputs,
            [constant for name, constant in self._constants.items() if name in read],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, self.ml_opset)]
        if self.uses_microsoft:
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        model = helper.make_model(
            graph, producer_name="bascule", ir_version=IR_VERSION, opset_imports=opsets
        )
        return bytes(model.SerializeToString(deterministic=True))


@dataclass(frozen=True, slots=True)
class Context:
    """What every step is given.

    Attributes:
        graph: Where to put nodes.
        foreign_dtype: In which precision the steps that have no compiler here are converted by
            skl2onnx.
        sparse: Whether the original hands its last step a sparse matrix.
    """

    graph: Graph
    foreign_dtype: DType
    sparse: bool = False


def _rename(node: onnx.NodeProto, renamed: Callable[[str], str]) -> None:
    """A node's own name, what it reads and makes, and the same of the graphs inside it."""
    for part in (node.input, node.output):
        part[:] = [renamed(name) for name in part]
    node.name = renamed(f"node of {next(iter(node.output))}")
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            graph.name = "inner"
            for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
                value.name = renamed(value.name)
            for inner in graph.node:
                _rename(inner, renamed)


def _declared(field: Field) -> onnx.ValueInfoProto:
    shape = [None, *(None if length < 0 else length for length in field.shape)]
    return helper.make_tensor_value_info(field.name, _ELEMENTS[field.dtype], shape)


def _used(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Without the nodes whose outputs have no reader, such as those merged into others."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted = wanted | set(node.input)
    return kept[::-1]


def _without_last_identities(nodes: list[onnx.NodeProto], inputs: set[str]) -> list[onnx.NodeProto]:
    """Name what an output's Identity copies as the output itself, where nothing forbids it."""
    renames: dict[str, str] = {}
    kept = []
    for node in nodes:
        source = node.input[0] if node.op_type == "Identity" and len(node.input) else ""
        produced = any(source in other.output for other in nodes) if source else False
        if (
            node.name == node.output[0]
            and source
            and produced
            and source not in renames | dict.fromkeys(inputs, "")
        ):
            renames[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [renames.get(name, name) for name in node.input]
        node.output[:] = [renames.get(name, name) for name in node.output]
    return kept


def as_column(array: NDArray[Any]) -> NDArray[Any]:
    """A constant that broadcasts over rows: shape (1, n)."""
    return np.asarray(array).reshape(1, -1)
