"""Writes the graph of a program as C statements for one row.

With one row every length is known beforehand: the graph is run once in ONNX Runtime, and each
tensor becomes an array of that many values on the stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bascule.core import Columns
from bascule.packing.compilers import arrays_of, trees as tree_compilers
from bascule.runtimes.program import refused

_TYPES = {
    "f8": "double ", "f4": "float ", "i8": "int64_t ", "i4": "int32_t ", "b1": "unsigned char ",
    "O8": "const char *",
}  # fmt: skip
"""By kind and bytes of the type in NumPy."""
_EACH = {
    "Abs": "{0} < 0 ? -{0} : {0}", "Add": "{0} + {1}", "And": "{0} && {1}", "Div": "{0} / {1}",
    "Equal": "{0} == {1}", "Exp": "exp({0})", "Greater": "{0} > {1}",
    "GreaterOrEqual": "{0} >= {1}", "IsNaN": "{0} != {0}", "Less": "{0} < {1}",
    "LessOrEqual": "{0} <= {1}", "Log": "log({0})", "Mul": "{0} * {1}", "Neg": "-{0}",
    "Not": "!{0}", "Or": "{0} || {1}", "Sqrt": "sqrt({0})", "Sub": "{0} - {1}",
    "Where": "{0} ? {1} : {2}",
}  # fmt: skip
"""Operators that compute each value from those at its place."""
_MOVES = {"Expand", "Gather", "Pad", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move the values of their first input."""
_BEST = {"ArgMax": ">", "ArgMin": "<", "ReduceMax": ">", "ReduceMin": "<"}
_PLAIN = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,:/()"


