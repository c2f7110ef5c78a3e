"""Steps that are arithmetic on numbers, in the order of operations that scikit-learn has."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.values import (
    NUMBER,
    Part,
    Value,
    arithmetic,
    flags_to_numbers,
    is_single,
    matrix,
    numbers,
    numeric,
    rounded,
    width,
)


def standard_scaler(context: Context, step: Any, value: Value) -> Value:
    # Its constants are rounded to the type of the rows; those of the other scalers are not.
    dtype = np.float32 if is_single(value) else np.float64
    return _shifted_and_divided(
        context,
        value,
        step.mean_.astype(dtype) if step.with_mean else None,
        step.scale_.astype(dtype) if step.with_std else None,
        "StandardScaler",
    )


def robust_scaler(context: Context, step: Any, value: Value) -> Value:
    return _shifted_and_divided(
        context,
        value,
        step.center_ if step.with_centering else None,
        step.scale_ if step.with_scaling else None,
        "RobustScaler",
    )


def max_abs_scaler(context: Context, step: Any, value: Value) -> Value:
    made = _shifted_and_divided(context, value, None, step.scale_, "MaxAbsScaler")
    if not getattr(step, "clip", False):
        return made
    return _clipped(context, made, -1.0, 1.0)


def min_max_scaler(context: Context, step: Any, value: Value) -> Value:
    graph, tensor = numeric(context, step, value)
    single = is_single(value)
    tensor = arithmetic(graph, "Mul", tensor, step.scale_, single)
    tensor = arithmetic(graph, "Add", tensor, step.min_, single)
    made = numbers(tensor, width(value), single=single)
    if not step.clip:
        return made
    return _clipped(context, made, *step.feature_range)


def binarizer(context: Context, step: Any, value: Value) -> Value:
    graph, tensor = numeric(context, step, value)
    threshold = float(np.float32(step.threshold) if is_single(value) else step.threshold)
    flags = graph.add("Greater", tensor, threshold)
    (part,) = flags_to_numbers(graph, flags, width(value))
    return (replace(part, single=is_single(value)),)


def kbins_discretizer(context: Context, step: Any, value: Value) -> Value:
    """How many inner edges are at most each number; or a flag for each of those counts."""
    graph, tensor = numeric(context, step, value)
    single = step.dtype is np.float32 or (step.dtype is None and is_single(value))
    if single and not is_single(value):
        tensor = rounded(graph, tensor)
    inner = [np.asarray(edges[1:-1], np.float64) for edges in step.bin_edges_]
    # Nothing is at least NaN, with which the columns that have fewer edges are filled up.
    edges = np.full((1, width(value), max(1, *map(len, inner))), np.nan)
    for column, own in enumerate(inner):
        edges[0, column, : len(own)] = own
    apart = graph.add("Unsqueeze", tensor, [2])
    passed = graph.cast(graph.add("GreaterOrEqual", apart, edges), DType.FP64)
    bins = graph.add("ReduceSum", passed, [2], keepdims=0)
    if step.encode == "ordinal":
        return numbers(bins, width(value), single=single)
    counts = [int(count) for count in step.n_bins_]
    places = graph.constant(np.repeat(np.arange(len(counts)), counts), "int64")
    wanted = graph.constant(as_column(np.concatenate([np.arange(count) for count in counts])))
    flags = graph.add("Equal", graph.add("Gather", bins, places, axis=1), wanted)
    (part,) = flags_to_numbers(graph, flags, sum(counts))
    return (replace(part, single=single),)


def polynomial_features(context: Context, step: Any, value: Value) -> Value:
    """Products of columns: each is one column times a product of one factor less."""
    graph, single, columns = context.graph, is_single(value), width(value)
    tensor = matrix(graph, value, NUMBER, step="PolynomialFeatures")
    pick: Any = combinations if step.interaction_only else combinations_with_replacement
    terms: list[tuple[int, ...]] = [(column,) for column in range(columns)]
    parts: list[Part] = []
    product = tensor
    for degree in range(1, step._max_degree + 1):
        if degree > 1:
            place = {term: at for at, term in enumerate(terms)}
            terms = list(pick(range(columns), degree))
            if not terms:
                break
            first = graph.constant([term[0] for term in terms], "int64")
            rest = graph.constant([place[term[1:]] for term in terms], "int64")
            product = graph.add(
                "Mul",
                graph.add("Gather", tensor, first, axis=1),
                graph.add("Gather", product, rest, axis=1),
            )
            product = rounded(graph, product) if single else product
        if degree >= step._min_degree:
            parts += numbers(product, len(terms), single=single)
    if step.include_bias:
        first = graph.add("Gather", tensor, [0], axis=1)
        ones = graph.cast(graph.add("Equal", first, first), DType.FP64)
        parts = [*numbers(ones, 1, single=single), *parts]
    return tuple(parts)


def normalizer(context: Context, step: Any, value: Value) -> Value:
    tensor = matrix(context.graph, value, NUMBER, step="Normalizer")
    single = is_single(value)
    least = 10 * float(np.finfo(np.float32 if single else np.float64).eps)
    made = made_unit(context.graph, tensor, step.norm, least)
    return numbers(rounded(context.graph, made) if single else made, width(value), single=single)


def made_unit(graph: Graph, tensor: str, norm: str, least: float = 5e-324) -> str:
    """Each row divided by its length, but for rows that are shorter than `least`."""
    axis = graph.constant([1], "int64")
    size = graph.add("Abs", tensor)
    if norm == "l1":
        length = graph.add("ReduceSum", size, axis, keepdims=1)
    elif norm == "max":
        length = graph.add("ReduceMax", size, axis, keepdims=1)
    else:
        squares = graph.add("ReduceSum", graph.add("Mul", tensor, tensor), axis, keepdims=1)
        length = graph.add("Sqrt", squares)
    nothing = graph.add("Less", length, least)
    return graph.add("Div", tensor, graph.add("Where", nothing, 1.0, length))


def power_transformer(context: Context, step: Any, value: Value) -> Value:
    """Yeo-Johnson or Box-Cox, by a power of its own for each column; then scaled if asked for."""
    graph, tensor = numeric(context, step, value)
    powers = np.asarray(step.lambdas_, np.float64)
    if np.isnan(powers).any():
        raise Unconvertible("PowerTransformer learned no power for a column of one value")
    if step.method == "box-cox":
        made = _raised(graph, tensor, powers)
    else:
        # Each side is computed for numbers of that side, and for 0 where there are others.
        above = graph.add("Max", tensor, 0.0)
        below = graph.add("Max", graph.add("Neg", tensor), 0.0)
        one = graph.constant(1.0)
        right = _raised(graph, graph.add("Add", above, one), powers)
        left = _raised(graph, graph.add("Add", below, one), 2.0 - powers)
        made = graph.add("Sub", right, left)
    if step.standardize:
        return standard_scaler(context, step._scaler, numbers(made, width(value)))
    return numbers(made, width(value))


def _raised(graph: Graph, tensor: str, powers: NDArray[np.float64]) -> str:
    """(x ** p - 1) / p for each column, which is log(x) where p is 0."""
    flat = np.abs(powers) < np.finfo(np.float64).eps
    used = np.where(flat, 1.0, powers)
    lifted = graph.add("Pow", tensor, as_column(used))
    lifted = graph.add("Sub", lifted, 1.0)
    lifted = graph.add("Div", lifted, as_column(used))
    if not flat.any():
        return lifted
    which = graph.constant(as_column(flat), np.bool_)
    return graph.add("Where", which, graph.add("Log", tensor), lifted)


def pca(context: Context, step: Any, value: Value) -> Value:
    graph, tensor = numeric(context, step, value)
    turned = graph.add("MatMul", tensor, step.components_.T)
    turned = graph.add("Sub", turned, as_column(step.mean_ @ step.components_.T))
    if step.whiten:
        scale = np.sqrt(step.explained_variance_)
        scale[scale < np.finfo(scale.dtype).eps] = np.finfo(scale.dtype).eps
        turned = graph.add("Div", turned, as_column(scale))
    return numbers(turned, len(step.components_))


def function_transformer(context: Context, step: Any, value: Value) -> Value:
    """The functions of numpy that are one or two nodes; nothing else can be read from outside."""
    if step.func is None or _only_checks(step.func):
        return value
    graph = context.graph
    name = getattr(step.func, "__name__", type(step.func).__name__)
    if step.kw_args or getattr(np, name, None) is not step.func or name not in _FUNCTIONS:
        raise Unconvertible(
            f"FunctionTransformer calls {name}, and only "
            f"{', '.join(f'numpy.{known}' for known in sorted(_FUNCTIONS))} can be compiled"
        )
    tensor = matrix(graph, value, NUMBER, step="FunctionTransformer")
    before, op, after = _FUNCTIONS[name]
    if before:
        tensor = graph.add("Add", tensor, before)
    tensor = graph.add(op, tensor)
    if after:
        tensor = graph.add("Add", tensor, after)
    return numbers(tensor, width(value))


def _only_checks(function: Any) -> bool:
    """Whether it is scikit-learn's `check_array` with settings, which changes no value."""
    called = getattr(function, "func", function)
    return getattr(called, "__module__", "") == "sklearn.utils.validation" and (
        called.__name__ == "check_array"
    )


