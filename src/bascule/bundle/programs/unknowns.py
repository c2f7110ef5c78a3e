"""How many unknowns a model has: the numbers that a copy of it must learn.

Who may ask a model for so many values can solve for it (Tramèr et al. 2016, "Stealing Machine
Learning Models via Prediction APIs", section 4): a logistic regression of c classes on d columns
has (d + 1) c, a tree one for each leaf.
"""

from __future__ import annotations

import math

from bascule.bundle.programs.wire import BYTES, RUN, Record, numbers, records

_FLOATS = frozenset((1, 10, 11, 16))
"""Data types of `onnx.proto`: float, float16, double, bfloat16."""
_WEIGHTS = ("coefficients", "intercepts", "support_vectors", "rho", "leaf_weights")
"""Attributes of operators of ai.onnx.ml, one unknown a number."""
_LEAF = b"\x4a\x04LEAF"
"""The mode of a node of a tree, as one record of an attribute's strings."""


def count_unknowns(graph: bytes) -> int:
    """The numbers of weights and the leaves of trees in a serialized ONNX model that was checked.

    Weights that the compiler folds together are counted once: the scale of a column is part of its
    coefficient.
    """
    return sum(_of_graph(graph, part) for part in _parts(graph, (0, BYTES, 0, len(graph)), 7))


def _parts(data: bytes, of: Record, *fields: int) -> list[Record]:
    found = records(data, of[2], of[3])
    return [part for part in found if part[0] in fields and part[1] == BYTES]


def _of_graph(data: bytes, graph: Record) -> int:
    weights = sum(_of_tensor(data, tensor) for tensor in _parts(data, graph, 5))
    return weights + sum(
        _of_attribute(data, attribute)
        for node in _parts(data, graph, 1)
        for attribute in _parts(data, node, 5)
    )


def _of_tensor(data: bytes, tensor: Record) -> int:
    """Its elements; none of whole numbers, which say shapes, and of numbers without a shape."""
    parts = list(records(data, tensor[2], tensor[3]))
    kind = next((start for field, _, start, _ in parts if field == 2), 0)
    shape = [number for part in parts if part[0] == 1 for number in numbers(data, part)]
    return math.prod(shape) if kind in _FLOATS and shape else 0


def _of_attribute(data: bytes, attribute: Record) -> int:
    _, _, start, end = attribute
    parts = records(data, start, end, keep_runs=True)
    name = next((data[at:to] for field, _, at, to in parts if field == 1), b"").decode()
    if name == "nodes_modes":
        return data.count(_LEAF, start, end)  # a forest has millions: they are not walked
    if name not in _WEIGHTS:
        return 0
    tensors = sum(_of_tensor(data, part) for part in _parts(data, attribute, 5))
    runs = [(kind, to - at) for field, kind, at, to in parts if field == 7]
    return tensors + sum(size // (5 if kind == RUN else 4) for kind, size in runs)
