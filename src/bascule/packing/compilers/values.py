"""What flows between the steps of a pipeline: columns, some of them still apart, some as matrices.

A table's columns stay apart until a step needs them together, because a step usually needs only a
few of them, and every node of the graph costs about a microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.graph import Context, Graph, as_column

NUMBER = "number"
TEXT = "text"
DATE = "date"
"""A column that no graph computes with: a pipeline may only leave it out."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of doubles or of texts: a matrix, or one column of shape (rows,) when `flat`.

    Numbers that the original holds as floats are doubles of the same value here, and `single`.
    """

    tensor: str
    kind: str = NUMBER
    width: int = 1
    flat: bool = False
    single: bool = False


Value = tuple[Part, ...]
"""Parts side by side: the columns in order."""


def width(value: Value) -> int:
    return sum(part.width for part in value)


def select(graph: Graph, value: Value, columns: Sequence[int]) -> Value:
    """Some columns, in the order given; neighbours from one matrix stay one matrix."""
    places = [(part, at) for part in value for at in range(part.width)]
    chosen: list[tuple[Part, list[int]]] = []
    for column in columns:
        part, at = places[column]
        if chosen and chosen[-1][0] is part and not part.flat:
            chosen[-1][1].append(at)
        else:
            chosen.append((part, [at]))
    return tuple(_narrow(graph, part, at) for part, at in chosen)


def _narrow(graph: Graph, part: Part, columns: list[int]) -> Part:
    if columns == list(range(part.width)):
        return part
    indices = graph.constant(columns, "int64")
    chosen = graph.add("Gather", part.tensor, indices, axis=1)
    return replace(part, tensor=chosen, width=len(columns))


def matrix(graph: Graph, value: Value, kind: str, *, step: str) -> str:
    """All columns as one matrix of doubles, or of texts."""
    for part in value:
        if part.kind != kind or kind == DATE:
            raise Unconvertible(
                f"{step} is given a {part.kind} column where the compiler knows only {kind}s",
                hint="encode the column before that step",
            )
    pieces: list[str] = []
    apart: list[str] = []
    for part in value:
        if part.flat:
            apart.append(part.tensor)
            continue
        if apart:
            pieces.append(_joined(graph, apart))
            apart = []
        pieces.append(part.tensor)
    if apart:
        pieces.append(_joined(graph, apart))
    if not pieces:
        raise Unconvertible(f"{step} is given no columns")
    return pieces[0] if len(pieces) == 1 else graph.add("Concat", *pieces, axis=1)


def numeric(context: Context, step: Any, value: Value) -> tuple[Graph, str]:
    """The graph, and all columns as one matrix of doubles for a step."""
    graph = context.graph
    return graph, matrix(graph, value, NUMBER, step=type(step).__name__)


def _joined(graph: Graph, columns: list[str]) -> str:
    """Columns of shape (rows,) to a matrix. Three nodes, however many columns there are."""
    if len(columns) == 1:
        return graph.add("Reshape", columns[0], [-1, 1])
    long = graph.add("Concat", *columns, axis=0)
    wide = graph.add("Reshape", long, [len(columns), -1])
    return graph.add("Transpose", wide, perm=[1, 0])


def numbers(tensor: str, columns: int, *, single: bool = False) -> Value:
    return (Part(tensor, NUMBER, columns, single=single),)


def is_single(value: Value) -> bool:
    """Whether all columns are floats in the original, so that its matrix of them is."""
    return all(part.single for part in value)


def arithmetic(graph: Graph, op: str, tensor: str, constant: NDArray[Any], single: bool) -> str:
    """A sum, product... with a constant row, rounded to floats where the original's are floats.

    Of two floats, a double that is rounded is the very float that arithmetic in floats gives.
    """
    made = graph.add(op, tensor, as_column(np.asarray(constant, np.float64)))
    return rounded(graph, made) if single else made


def rounded(graph: Graph, tensor: str) -> str:
    """Doubles rounded to floats, as doubles."""
    return graph.cast(graph.cast(tensor, DType.FP32), DType.FP64)


def flags_to_numbers(graph: Graph, tensor: str, columns: int) -> Value:
    return numbers(graph.cast(tensor, DType.FP64), columns)


def label_dtype(classes: Any) -> DType:
    """Text, booleans, doubles; whole numbers of any width are INT64."""
    kind = np.asarray(classes).dtype.kind
    return {"b": DType.BOOL, "i": DType.INT64, "u": DType.INT64, "f": DType.FP64}.get(
        kind, DType.BYTES
    )
