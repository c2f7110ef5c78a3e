"""Writes the graph of a program as C statements for one row.

With one row every length is known beforehand, once the graph has run. A tensor is a NumPy array of
C expressions, so what only moves values costs nothing in C.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bascule.core import Columns
from bascule.packing.compilers import arrays_of, trees as tree_compilers
from bascule.runtimes.tools import refused

Expressions = NDArray[np.object_]
"""Texts of C, in the shape of a tensor."""
_TYPES = {
    "f8": "double ", "f4": "float ", "i8": "int64_t ", "i4": "int32_t ", "b1": "unsigned char ",
    "O8": "const char *",
}  # fmt: skip
"""By kind and bytes of the type in NumPy."""
_EACH = {
    "Abs": "{0} < 0 ? -{0} : {0}", "Add": "{0} + {1}", "And": "{0} && {1}", "Cast": "{0}",
    "Div": "{0} / {1}", "Equal": "{0} == {1}", "Exp": "exp({0})", "Greater": "{0} > {1}",
    "GreaterOrEqual": "{0} >= {1}", "IsNaN": "{0} != {0}", "Less": "{0} < {1}",
    "LessOrEqual": "{0} <= {1}", "Log": "log({0})", "Mul": "{0} * {1}", "Neg": "-{0}",
    "Not": "!{0}", "Or": "{0} || {1}", "Sqrt": "sqrt({0})", "Sub": "{0} - {1}",
    "Where": "{0} ? {1} : {2}",
}  # fmt: skip
"""Operators that compute each value from those at its place."""
_MOVES = {"Expand", "Gather", "Pad", "Slice", "Transpose"}
"""Operators that only move the values of their first input."""
_SHAPES = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}
_BEST = {"ArgMax": ">", "ArgMin": "<", "ReduceMax": ">", "ReduceMin": "<"}
_PLAIN = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,:/()"


class Statements:
    """The statements of a graph.

    Attributes:
        lines: Of C, for the body of a function.
    """

    def __init__(
        self, model: onnx.ModelProto, row: Columns, inputs: Mapping[str, Expressions]
    ) -> None:
        """Write the statements.

        Args:
            model: Its inputs and outputs have the rows as their first dimension.
            row: One row of its inputs.
            inputs: C for each of their values.

        Raises:
            Unconvertible: An operator, or a type, has no form here; the message names it.
        """
        self.lines: list[str] = []
        self._model = model
        constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        traced: Any = ReferenceEvaluator(model).run(None, dict(row), intermediate=True)
        self._values = constants | traced
        self._constant = {*constants}
        self._tensors = dict(inputs)
        for node in model.graph.node:
            if self._constant.issuperset(filter(None, node.input)):
                self._constant.update(node.output)
            else:
                self._tensors[node.output[0]] = self._written(node)

    def tensor(self, name: str) -> Expressions:
        """C for each value of a tensor."""
        if name not in self._tensors:
            values = self._values[name]
            self._tensors[name] = _reshaped(map(literal, values.ravel()), values)
        return self._tensors[name]

    def _written(self, node: onnx.NodeProto) -> Expressions:
        """The output of a node, behind the statements that compute it."""
        writers = {
            "Concat": self._concat, "LabelEncoder": self._codes, "MatMul": self._product,
            "ReduceSum": self._sum, "TreeEnsemble": self._trees,
            **dict.fromkeys(_EACH, self._each), **dict.fromkeys(_MOVES, self._move),
            **dict.fromkeys(_SHAPES, lambda node: self.tensor(node.input[0])),
            **dict.fromkeys(_BEST, self._best),
        }  # fmt: skip
        self._require(node.op_type in writers, node)
        return _reshaped(writers[node.op_type](node).ravel(), self._values[node.output[0]])

    def _require(self, holds: bool, node: onnx.NodeProto) -> None:
        if not holds:
            raise refused(f"the step {node.op_type} has no form in C here")

    def _array(self, kind: str, texts: Iterable[str]) -> Expressions:
        """Declare an array; C for each of its values."""
        name, texts = f"a{len(self.lines)}", [*texts]
        body = ",\n".join(", ".join(texts[at : at + 12]) for at in range(0, len(texts), 12))
        self.lines.append(f"{kind}{name}[{len(texts)}] = {{\n{body}}};")
        return np.array([f"{name}[{place}]" for place in range(len(texts))], object)

    def _table(self, values: NDArray[Any]) -> str:
        """The name of a constant array; whole numbers have the smallest type that holds them."""
        kind = type_of(values)
        if values.dtype == np.int32:
            ends = (np.min_scalar_type(int(end)) for end in (values.min(), values.max()))
            kind = f"{np.result_type(*ends)}_t "
        return _name_of(self._array(f"static {kind}const ", map(literal, values.ravel())))

    def _indexed(self, tensor: str) -> str:
        """The name of an array that has the values of a tensor in their order."""
        values = self.tensor(tensor).ravel()
        name = _name_of(values)
        if any(value != f"{name}[{place}]" for place, value in enumerate(values)):
            return _name_of(self._array(f"{type_of(self._values[tensor])}const ", values))
        return name

    def _computed(self, node: onnx.NodeProto, expressions: Expressions) -> Expressions:
        """Each value computed once."""
        kind = type_of(self._values[node.output[0]])
        texts = (f"({kind.strip()})({text})" for text in np.ravel(expressions))
        return self._array(f"{kind}const ", texts)

    def _each(self, node: onnx.NodeProto) -> Expressions:
        form, values = _EACH[node.op_type], [self._values[name] for name in node.input]
        result = self._values[node.output[0]]
        if node.op_type == "Cast":
            kinds = values[0].dtype.kind + result.dtype.kind
            self._require(kinds in ("ff", "bf", "if", "bi", "ii"), node)
        if node.op_type == "Equal" and values[0].dtype == object:
            form = "strcmp({0}, {1}) == 0"
        if result.dtype == np.float32:
            form = form.replace("(", "f(")
        return self._computed(node, _formatted(form, *map(self.tensor, node.input)))

    def _concat(self, node: onnx.NodeProto) -> Expressions:
        return np.concatenate([*map(self.tensor, node.input)], axis=node.attribute[0].i)

    def _move(self, node: onnx.NodeProto) -> Expressions:
        first, *rest = filter(None, node.input)
        if node.op_type == "Gather" and first in self._constant:
            self._require(self._values[first].ndim == 1, node)
            table = self._table(self._values[first])
            return self._computed(node, _formatted(f"{table}[{{0}}]", self.tensor(rest[0])))
        self._require(self._constant.issuperset(rest), node)
        values, fed = self._values[first], {name: self._values[name] for name in rest}
        fed[first], fill = np.arange(values.size).reshape(values.shape), "0"
        if node.op_type == "Pad" and len(rest) > 1:
            fill, fed[rest[1]] = literal(fed[rest[1]].item()), np.array(-1)
        moved: Any = ReferenceEvaluator(node).run(None, fed)
        texts: Expressions = np.append(self.tensor(first), fill)[np.asarray(moved[0])]
        return texts

    def _product(self, node: onnx.NodeProto) -> Expressions:
        row, weights = node.input
        self._require(weights in self._constant and self._values[weights].ndim <= 2, node)
        count, width = (*self._values[weights].shape, 1)[:2]
        x, w = self._indexed(row), self._table(self._values[weights])
        y = self._array(type_of(self._values[node.output[0]]), ["0"] * width)
        self.lines.append(f"for (int32_t i = 0; i < {width}; i++) "
            f"for (int32_t j = 0; j < {count}; j++) "
            f"{_name_of(y)}[i] += {x}[j] * {w}[j * {width} + i];")  # fmt: skip
        return y

    def _sum(self, node: onnx.NodeProto) -> Expressions:
        self._require(self._values[node.output[0]].size == 1, node)
        return self._computed(node, np.array([" + ".join(self.tensor(node.input[0]).ravel())]))

    def _best(self, node: onnx.NodeProto) -> Expressions:
        """The first place of the largest or smallest value, or that value."""
        self._require(self._values[node.output[0]].size == 1, node)
        count, x = self._values[node.input[0]].size, self._indexed(node.input[0])
        y = self._array("int32_t ", ["0"])
        self.lines.append(f"for (int32_t i = 1; i < {count}; i++) "
            f"if ({x}[i] {_BEST[node.op_type]} {x}[{y[0]}]) {y[0]} = i;")  # fmt: skip
        return y if node.op_type.startswith("Arg") else np.array([f"{x}[{y[0]}]"], object)

    def _codes(self, node: onnx.NodeProto) -> Expressions:
        attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._require("keys_strings" in attributes and "values_int64s" in attributes, node)
        keys = np.array([key.decode() for key in attributes["keys_strings"]], object)
        codes = self._table(np.array(attributes["values_int64s"], np.int32))
        known = self._table(keys)
        x = self.tensor(node.input[0]).ravel()
        y = self._array("int64_t ", [str(attributes.get("default_int64", -1))] * len(x))
        for text, code in zip(x, y, strict=True):
            match = f"if (strcmp({text}, {known}[j]) == 0) {code} = {codes}[j];"
            self.lines.append(f"for (int32_t j = 0; j < {len(keys)}; j++) {match}")
        return y

    def _trees(self, node: onnx.NodeProto) -> Expressions:
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
        value = f"{self._indexed(node.input[0])}[{feature}[at]]"
        test = f"{value} <= {split}[at]"
        if arrays["missing"].any():
            test = f"({test} || ({self._table(arrays['missing'])}[at] && {value} != {value}))"
        target = f"{self._table(arrays['target'])}[~at]" if targets > 1 else "0"
        y = self._array(type_of(self._values[node.output[0]]), ["0"] * targets)
        self.lines.append(f"for (int32_t i = 0; i < {len(arrays['roots'])}; i++) {{\n"
                   f"int32_t at = {roots}[i];\n"
                   f"do at = {test} ? {yes}[at] : {no}[at]; while (at >= 0);\n"
                   f"{_name_of(y)}[{target}] += {weight}[~at]; }}")  # fmt: skip
        return y

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


def _formatted(form: str, *tensors: Expressions) -> Expressions:
    return np.asarray(np.frompyfunc(form.format, len(tensors), 1)(*tensors), object)


def _reshaped(texts: Iterable[str], like: NDArray[Any]) -> Expressions:
    return np.array([*texts], object).reshape(like.shape)


def _name_of(array: Expressions) -> str:
    return str(array[0]).partition("[")[0]


def _children(arrays: Mapping[str, NDArray[Any]], side: str) -> NDArray[np.int32]:
    at = arrays[f"{side}_at"].astype(np.int32)
    return np.where(arrays[f"{side}_is_leaf"] != 0, ~at, at)