class Statements:
    """The statements of a graph.

    Attributes:
        lines: Of C, for the body of a function that has whole numbers `i` and `j`.
    """

    def __init__(self, model: onnx.ModelProto, row: Columns, names: Mapping[str, str]) -> None:
        """Write the statements.

        Args:
            model: Its inputs and outputs have the rows as their first dimension.
            row: One row of its inputs.
            names: Of arrays that hold the inputs.

        Raises:
            Unconvertible: An operator, or a type, has no form here; the message names it.
        """
        self.lines: list[str] = []
        self._names = dict(names)
        self._model = model
        self._constants = {
            constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer
        }
        self._values = {**self._constants, **row, **_traced(model, row)}
        for node in model.graph.node:
            if all(name in self._constants for name in node.input if name):
                self._constants[node.output[0]] = self._values[node.output[0]]
            else:
                self._write(node)

    def _write(self, node: onnx.NodeProto) -> None:
        writers = {
            "Cast": self._cast, "Concat": self._concat, "LabelEncoder": self._codes,
            "MatMul": self._product, "ReduceSum": self._sum, "TreeEnsemble": self._trees,
            **dict.fromkeys(_EACH, self._each), **dict.fromkeys(_MOVES, self._move),
            **dict.fromkeys(_BEST, self._best),
        }  # fmt: skip
        if node.op_type in ("Identity", "Reshape"):
            self._names[node.output[0]] = self.array_of(node.input[0])
        elif node.op_type in writers:
            writers[node.op_type](node)
        else:
            self._require(False, node)

    def _require(self, holds: bool, node: onnx.NodeProto) -> None:
        if not holds:
            raise refused(f"the step {node.op_type} has no form in C here")

    def _size(self, tensor: str) -> int:
        return int(self._values[tensor].size)

    def array_of(self, tensor: str) -> str:
        """The array of a tensor; a constant is declared where it is first used."""
        if tensor not in self._names:
            self._names[tensor] = self._table(self._constants[tensor])
        return self._names[tensor]

    def _declare(self, tensor: str) -> str:
        name = self._names[tensor] = f"t{len(self.lines)}"
        self.lines.append(f"{type_of(self._values[tensor])}{name}[{self._size(tensor)}];")
        return name

    def _table(self, values: NDArray[Any]) -> str:
        """A constant array; numbers of nodes have the smallest type that holds them."""
        name, kind = f"k{len(self.lines)}", type_of(values)
        if values.dtype == np.int32:
            ends = (np.min_scalar_type(int(end)) for end in (values.min(), values.max()))
            kind = f"{np.result_type(*ends)}_t "
        parts = [literal(value) for value in values.ravel()]
        body = ",\n".join(", ".join(parts[at : at + 12]) for at in range(0, len(parts), 12))
        kind = kind.replace("const char *", "char *const ")
        self.lines.append(f"static const {kind}{name}[{len(parts)}] = {{\n{body}}};")
        return name

    def _loop(self, count: int, statement: str) -> None:
        self.lines.append(f"for (i = 0; i < {count}; i++) {statement}")

    def _fill(self, node: onnx.NodeProto, value: str) -> None:
        """Declare the output, and compute each of its values."""
        kind, name = type_of(self._values[node.output[0]]), self._declare(node.output[0])
        cast = "" if "*" in kind else f"({kind.strip()})"
        self._loop(self._size(node.output[0]), f"{name}[i] = {cast}({value});")

    def _at(self, array: str, places: NDArray[np.int64]) -> str:
        """C for the value of an array at `places[i]`."""
        if (places == places[0]).all():
            return f"{array}[{places[0]}]"
        if (places == np.arange(len(places))).all():
            return f"{array}[i]"
        return f"{array}[{self._table(places.astype(np.int32))}[i]]"

    def _each(self, node: onnx.NodeProto) -> None:
        form, values = _EACH[node.op_type], []
        for name in node.input:
            own, shape = self._values[name], self._values[node.output[0]].shape
            places = np.broadcast_to(np.arange(own.size).reshape(own.shape), shape).ravel()
            values.append(self._at(self.array_of(name), places))
        if node.op_type == "Equal" and self._values[node.input[0]].dtype == object:
            form = "strcmp({0}, {1}) == 0"
        if self._values[node.output[0]].dtype == np.float32:
            form = form.replace("(", "f(")
        self._fill(node, form.format(*values))

    def _cast(self, node: onnx.NodeProto) -> None:
        source, target = (self._values[name] for name in (node.input[0], node.output[0]))
        kinds = source.dtype.kind + target.dtype.kind
        self._require(kinds in ("ff", "bf", "if", "bi", "ii"), node)
        self._fill(node, f"{self.array_of(node.input[0])}[i]")

    def _concat(self, node: onnx.NodeProto) -> None:
        arrays, name = (
            [self.array_of(tensor) for tensor in node.input],
            self._declare(node.output[0]),
        )
        axis, start = int(node.attribute[0].i), 0
        self._require(all(size == 1 for size in self._values[node.input[0]].shape[:axis]), node)
        for tensor, array in zip(node.input, arrays, strict=True):
            self._loop(self._size(tensor), f"{name}[i + {start}] = {array}[i];")
            start += self._size(tensor)

    def _move(self, node: onnx.NodeProto) -> None:
        """Each value is that of one place, or what is padded with."""
        first = node.input[0]
        if node.op_type == "Gather" and first in self._constants:
            self._require(self._values[first].ndim == 1, node)
            self._fill(node, f"{self.array_of(first)}[{self.array_of(node.input[1])}[i]]")
            return
        self._require(all(name in self._constants for name in node.input[1:] if name), node)
        fed = {name: self._constants[name] for name in node.input[1:] if name}
        fed[first] = np.arange(self._size(first)).reshape(self._values[first].shape)
        fill = 0.0
        if node.op_type == "Pad" and len(node.input) > 2:
            fill, fed[node.input[2]] = float(fed[node.input[2]]), np.array(-1)
        moved: Any = ReferenceEvaluator(node).run(None, fed)
        places = np.asarray(moved[0]).ravel()
        if not (places < 0).any():
            self._fill(node, self._at(self.array_of(first), places))
            return
        table, array = self._table(places.astype(np.int32)), self.array_of(first)
        self._fill(node, f"{table}[i] < 0 ? {literal(fill)} : {array}[{table}[i]]")

    def _product(self, node: onnx.NodeProto) -> None:
        row, weights = node.input
        self._require(weights in self._constants and self._values[weights].ndim <= 2, node)
        count, width = (*self._values[weights].shape, 1)[:2]
        x, w, y = self.array_of(row), self.array_of(weights), self._declare(node.output[0])
        product = f"{y}[i] += {x}[j] * {w}[j * {width} + i];"
        self._loop(width, f"{{ {y}[i] = 0; for (j = 0; j < {count}; j++) {product} }}")

    def _sum(self, node: onnx.NodeProto) -> None:
        self._require(self._size(node.output[0]) == 1, node)
        x, y = self.array_of(node.input[0]), self._declare(node.output[0])
        self.lines.append(f"{y}[0] = 0;")
        self._loop(self._size(node.input[0]), f"{y}[0] += {x}[i];")

    def _best(self, node: onnx.NodeProto) -> None:
        """The first place of the largest or smallest value, or that value."""
        self._require(self._size(node.output[0]) == 1, node)
        x, y = self.array_of(node.input[0]), self._declare(node.output[0])
        start, best, value = f"{x}[0]", f"{y}[0]", f"{x}[i]"
        if node.op_type.startswith("Arg"):
            start, best, value = "0", f"{x}[{y}[0]]", "i"
        self.lines.append(f"{y}[0] = {start};")
        sign = _BEST[node.op_type]
        self._loop(self._size(node.input[0]), f"if ({x}[i] {sign} {best}) {y}[0] = {value};")

    def _codes(self, node: onnx.NodeProto) -> None:
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._require("keys_strings" in attributes and "values_int64s" in attributes, node)
        keys = np.array([key.decode() for key in attributes["keys_strings"]], object)
        known, codes = (
            self._table(keys),
            self._table(np.array(attributes["values_int64s"], np.int32)),
        )
        x, y = self.array_of(node.input[0]), self._declare(node.output[0])
        default = attributes.get("default_int64", -1)
        match = f"if (strcmp({x}[i], {known}[j]) == 0) {y}[i] = {codes}[j];"
        search = f"for (j = 0; j < {len(keys)}; j++) {match}"
        self._loop(self._size(node.output[0]), f"{{ {y}[i] = {default};\n{search} }}")

    def _trees(self, node: onnx.NodeProto) -> None:
        """A child that is a leaf is the complement of its number. Leaves are added tree by tree."""
        arrays, targets = arrays_of(node)
        doubles = arrays["threshold"].astype(np.float64)
        # Features that are floats are at most a double where they are at most the float below it.
        floats = tree_compilers.rounded_down(doubles)
        are_floats = (floats == doubles).all() or self._was_float(node.input[0])
        split = self._table(floats if are_floats else doubles)
        leaves = arrays["weight"].astype(np.float32)
        weight = self._table(leaves if (leaves == arrays["weight"]).all() else arrays["weight"])
        yes, no = (self._table(_children(arrays, side)) for side in ("true", "false"))
        feature, roots = self._table(arrays["feature"]), self._table(arrays["roots"])
        x, y = self.array_of(node.input[0]), self._declare(node.output[0])
        value = f"{x}[{feature}[at]]"
        test = f"{value} <= {split}[at]"
        if arrays["missing"].any():
            test = f"({test} || ({self._table(arrays['missing'])}[at] && {value} != {value}))"
        target = f"{self._table(arrays['target'])}[~at]" if targets > 1 else "0"
        self._loop(targets, f"{y}[i] = 0;")
        self._loop(len(arrays["roots"]), f"{{ int32_t at = {roots}[i];\n"
                   f"do at = {test} ? {yes}[at] : {no}[at]; while (at >= 0);\n"
                   f"{y}[{target}] += {weight}[~at]; }}")  # fmt: skip

    def _was_float(self, tensor: str) -> bool:
        casts = (n for n in self._model.graph.node if n.op_type == "Cast" and tensor in n.output)
        return any(self._values[node.input[0]].dtype == np.float32 for node in casts)


