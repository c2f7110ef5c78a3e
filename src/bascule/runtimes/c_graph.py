"""Writes the graph of a program as C statements for one row.

With one row every length is known beforehand: the graph is run once, and each tensor becomes an
array of that many values on the stack. What only moves values is asked of ONNX Runtime in the same
way, with the places of the values in their stead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bascule.core import Columns, Unconvertible
from bascule.packing.compilers import arrays_of, trees as tree_compilers

_TYPES = {
    "f8": "double", "f4": "float", "i8": "int64_t", "i4": "int32_t", "b1": "unsigned char",
    "O8": "const char *",
}  # fmt: skip
_EACH = {
    "Abs": "{0} < 0 ? -{0} : {0}", "Add": "{0} + {1}", "And": "{0} && {1}", "Div": "{0} / {1}",
    "Equal": "{0} == {1}", "Exp": "exp({0})", "Greater": "{0} > {1}",
    "GreaterOrEqual": "{0} >= {1}", "IsNaN": "{0} != {0}", "Less": "{0} < {1}",
    "LessOrEqual": "{0} <= {1}", "Log": "log({0})", "Mul": "{0} * {1}", "Neg": "-{0}",
    "Not": "!{0}", "Or": "{0} || {1}", "Sqrt": "sqrt({0})", "Sub": "{0} - {1}",
    "Tanh": "tanh({0})", "Where": "{0} ? {1} : {2}",
}  # fmt: skip
"""Operators that compute each value from those at its place."""
_OF_MATH_H = {"Exp", "Log", "Sqrt", "Tanh"}
_MOVES = {"Concat", "Expand", "Gather", "Pad", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
_SAME = {"Identity", "Reshape"}
_BEST = {"ArgMax": ">", "ArgMin": "<", "ReduceMax": ">", "ReduceMin": "<"}


class Statements:
    """The statements of a graph.

    Attributes:
        lines: Of C, for the body of a function.
        names: Of the array of each tensor that has one.
        headers: Of the standard library, that the statements need.
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
        self.names = dict(names)
        self.headers = {"stdint.h"}
        self._constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self._model = model
        nodes = list(model.graph.node)
        for name, values in self._constants.items():
            if values.dtype.kind in "SU":
                self._constants[name] = values.astype(object)
        self._values = {**self._constants, **row, **_traced(model, row)}
        for node in nodes:
            if all(name in self._constants for name in node.input if name):
                self._constants[node.output[0]] = self._values[node.output[0]]
            else:
                self._write(node)

    def _write(self, node: onnx.NodeProto) -> None:
        writers = {
            "Cast": self._cast, "MatMul": self._product, "ReduceSum": self._sum,
            "LabelEncoder": self._codes, "TreeEnsemble": self._trees,
        }  # fmt: skip
        if node.op_type in _SAME:
            self.names[node.output[0]] = self._name(node.input[0])
        elif node.op_type in _EACH:
            self._each(node, _EACH[node.op_type])
        elif node.op_type in _MOVES:
            self._move(node)
        elif node.op_type in _BEST:
            self._best(node, _BEST[node.op_type])
        elif node.op_type in writers:
            writers[node.op_type](node)
        else:
            raise _refused(node)

    def _size(self, name: str) -> int:
        return int(self._values[name].size)

    def _type(self, name: str) -> str:
        dtype = self._values[name].dtype
        key = f"{dtype.kind}{dtype.itemsize}"
        if key not in _TYPES:
            raise Unconvertible(f"numbers of type {dtype} have no form in C here")
        return _TYPES[key]

    def _name(self, tensor: str) -> str:
        """The array of a tensor; a constant is declared where it is first used."""
        if tensor not in self.names:
            self.names[tensor] = self.table(self._constants[tensor])
        return self.names[tensor]

    def _declare(self, tensor: str) -> str:
        name = self.names[tensor] = f"t{len(self.names)}"
        self.lines.append(f"{self._type(tensor)} {name}[{self._size(tensor)}];".replace("* ", "*"))
        return name

    def table(self, values: NDArray[Any]) -> str:
        """A constant array; whole numbers have the smallest type that holds them."""
        name = self.names[f"constant {len(self.names)}"] = f"k{len(self.names)}"
        if values.dtype.kind in "iub" and values.dtype.itemsize < 8:
            smallest = np.result_type(
                *(np.min_scalar_type(int(end)) for end in (values.min(), values.max()))
            )
            kind = f"{smallest}_t" if smallest.kind in "iu" else "unsigned char"
        elif values.dtype.kind == "O":
            kind = "char *const"
        else:
            kind = _TYPES[f"{values.dtype.kind}{values.dtype.itemsize}"]
        parts = [literal(value) for value in values.ravel()]
        if any("(" in part or "NAN" in part or "INF" in part for part in parts):
            self.headers.add("math.h")
        rows = [", ".join(parts[at : at + 12]) for at in range(0, len(parts), 12)]
        body = ",\n".join(rows)
        self.lines.append(f"static const {kind} {name}[{len(parts)}] = {{\n{body}}};")
        return name

    def _loop(self, count: int, statement: str) -> None:
        self.lines.append(f"for (i = 0; i < {count}; i++) {statement}")

    def _at(self, array: str, places: NDArray[np.int64]) -> str:
        """C for the value of an array at `places[i]`."""
        if (places == places[0]).all():
            return f"{array}[{places[0]}]"
        if (np.diff(places) == 1).all():
            return f"{array}[i]" if places[0] == 0 else f"{array}[i + {places[0]}]"
        return f"{array}[{self.table(places.astype(np.int32))}[i]]"

    def _each(self, node: onnx.NodeProto, form: str) -> None:
        output = node.output[0]
        shape = self._values[output].shape
        values = []
        for name in node.input:
            own = self._values[name]
            places = np.broadcast_to(np.arange(own.size).reshape(own.shape), shape).ravel()
            values.append(self._at(self._name(name), places))
        kinds = {self._values[name].dtype.kind for name in node.input}
        if "O" in kinds and node.op_type == "Equal":
            form = "strcmp({0}, {1}) == 0"
            self.headers.add("string.h")
        if node.op_type in _OF_MATH_H:
            self.headers.add("math.h")
            form = form if self._type(output) == "double" else form.replace("(", "f(", 1)
        name = self._declare(output)
        cast = "(unsigned char)" if self._type(output) == "unsigned char" else ""
        statement = form.format(*values)
        self._loop(self._size(output), f"{name}[i] = {cast}({statement});")

    def _cast(self, node: onnx.NodeProto) -> None:
        source, output = node.input[0], node.output[0]
        kinds = self._values[source].dtype.kind, self._values[output].dtype.kind
        if kinds[0] == "O" or kinds[1] not in "fiu" or kinds == ("f", "i"):
            raise _refused(node)
        value, name = f"{self._name(source)}[i]", self._declare(output)
        self._loop(self._size(output), f"{name}[i] = ({self._type(output)}){value};")

    def _move(self, node: onnx.NodeProto) -> None:
        """Each value is that of one place; the places are what the operator does to places."""
        moved = [name for name in node.input if name and name not in self._constants]
        if node.op_type == "Concat":
            moved = list(node.input)
        if node.op_type == "Gather" and node.input[0] in self._constants:
            self._look_up(node)
            return
        output, fed, first = node.output[0], dict[str, NDArray[Any]](), 0
        for name in dict.fromkeys(moved):
            fed[name] = np.arange(first, first + self._size(name)).reshape(self._values[name].shape)
            first += self._size(name)
        fed |= {n: self._constants[n] for n in node.input if n in self._constants and n not in fed}
        filled = node.op_type == "Pad" and len(node.input) > 2 and node.input[2]
        if filled:
            fed[node.input[2]] = np.array(-1)
        places = _run(node, fed, self._model).ravel()
        arrays = {name: self._name(name) for name in fed if name in moved}
        fill = self._constants[node.input[2]].item() if filled else 0.0
        name = self._declare(output)
        for tensor, array in arrays.items():
            own = fed[tensor].ravel()
            at = np.flatnonzero((places >= own[0]) & (places <= own[-1]))
            for run in np.split(at, np.flatnonzero(np.diff(at) != 1) + 1) if len(at) else ():
                value = self._at(array, places[run] - own[0])
                to = "i" if run[0] == 0 else f"i + {run[0]}"
                self._loop(len(run), f"{name}[{to}] = {value};")
        for place in np.flatnonzero(places < 0):
            self.lines.append(f"{name}[{place}] = {literal(fill)};")
            self.headers.add("math.h")

    def _look_up(self, node: onnx.NodeProto) -> None:
        """The constants at places that are computed."""
        data, places = node.input[0], self._name(node.input[1])
        if self._values[data].ndim != 1:
            raise _refused(node)
        table, name = self._name(data), self._declare(node.output[0])
        self._loop(self._size(node.output[0]), f"{name}[i] = {table}[{places}[i]];")

    def _product(self, node: onnx.NodeProto) -> None:
        row, weights = node.input
        if weights not in self._constants or self._values[weights].ndim != 2:
            raise _refused(node)
        count, width = self._values[weights].shape
        x, w, y = self._name(row), self._name(weights), self._declare(node.output[0])
        self._loop(width, f"{{ {y}[i] = 0; for (j = 0; j < {count}; j++) "
                          f"{y}[i] += {x}[j] * {w}[j * {width} + i]; }}")  # fmt: skip

    def _sum(self, node: onnx.NodeProto) -> None:
        x, y = self._whole(node)
        self.lines.append(f"{y}[0] = 0;")
        self._loop(self._size(node.input[0]), f"{y}[0] += {x}[i];")

    def _best(self, node: onnx.NodeProto, sign: str) -> None:
        x, y = self._whole(node)
        count = self._size(node.input[0])
        is_place = node.op_type.startswith("Arg")
        self.lines.append(f"{y}[0] = {'0' if is_place else f'{x}[0]'};")
        best = f"{x}[{y}[0]]" if is_place else f"{y}[0]"
        value = f"({self._type(node.output[0])})i" if is_place else f"{x}[i]"
        self._loop(count, f"if ({x}[i] {sign} {best}) {y}[0] = {value};")

    def _whole(self, node: onnx.NodeProto) -> tuple[str, str]:
        """The arrays of what is reduced to one value, and of that."""
        if self._size(node.output[0]) != 1:
            raise _refused(node)
        return self._name(node.input[0]), self._declare(node.output[0])

    def _codes(self, node: onnx.NodeProto) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        keys = attributes.get("keys_strings")
        values = attributes.get("values_int64s")
        if keys is None or values is None:
            raise _refused(node)
        texts = np.array([key.decode() for key in keys], object)
        known, codes = self.table(texts), self.table(np.asarray(values, np.int32))
        x, y = self._name(node.input[0]), self._declare(node.output[0])
        self.headers.add("string.h")
        self._loop(self._size(node.output[0]), (
            f"{{ {y}[i] = {attributes.get('default_int64', -1)};\n"
            f"for (j = 0; j < {len(keys)}; j++) if (strcmp({x}[i], {known}[j]) == 0) "
            f"{{ {y}[i] = {codes}[j]; break; }} }}"
        ))  # fmt: skip

    def _trees(self, node: onnx.NodeProto) -> None:
        """A child that is a leaf is the complement of its number. Leaves are added tree by tree."""
        arrays, targets = arrays_of(node)
        maker = {name: n for n in self._model.graph.node for name in n.output}.get(node.input[0])
        was_float = (
            maker is not None
            and maker.op_type == "Cast"
            and self._values[maker.input[0]].dtype == np.float32
        )
        doubles = arrays["threshold"].astype(np.float64)
        floats = tree_compilers.rounded_down(doubles)
        split = self.table(floats if was_float or (floats == doubles).all() else doubles)
        leaves = arrays["weight"].astype(np.float32)
        weight = self.table(leaves if (leaves == arrays["weight"]).all() else arrays["weight"])
        yes, no = (self.table(_children(arrays, side)) for side in ("true", "false"))
        feature, roots = self.table(arrays["feature"]), self.table(arrays["roots"])
        x, y = self._name(node.input[0]), self._declare(node.output[0])
        value = f"{x}[{feature}[at]]"
        test = f"{value} <= {split}[at]"
        if arrays["missing"].any():
            test = f"({test} || ({self.table(arrays['missing'])}[at] && {value} != {value}))"
        target = f"{self.table(arrays['target'])}[~at]" if targets > 1 else "0"
        self._loop(targets, f"{y}[i] = 0;")
        self._loop(len(arrays["roots"]), (
            f"{{ int32_t at = {roots}[i];\n"
            f"do at = {test} ? {yes}[at] : {no}[at]; while (at >= 0);\n"
            f"{y}[{target}] += {weight}[~at]; }}"
        ))  # fmt: skip


