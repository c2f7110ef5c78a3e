"""Clusters and mixtures: the nearest of some points, or the likeliest of some distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.predictors import Outcome, likeliest
from bascule.packing.compilers.values import NUMBER, Value, matrix, numbers, numeric


def k_means(context: Context, model: Any, value: Value) -> Outcome:
    """The number of the nearest center, by the part of the distance that differs between them."""
    graph, tensor = numeric(context, model, value)
    centers = np.asarray(model.cluster_centers_, np.float64)
    products = graph.add("MatMul", tensor, -2.0 * centers.T)
    sums = graph.add("Add", products, as_column((centers**2).sum(axis=1)))
    return Outcome(index=graph.add("ArgMin", sums, axis=1, keepdims=0))


def nearest_center(context: Context, model: Any, value: Value) -> Outcome:
    """The number of the nearest center; the first one for a row whose square is infinite."""
    return Outcome(index=_nearest(context.graph, model, value, model.cluster_centers_))


def birch(context: Context, model: Any, value: Value) -> Outcome:
    """The cluster of the nearest subcluster."""
    graph = context.graph
    place = _nearest(graph, model, value, model.subcluster_centers_)
    labels = graph.constant(np.asarray(model.subcluster_labels_, np.int64), "int64")
    return Outcome(index=graph.add("Gather", labels, place))


def mixture(context: Context, model: Any, value: Value) -> Outcome:
    """The likeliest component of a Gaussian mixture, and the probability of each.

    At its own mean, the logarithm of a component is its constant; from there it falls by half the
    squared distance.
    """
    graph = context.graph
    means = np.asarray(model.means_, np.float64)
    count, columns = means.shape
    turns = [_precision(model, place, columns) for place in range(count)]
    tensor = matrix(graph, value, NUMBER, step=type(model).__name__)
    turned = graph.add("MatMul", tensor, np.concatenate(turns, axis=1))
    middle = np.concatenate([mean @ turn for mean, turn in zip(means, turns, strict=True)])
    away = graph.add("Sub", turned, as_column(middle))
    blocks = np.kron(np.eye(count), np.full((columns, 1), -0.5))
    falls = graph.add("MatMul", graph.add("Mul", away, away), blocks)
    starts = np.diag(model._estimate_weighted_log_prob(means))
    scores = graph.add("Add", falls, as_column(starts))
    return likeliest(graph, scores, count)


def distances(context: Context, step: Any, value: Value) -> Value:
    """The distance from each center: `transform` of clusters."""
    graph = context.graph
    centers = (
        step.subcluster_centers_ if hasattr(step, "subcluster_centers_") else step.cluster_centers_
    )
    tensor = matrix(graph, value, NUMBER, step=type(step).__name__)
    squares = _squares(graph, tensor, np.asarray(centers, np.float64))
    return numbers(graph.add("Sqrt", squares), len(centers))


def _precision(model: Any, place: int, columns: int) -> NDArray[np.float64]:
    """What turns a deviation into one of a standard normal distribution: a square matrix."""
    root = np.asarray(model.precisions_cholesky_, np.float64)
    if model.covariance_type == "tied":
        return root
    own = root[place]
    if model.covariance_type == "full":
        return np.asarray(own)
    return np.diag(np.broadcast_to(own, columns))


def _nearest(graph: Graph, model: Any, value: Value, centers: Any) -> str:
    tensor = matrix(graph, value, NUMBER, step=type(model).__name__)
    squares = _squares(graph, tensor, np.asarray(centers, np.float64))
    return graph.add("ArgMin", squares, axis=1, keepdims=0)


def _squares(graph: Graph, tensor: str, centers: NDArray[np.float64]) -> str:
    """Squared distances, shape (rows, centers), added in the order of scikit-learn."""
    squared = graph.add("Mul", tensor, tensor)
    own = graph.add("ReduceSum", squared, [1], keepdims=1)
    products = graph.add("MatMul", tensor, -2.0 * centers.T)
    theirs = graph.constant(as_column((centers**2).sum(axis=1)))
    sums = graph.add("Add", graph.add("Add", own, products), theirs)
    return graph.add("Max", sums, 0.0)