def type_of(values: NDArray[Any]) -> str:
    """The type of its elements in C, ready for a name behind it."""
    key = f"{values.dtype.kind}{values.dtype.itemsize}"
    if key not in _TYPES:
        raise refused(f"numbers of type {values.dtype} have no form in C here")
    return _TYPES[key]


def literal(value: Any) -> str:
    """A constant in C, of which compilers make the same bits."""
    if isinstance(value, str):
        if "\0" in value:
            raise refused("a text holds a NUL, which ends a text in C")
        octets = (chr(c) if c in _PLAIN else f"\\{c:03o}" for c in value.encode())
        return f'"{"".join(octets)}"'
    if not isinstance(value, float | np.floating):
        whole = int(value)
        wide = f"INT64_C({whole})" if whole > -(2**63) else "INT64_MIN"
        return str(whole) if abs(whole) < 1 << 31 else wide
    if np.isfinite(value):
        return f"{value!s}f" if isinstance(value, np.float32) else repr(float(value))
    return "NAN" if np.isnan(value) else f"{'-' * bool(value < 0)}INFINITY"


def _children(arrays: Mapping[str, NDArray[Any]], side: str) -> NDArray[np.int32]:
    at = arrays[f"{side}_at"].astype(np.int32)
    return np.where(arrays[f"{side}_is_leaf"] != 0, ~at, at)


def _traced(model: onnx.ModelProto, row: Columns) -> dict[str, NDArray[Any]]:
    """Every tensor of the graph for one row, as ONNX Runtime computes it."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options)
    return dict(zip(names, session.run(names, dict(row)), strict=True))
