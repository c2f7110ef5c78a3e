"""Straight lines between points: what isotonic regression learns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType
from bascule.packing.compilers import trees
from bascule.packing.compilers.graph import Graph
from bascule.packing.compilers.trees import Tree


def piecewise_linear(
    graph: Graph, tensor: str, xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> str:
    """The line through the points at each number; left and right of them, the nearest point's.

    The interval is found by a tree of comparisons in doubles, and the line is computed as
    `numpy.interp` does, so that a steep step is no place to differ.

    Args:
        graph: Where to put the nodes.
        tensor: Doubles of shape (rows, 1), none of them missing.
        xs: Where the points are, rising.
        ys: Their heights.
    """
    if len(xs) == 1:
        nothing = graph.add("Mul", tensor, 0.0)
        return graph.add("Add", nothing, float(ys[0]))
    inside = graph.add("Clip", tensor, graph.constant(float(xs[0])), float(xs[-1]))
    slopes = (ys[1:] - ys[:-1]) / (xs[1:] - xs[:-1])
    if len(xs) == 2:
        place = graph.cast(graph.add("Mul", inside, 0.0), DType.INT64)
    else:
        found = trees.sums_in_double(graph, inside, [_interval_of(xs[1:-1])], 1)
        place = graph.cast(found, DType.INT64)
    run = graph.add("Sub", inside, graph.add("Gather", xs[:-1], place))
    rise = graph.add("Mul", graph.add("Gather", slopes, place), run)
    return graph.add("Add", rise, graph.add("Gather", ys[:-1], place))


def rounding_error(xs: NDArray[Any], ys: NDArray[Any]) -> float:
    """How far the line moves, at most, where a number is rounded to the next one in the xs' type.

    Those are floats where the scores that the line was fitted to are, as XGBoost's. A step between
    two neighbouring scores may be a thousand times as high as wide.
    """
    if len(xs) == 1:
        return 0.0
    known, heights = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    slopes = np.abs(np.diff(heights) / np.diff(known))
    sizes = np.maximum(np.abs(known[1:]), np.abs(known[:-1]))
    moved = slopes * sizes * float(np.finfo(xs.dtype).eps)
    return float(np.minimum(moved, np.abs(np.diff(heights))).max())


def _interval_of(cuts: NDArray[np.float64]) -> Tree:
    """A balanced tree whose leaves say how many of the cuts are below a number."""
    left: list[int] = []
    right: list[int] = []
    threshold: list[float] = []
    value: list[float] = []

    def grow(low: int, high: int) -> int:
        node = len(left)
        left.append(-1)
        right.append(-1)
        threshold.append(0.0)
        value.append(float(low))
        if low < high:
            middle = (low + high) // 2
            threshold[node] = float(cuts[middle])
            left[node] = grow(low, middle)
            right[node] = grow(middle + 1, high)
        return node

    grow(0, len(cuts))
    return Tree(
        np.array(left),
        np.array(right),
        np.zeros(len(left), np.int64),
        np.array(threshold),
        np.zeros(len(left), bool),
        np.array(value).reshape(-1, 1),
        (0,),
    )
