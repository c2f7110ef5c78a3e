"""Exponentials whose bits do not depend on where in a batch a row stands.

ONNX Runtime computes exponentials of doubles several at a time, and the few that are left over at
the end of a tensor one by one, with another last bit. So a row's answer would depend on its
neighbours (about one row in fifty). Here nothing of a row is ever left over: behind the last row
stand as many zeros as the widest vector of a processor takes, or every row is made that wide.
"""

from __future__ import annotations

import numpy as np

from bascule.packing.compilers.graph import Graph, as_column

_VECTOR = 8
"""Doubles in the widest vector registers."""


def exponential(graph: Graph, tensor: str) -> str:
    """exp(x) for one column, shape (rows, 1)."""
    return _powers(graph, tensor, 1)


def softplus(graph: Graph, tensor: str) -> str:
    """log(1 + exp(x)) for one column, shape (rows, 1), to the last digits.

    That is max(x, 0) + log(1 + p) with p = exp(-|x|). The quotient is what rounding took from 1 + p
    (Goldberg 1991, theorem 4).
    """
    power = exponential(graph, graph.add("Neg", graph.add("Abs", tensor)))
    total = graph.add("Add", power, 1.0)
    quotient = graph.add("Div", power, graph.add("Sub", total, 1.0))
    logarithm = graph.add("Mul", graph.add("Log", total), quotient)
    small = graph.add("Where", graph.add("Equal", total, 1.0), power, logarithm)
    return graph.add("Add", graph.add("Max", tensor, 0.0), small)


def two_sigmoids(graph: Graph, scores: str) -> str:
    """The probabilities of two classes, shape (rows, 2), from one score, shape (rows, 1)."""
    signed = graph.add("Mul", scores, as_column(np.array([1.0, -1.0])))
    one = graph.constant(1.0)
    return graph.add("Div", one, graph.add("Add", one, _powers(graph, signed, 2)))


def _powers(graph: Graph, tensor: str, columns: int) -> str:
    """exp(x) for a tensor of shape (rows, columns)."""
    spare = _VECTOR // columns
    longer = graph.add("Concat", tensor, np.zeros((spare, columns)), axis=0)
    return graph.add("Slice", graph.add("Exp", longer), [0], [-spare])


def sigmoids(graph: Graph, scores: str, columns: int) -> str:
    """1 / (1 + exp(-x)) of each score, shape (rows, columns)."""
    powers = graph.add("Exp", graph.add("Neg", _padded(graph, scores, columns, 0.0)))
    one = graph.constant(1.0)
    shares = graph.add("Div", one, graph.add("Add", one, powers))
    return _first(graph, shares, columns) if columns % _VECTOR else shares


def softmax(graph: Graph, scores: str, classes: int) -> str:
    """The probabilities of several classes, shape (rows, classes), from as many scores."""
    highest = graph.add("ReduceMax", scores, [1], keepdims=1)
    lowered = graph.add("Sub", scores, highest)
    powers = graph.add("Exp", _padded(graph, lowered, classes, -np.inf))
    total = graph.add("ReduceSum", powers, [1], keepdims=1)
    shares = graph.add("Div", powers, total)
    return _first(graph, shares, classes) if classes % _VECTOR else shares


def sum_of_rows(graph: Graph, tensor: str, columns: int) -> str:
    """The sum of each row, shape (rows, 1), added in an order that no batch changes."""
    wide = _padded(graph, tensor, columns, 0.0)
    return graph.add("ReduceSum", wide, [1], keepdims=1)


def _padded(graph: Graph, tensor: str, columns: int, filling: float) -> str:
    """Rows made as wide as whole vectors."""
    spare = -columns % _VECTOR
    if not spare:
        return tensor
    sides = graph.constant([0, 0, 0, spare], "int64")
    return graph.add("Pad", tensor, sides, filling)


def _first(graph: Graph, tensor: str, columns: int) -> str:
    return graph.add("Slice", tensor, [0], [columns], [1])
