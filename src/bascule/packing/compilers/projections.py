"""Transformers that are one product of matrices, and those that put a function around one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.packing.compilers.foreign import unconvertible
from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.values import Value, numbers, numeric


def fast_ica(context: Context, step: Any, value: Value) -> Value:
    mean = step.mean_ if step.whiten else None
    return _projected(context, step, value, step.components_.T, mean)


def factor_analysis(context: Context, step: Any, value: Value) -> Value:
    """The mean of the factors, given a row (Bishop 2006, equation 12.66)."""
    precise = step.components_ / step.noise_variance_
    covariance = np.linalg.inv(np.eye(len(step.components_)) + precise @ step.components_.T)
    return _projected(context, step, value, precise.T @ covariance, step.mean_)


def truncated_svd(context: Context, step: Any, value: Value) -> Value:
    return _projected(context, step, value, step.components_.T, None)


def random_projection(context: Context, step: Any, value: Value) -> Value:
    components = step.components_
    dense = components.toarray() if hasattr(components, "toarray") else components
    return _projected(context, step, value, dense.T, None)


def feature_agglomeration(context: Context, step: Any, value: Value) -> Value:
    """The mean of each cluster of columns."""
    if step.pooling_func is not np.mean:
        raise unconvertible(step)
    members = step.labels_[:, None] == np.arange(step.labels_.max() + 1)
    return _projected(context, step, value, members / members.sum(axis=0), None)


def rbf_sampler(context: Context, step: Any, value: Value) -> Value:
    turned = _product(context, step, value, step.random_weights_, None)
    return _waves(context.graph, step, turned)


def skewed_chi2_sampler(context: Context, step: Any, value: Value) -> Value:
    graph, tensor = numeric(context, step, value)
    logs = graph.add("Log", graph.add("Add", tensor, float(step.skewedness)))
    weights = np.asarray(step.random_weights_, np.float64)
    return _waves(graph, step, graph.add("MatMul", logs, weights))


def _waves(graph: Graph, step: Any, turned: str) -> Value:
    """Cosines, as sines: the runtime has no cosine of doubles."""
    width = step.random_weights_.shape[1]
    offset = as_column(np.asarray(step.random_offset_, np.float64) + np.pi / 2)
    waves = graph.add("Sin", graph.add("Add", turned, offset))
    return numbers(graph.add("Mul", waves, float(np.sqrt(2.0 / width))), width)


def _projected(
    context: Context, step: Any, value: Value, weights: NDArray[Any], mean: Any
) -> Value:
    return numbers(_product(context, step, value, weights, mean), weights.shape[1])


def _product(context: Context, step: Any, value: Value, weights: NDArray[Any], mean: Any) -> str:
    """(x - mean) @ weights."""
    graph, tensor = numeric(context, step, value)
    if mean is not None:
        tensor = graph.add("Sub", tensor, as_column(np.asarray(mean)))
    return graph.add("MatMul", tensor, np.asarray(weights, np.float64))
