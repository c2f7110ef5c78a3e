"""Steps that are arithmetic on numbers, in the order of operations that scikit-learn has."""

from __future__ import annotations

from typing import Any

import numpy as np

from bascule.bundle.compilers.context import Context
from bascule.bundle.compilers.graph import as_column
from bascule.bundle.compilers.values import (
    NUMBER,
    Value,
    flags_to_numbers,
    matrix,
    numbers,
    width,
)
from bascule.core.errors import Unconvertible


def standard_scaler(context: Context, step: Any, value: Value) -> Value:
    return _shifted_and_divided(
        context,
        value,
        step.mean_ if step.with_mean else None,
        step.scale_ if step.with_std else None,
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
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step="MinMaxScaler")
    tensor = graph.add("Mul", tensor, graph.constant(as_column(step.scale_)))
    tensor = graph.add("Add", tensor, graph.constant(as_column(step.min_)))
    made = numbers(tensor, width(value))
    if not step.clip:
        return made
    return _clipped(context, made, *step.feature_range)


def binarizer(context: Context, step: Any, value: Value) -> Value:
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step="Binarizer")
    flags = graph.add("Greater", tensor, graph.constant(step.threshold))
    return flags_to_numbers(graph, flags, width(value))


def pca(context: Context, step: Any, value: Value) -> Value:
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step="PCA")
    turned = graph.add("MatMul", tensor, graph.constant(step.components_.T))
    turned = graph.add("Sub", turned, graph.constant(as_column(step.mean_ @ step.components_.T)))
    if step.whiten:
        scale = np.sqrt(step.explained_variance_)
        scale[scale < np.finfo(scale.dtype).eps] = np.finfo(scale.dtype).eps
        turned = graph.add("Div", turned, graph.constant(as_column(scale)))
    return numbers(turned, len(step.components_))


def truncated_svd(context: Context, step: Any, value: Value) -> Value:
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step="TruncatedSVD")
    turned = graph.add("MatMul", tensor, graph.constant(step.components_.T))
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
            f"{', '.join(f'numpy.{known}' for known in sorted(_FUNCTIONS))} can be compiled",
            hint="pass serve_original=True (--serve-original) to serve the original, slower",
        )
    tensor = matrix(graph, value, NUMBER, step="FunctionTransformer")
    before, op, after = _FUNCTIONS[name]
    if before:
        tensor = graph.add("Add", tensor, graph.constant(before))
    tensor = graph.add(op, tensor)
    if after:
        tensor = graph.add("Add", tensor, graph.constant(after))
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
    tensor = matrix(graph, value, NUMBER, step=step)
    if shift is not None:
        tensor = graph.add("Sub", tensor, graph.constant(as_column(shift)))
    if scale is not None:
        tensor = graph.add("Div", tensor, graph.constant(as_column(scale)))
    return numbers(tensor, width(value))


def _clipped(context: Context, value: Value, low: float, high: float) -> Value:
    graph = context.graph
    (part,) = value
    tensor = graph.add("Clip", part.tensor, graph.constant(low), graph.constant(high))
    return numbers(tensor, part.width)
