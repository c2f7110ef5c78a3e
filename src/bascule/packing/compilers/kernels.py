"""Support vector machines, in doubles as libsvm computes them.

The runtime's own operator for them is in floats; written as products of matrices they keep the
precision of the original.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.outliers import detected
from bascule.packing.compilers.predictors import Outcome, by_skl2onnx, flat, of_columns
from bascule.packing.compilers.values import NUMBER, Value, matrix

_VECTOR = 8
_LAST_EXPONENT = 760.0
"""Of this and more, exp(-x) is 0 in doubles."""
_MAX_EXPONENT_ERROR = 1e-11


def regressor(context: Context, model: Any, value: Value) -> Outcome:
    return of_columns(context.graph, _sums(context.graph, model, value, model.dual_coef_), 1)


def one_class(context: Context, model: Any, value: Value) -> Outcome:
    sums = _sums(context.graph, model, value, model.dual_coef_)
    return detected(context.graph, sums, zero_is_inside=False)


def classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The class that wins the most duels; libsvm's probabilities are left to skl2onnx."""
    if hasattr(model, "predict_proba"):
        return by_skl2onnx(context, model, value)
    graph = context.graph
    count = len(model.classes_)
    if count == 2:
        sums = _sums(graph, model, value, model.dual_coef_)
        # libsvm's own sum is the negative of this; where it is not above 0, the second class wins.
        first = graph.add("Less", sums, 0.0)
        second = graph.cast(graph.add("Not", first), DType.INT64)
        return Outcome(index=flat(graph, second), decision=sums)
    sums = _sums(graph, model, value, _duels(model, count))
    first_wins = graph.cast(graph.add("Greater", sums, 0.0), DType.FP64)
    pairs = list(combinations(range(count), 2))
    one, other = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for place, (i, j) in enumerate(pairs):
        one[place, i] = other[place, j] = 1.0
    # A win of the first is a vote for it, and one less for the other.
    votes = graph.add(
        "Add", graph.add("MatMul", first_wins, one - other), as_column(other.sum(axis=0))
    )
    if model.decision_function_shape != "ovr":
        return Outcome(index=graph.add("ArgMax", votes, axis=1, keepdims=0))
    sure = graph.add("MatMul", sums, one - other)
    bounded = graph.add(
        "Div",
        sure,
        graph.add("Mul", graph.constant(3.0), graph.add("Add", graph.add("Abs", sure), 1.0)),
    )
    decision = graph.add("Add", votes, bounded)
    chosen = decision if model.break_ties else votes
    return Outcome(index=graph.add("ArgMax", chosen, axis=1, keepdims=0), decision=decision)


def _duels(model: Any, count: int) -> NDArray[np.float64]:
    """Coefficients of each pair of classes, shape (pairs, vectors)."""
    given = _dense(model.dual_coef_)
    ends = np.cumsum(model.n_support_)
    starts = ends - model.n_support_
    rows = []
    for i, j in combinations(range(count), 2):
        row = np.zeros(given.shape[1])
        row[starts[i] : ends[i]] = given[j - 1, starts[i] : ends[i]]
        row[starts[j] : ends[j]] = given[i, starts[j] : ends[j]]
        rows.append(row)
    return np.array(rows)


def _sums(graph: Graph, model: Any, value: Value, coefficients: Any) -> str:
    """Kernels with the support vectors, weighted: shape (rows, n)."""
    vectors, weights = _dense(model.support_vectors_), _dense(coefficients)
    # As wide as whole vectors of the processor, so that no exponential is left over at the end.
    spare = -len(vectors) % _VECTOR
    vectors = np.pad(vectors, ((0, spare), (0, 0)), mode="edge")
    weights = np.pad(weights, ((0, 0), (0, spare)))
    tensor = matrix(graph, value, NUMBER, step=type(model).__name__)
    likeness = _kernel(graph, model, tensor, vectors)
    products = graph.add("MatMul", likeness, weights.T)
    return graph.add("Add", products, as_column(model.intercept_))