def _children(arrays: Mapping[str, NDArray[Any]], side: str) -> NDArray[np.int32]:
    at = arrays[f"{side}_at"].astype(np.int32)
    return np.where(arrays[f"{side}_is_leaf"] != 0, ~at, at)


def literal(value: Any) -> str:
    """A constant in C, of which compilers make the same bits."""
    if isinstance(value, str):
        if "\0" in value:
            raise Unconvertible("a text holds a NUL, which ends a text in C")
        plain = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,:/()"
        return f'"{"".join(chr(c) if c in plain else f"{chr(92)}{c:03o}" for c in value.encode())}"'
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        if int(value) == -(2**63):
            return "INT64_MIN"
        return f"{value}" if abs(int(value)) < 2**31 else f"INT64_C({value})"
    suffix = "f" if isinstance(value, np.float32) else ""
    if np.isnan(value):
        return "NAN"
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{np.format_float_scientific(value, trim='0')}{suffix}"


def _traced(model: onnx.ModelProto, row: Columns) -> dict[str, NDArray[Any]]:
    """Every tensor of the graph for one row, as ONNX Runtime computes it."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del wide.graph.output[:]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, _session(wide).run(names, dict(row)), strict=True))


def _run(node: onnx.NodeProto, fed: Mapping[str, Any], model: onnx.ModelProto) -> NDArray[np.int64]:
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in fed.items()}
    inputs = [helper.make_tensor_value_info(n, kinds[n], list(fed[n].shape)) for n in fed]
    output = helper.make_empty_tensor_value_info(node.output[0])
    alone = helper.make_model(
        helper.make_graph([node], "alone", inputs, [output]),
        ir_version=model.ir_version, opset_imports=list(model.opset_import),
    )  # fmt: skip
    places: NDArray[np.int64] = _session(alone).run(None, dict(fed))[0]
    return places


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def _refused(node: onnx.NodeProto) -> Unconvertible:
    return Unconvertible(
        f"the step {node.op_type} has no form in C here",
        hint="C takes trees, linear models, scaling, filling in and one-hot; use --runtime ort",
        operator=node.op_type,
    )
