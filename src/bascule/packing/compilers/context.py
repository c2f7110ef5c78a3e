"""What every compiler of a step is given."""

from __future__ import annotations

from dataclasses import dataclass

from bascule.core import DType
from bascule.packing.compilers.graph import Graph

MISSING_TEXT = "\ufdd0missing"
"""What a missing text is inside a program: it begins with a character that Unicode keeps out of
texts, so no category is equal to it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every step is given.

    Attributes:
        graph: Where to put nodes.
        foreign_dtype: In which precision the steps that have no compiler here are converted by
            skl2onnx.
        sparse: Whether the original hands its last step a sparse matrix.
    """

    graph: Graph
    foreign_dtype: DType
    sparse: bool = False