def _kernel(graph: Graph, model: Any, tensor: str, vectors: NDArray[np.float64]) -> str:
    gamma = float(model._gamma)
    if model.kernel == "rbf":
        return _radial(graph, tensor, vectors, gamma)
    if model.kernel == "linear":
        return graph.add("MatMul", tensor, vectors.T)
    if model.kernel not in ("poly", "sigmoid"):
        raise Unconvertible(f"there is no compiler for {type(model).__name__} with its own kernel")
    # The factor goes into the matrix: the runtime would join it to the product, as a float.
    products = graph.add("MatMul", tensor, gamma * vectors.T)
    moved = graph.add("Add", products, float(model.coef0))
    if model.kernel == "sigmoid":
        return graph.add("Tanh", moved)
    return graph.add("Pow", moved, float(model.degree))


def _radial(graph: Graph, tensor: str, vectors: NDArray[np.float64], gamma: float) -> str:
    """exp(-gamma d**2) of the distances d, which come from products of matrices.

    Those lose digits far from the origin, so it is moved into the middle of the vectors. Where that
    is not enough, numbers are cut in two: the squares and products of the upper parts are whole
    multiples of one unit, and doubles hold their sums exactly.
    """
    middle = vectors.mean(axis=0)
    centred = vectors - middle
    # Beyond this, in one column, a kernel is 0; and what is infinite is no distance.
    farthest = float(np.abs(centred).max()) + np.sqrt(_LAST_EXPONENT / gamma)
    moved = graph.add("Sub", tensor, as_column(middle))
    moved = graph.add("Clip", moved, -farthest, farthest)
    error = gamma * np.finfo(np.float64).eps * 4 * float((centred**2).sum(axis=1).max())
    if error <= _MAX_EXPONENT_ERROR:
        squares = _squares(graph, moved, centred)
    else:
        bits = (52 - int(np.ceil(np.log2(4 * centred.shape[1])))) // 2
        unit = 2.0 ** (np.ceil(np.log2(farthest)) - bits)
        upper = np.round(centred / unit) * unit
        scaled = graph.add("Round", graph.add("Div", moved, unit))
        moved_up = graph.add("Mul", scaled, unit)
        squares = graph.add(
            "Add",
            _squares(graph, moved_up, upper),
            _rest(graph, moved_up, graph.add("Sub", moved, moved_up), upper, centred - upper),
        )
    squares = graph.add("Max", squares, 0.0)
    return graph.add("Exp", graph.add("Mul", squares, -gamma))


def _squares(graph: Graph, tensor: str, vectors: NDArray[np.float64]) -> str:
    """(x - v)**2, summed over the columns: shape (rows, vectors)."""
    own = _sum(graph, graph.add("Mul", tensor, tensor))
    theirs = graph.constant(as_column((vectors**2).sum(axis=1)))
    return graph.add("Sum", own, theirs, graph.add("MatMul", tensor, -2 * vectors.T))


def _rest(
    graph: Graph, upper: str, lower: str, up: NDArray[np.float64], low: NDArray[np.float64]
) -> str:
    """What the squares of the upper parts lack: (2 (x - v) + (y - w)) (y - w), summed."""
    doubled = graph.add("Add", graph.add("Mul", upper, 2.0), lower)
    own = _sum(graph, graph.add("Mul", doubled, lower))
    theirs = graph.constant(as_column(((2 * up + low) * low).sum(axis=1)))
    both = graph.add("Concat", upper, lower, axis=1)
    weights = -2 * np.concatenate([low, up + low], axis=1).T
    return graph.add("Sum", own, theirs, graph.add("MatMul", both, weights))


def _sum(graph: Graph, tensor: str) -> str:
    return graph.add("ReduceSum", tensor, [1], keepdims=1)


def _dense(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, np.float64)
