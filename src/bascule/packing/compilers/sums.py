"""Finds the one sum that the answers of a graph follow from: of trees, or of products.

An answer is explained by its sum. So the graph is cut before it, where the features come from, and
read after it as far as the sum is only scaled and raised: what remains is a link.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bascule.bundle.programs import FEATURES, SUMS
from bascule.core import Unconvertible
from bascule.packing.compilers.apart import (
    arrays_of,
    ensemble_of,
    needed,
    part_of,
    source_of,
)
from bascule.packing.imported import Compilation

Scaled = tuple[NDArray[np.float64], NDArray[np.float64]]
_MOVES = ("Concat", "Cast", "Reshape", "Unsqueeze", "Identity")


@dataclass(frozen=True, slots=True)
class Sum:
    """The one sum of a graph.

    Attributes:
        features: A graph that makes `FEATURES`, what is summed up; None for the inputs themselves.
        moves: Whether it only puts the inputs side by side.
        is_float: Whether the features are floats.
        sums: A graph that makes `SUMS`, shape (rows, targets).
        arrays: Of trees, as `bundle.programs.trees` has them, with thresholds in doubles; of a
            linear model `coefficients`, shape (features, targets).
        scaled: What may be left of the sums before a link: a factor and a number to add for each
            target, the first of them 1 and 0.
    """

    features: bytes | None
    moves: bool
    is_float: bool
    sums: bytes
    arrays: dict[str, NDArray[Any]]
    scaled: list[Scaled]


def sum_of_trees(compilation: Compilation) -> Sum:
    """Raises `Unconvertible` where there is not exactly one sum of trees in doubles."""
    model = onnx.load_from_string(compilation.data)
    ensemble = ensemble_of(list(model.graph.node))
    arrays, targets = arrays_of(ensemble)
    return _sum(compilation, model, ensemble, dict(arrays), targets)


def sum_of_products(compilation: Compilation) -> Sum:
    """The last product with a constant matrix; raises `Unconvertible` where there is none."""
    model = onnx.load_from_string(compilation.data)
    fixed = {name: held for name, held in _constants(model).items() if held.ndim == 2}
    products = [
        one for one in model.graph.node if one.op_type == "MatMul" and one.input[1] in fixed
    ]
    if not products:
        raise Unconvertible("the graph holds no sum of products", hint="take another method")
    coefficients = fixed[products[-1].input[1]].astype(np.float64)
    arrays: dict[str, NDArray[Any]] = {"coefficients": coefficients}
    return _sum(compilation, model, products[-1], arrays, coefficients.shape[1])


def _sum(
    compilation: Compilation,
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    arrays: dict[str, NDArray[Any]],
    targets: int,
) -> Sum:
    nodes, inputs = list(model.graph.node), model.graph.input
    tensor, is_float = source_of(nodes, node.input[0], compilation.inputs)
    before = needed(nodes, [tensor], set())
    features = None
    if tensor not in {read.name for read in inputs}:
        kind = TensorProto.FLOAT if is_float else TensorProto.DOUBLE
        part = part_of(model, copy.deepcopy(before), inputs, [(tensor, FEATURES, kind)])
        features = part.tobytes()
    upto = copy.deepcopy(needed(nodes, [node.output[0]], set()))
    sums = part_of(model, upto, inputs, [(node.output[0], SUMS, TensorProto.DOUBLE)])
    return Sum(
        features=features,
        moves=all(own.op_type in _MOVES and (is_float or not _rounds(own)) for own in before),
        is_float=is_float,
        sums=sums.tobytes(),
        arrays=arrays,
        scaled=_scaled(model, node.output[0], targets),
    )


def _rounds(node: onnx.NodeProto) -> bool:
    to = [helper.get_attribute_value(one) for one in node.attribute if one.name == "to"]
    return node.op_type == "Cast" and to != [TensorProto.DOUBLE]


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def _scaled(model: onnx.ModelProto, tensor: str, targets: int) -> list[Scaled]:
    """See `Sum.scaled`: one more for each step of arithmetic with a constant row."""
    fixed = _constants(model)
    factor, start = np.ones(targets), np.zeros(targets)
    steps = [(factor, start)]
    for node in model.graph.node:
        if len(node.input) != 2 or node.input[0] != tensor or node.input[1] not in fixed:
            continue
        constant = fixed[node.input[1]].astype(np.float64).ravel()
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(constant) not in (1, targets):
            continue
        if node.op_type in ("Mul", "Div"):
            constant = constant if node.op_type == "Mul" else 1 / constant
            factor, start = factor * constant, start * constant
        else:
            start = start + (constant if node.op_type == "Add" else -constant)
        tensor = node.output[0]
        steps.append((factor, start))
    return steps