_FUNCTIONS = {
    "abs": (0.0, "Abs", 0.0),
    "absolute": (0.0, "Abs", 0.0),
    "ceil": (0.0, "Ceil", 0.0),
    "cos": (0.0, "Cos", 0.0),
    "exp": (0.0, "Exp", 0.0),
    "expm1": (0.0, "Exp", -1.0),
    "floor": (0.0, "Floor", 0.0),
    "log": (0.0, "Log", 0.0),
    "log1p": (1.0, "Log", 0.0),
    "sin": (0.0, "Sin", 0.0),
    "sqrt": (0.0, "Sqrt", 0.0),
    "tanh": (0.0, "Tanh", 0.0),
}


def _shifted_and_divided(
    context: Context, value: Value, shift: Any, scale: Any, step: str
) -> Value:
    graph = context.graph
    single = is_single(value)
    tensor = matrix(graph, value, NUMBER, step=step)
    if shift is not None:
        tensor = arithmetic(graph, "Sub", tensor, shift, single)
    if scale is not None:
        tensor = arithmetic(graph, "Div", tensor, scale, single)
    return numbers(tensor, width(value), single=single)


def _clipped(context: Context, value: Value, low: float, high: float) -> Value:
    graph = context.graph
    (part,) = value
    if part.single:
        low, high = float(np.float32(low)), float(np.float32(high))
    tensor = graph.add("Clip", part.tensor, float(low), float(high))
    return (replace(part, tensor=tensor),)
