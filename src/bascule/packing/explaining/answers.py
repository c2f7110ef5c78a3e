"""What every exact method needs to know of a model: its sum, what it answers by it, whose features.

Nothing here knows a framework. The graph that was compiled says what is summed up; which link makes
the answers of it, and which column of the user each feature is made of, is found by asking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, take
from bascule.bundle.disk import ProgramEntry
from bascule.bundle.explaining import (
    LINKS,
    Arrays,
    ColumnPlace,
    Explanation,
    Features,
    column_places,
    differences,
)
from bascule.bundle.programs import FEATURES, SUMS, open_kind
from bascule.core import Columns, DType, Field, Unconvertible
from bascule.packing.compilers import Sum
from bascule.packing.explaining.making import Method, NotExplained, Sources
from bascule.packing.explaining.sampling import names_of
from bascule.packing.imported import Compilation, Rows
from bascule.packing.statements import parity

_PROBED_ROWS = 4096
_SEED = 28

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Explainable:
    """A model whose answers follow from one sum.

    Attributes:
        sum: Of the graph.
        shares: See `Compilation.shares`.
        matrix: The features of the training rows, else of the held-out ones. (rows, features)
        players: By feature: the column of the user that it is made of; -1 for none that was seen.
        factor, start: Of each target: what makes the margin of the sum.
        explanation: All but the method's own part.
        graph: The arrays that `Features` reads.
    """

    sum: Sum
    shares: Floats | None
    matrix: Floats
    players: NDArray[np.int64]
    factor: Floats
    start: Floats
    explanation: Explanation
    graph: Arrays

    def packed(
        self, method: str, about: str, arrays: Arrays, background_rows: int = 0, **own: Any
    ) -> Method:
        """A method for this model, with its own arrays and settings."""
        settings = {**self.explanation.settings, "width": len(self.players), **own}
        explanation = replace(
            self.explanation, method=method, about=about, background_rows=background_rows,
            settings=settings,
        )  # fmt: skip
        return Method(explanation, {**arrays, **self.graph})


def explainable(sources: Sources, sum_of: Callable[[Compilation], Sum]) -> Explainable:
    """The first compilation with such a sum; raises `Unconvertible` with the first reason."""
    subject = sources.subject
    if subject.targets:
        raise NotExplained("the model has several targets")
    rows, places = subject.train or subject.test, column_places(subject.signature)
    if not places:
        raise NotExplained("the model does not read columns")
    if rows is None:
        raise NotExplained("there are no rows to see what the features are made of")
    reason: Unconvertible | None = None
    for compilation in sources.compilations():
        try:
            if compilation.steps is not None:
                raise NotExplained("code of the model's own makes its features")
            return _explainable(sources, compilation, sum_of(compilation), rows, places)
        except Unconvertible as problem:
            reason = reason or problem
    raise reason or NotExplained("the model is not compiled")


def _explainable(
    sources: Sources, compilation: Compilation, summed: Sum, rows: Rows,
    places: tuple[ColumnPlace, ...],
) -> Explainable:  # fmt: skip
    entry = ProgramEntry(
        name=FEATURES, kind="onnx", file=FEATURES, inputs=compilation.inputs,
        batch_invariant=False, tolerance=sources.tolerance,
        missing_text=compilation.missing_text, texts=compilation.texts,
    )  # fmt: skip
    sample = parity.sample((sources.subject.test or rows).columns)
    program = open_kind(entry, summed.sums, outputs=(Field(SUMS, DType.FP64, (-1,)),))
    sums = program.run(for_program(sample, compilation.inputs))[SUMS]
    factor, start, link, answer = _answered(sources, summed, sums, sample)
    floats = [read.dtype is DType.FP32 for read in compilation.inputs]
    explanation = Explanation(
        method="", link=link, answer=answer.name, columns=tuple(place.name for place in places),
        outputs=names_of(answer, sources.subject.classes, len(factor)),
        tolerance=sources.tolerance, about="", features=None if summed.features is None else entry,
        settings={"width": -1, "rounds": summed.is_float or all(floats)},
    )  # fmt: skip
    graph: Arrays = {}
    if summed.features is not None:
        graph = {"features": np.frombuffer(summed.features, np.uint8)}
    features = Features(explanation, graph)
    matrix = features(rows.columns).astype(np.float64)
    players = _players(features, places, rows.columns, matrix)
    is_exact = summed.is_float or all(floats) or not any(floats)
    if summed.moves and is_exact and np.array_equal(players, np.arange(len(places))):
        explanation, graph = replace(explanation, features=None), {}
    return Explainable(
        summed, compilation.shares, matrix, players, factor, start, explanation, graph
    )


def _answered(
    sources: Sources, summed: Sum, sums: NDArray[Any], rows: Columns
) -> tuple[Floats, Floats, str, Field]:
    """What makes margins of the sums, the link and the output that it gives, all as they fit."""
    answers = sources.program.run(for_program(rows, sources.program.inputs))
    numbers = [output for output in sources.outputs if output.dtype.is_float]
    for factor, start in summed.scaled[::-1]:
        for output, link in product(numbers, LINKS):
            apart = differences(link, sums * factor + start, answers[output.name])
            if np.max(apart) <= sources.tolerance:
                return factor, start, link, output
    raise NotExplained("the answers follow from the sums by no link that is known")


def _players(
    features: Features, places: tuple[ColumnPlace, ...], columns: Columns, matrix: Floats
) -> NDArray[np.int64]:
    """The column that each feature is made of: its values, moved to other rows, change it.

    `matrix` has the features of all rows.

    Raises:
        Unconvertible: A feature is made of several columns.
    """
    chosen = np.random.default_rng(_SEED).permutation(len(matrix))[:_PROBED_ROWS]
    first = matrix[chosen[0]]
    # Rows with the values that none of these has, such as a rare category.
    differs = matrix[:, (matrix[chosen] == first).all(axis=0)]
    differs = differs != differs[chosen[0]]
    rare = np.unique(differs.argmax(axis=0)[differs.any(axis=0)])
    few = take(columns, np.concatenate([chosen, rare]))
    usual = features(few)
    players = np.full(usual.shape[1], -1)
    for column, place in enumerate(places):
        mixed = features(place.replaced(few, _moved(place.values(few))))
        changed = ~((mixed == usual) | (np.isnan(mixed) & np.isnan(usual))).all(axis=0)
        if (players[changed] >= 0).any():
            raise NotExplained("a feature is made of several columns")
        players[changed] = column
    return players


def _moved(values: NDArray[Any]) -> NDArray[Any]:
    """Each row's value to the next row; other values where all are the same."""
    if values.dtype.kind not in "fiub" or (values != values[0]).any():
        return np.roll(values, 1, axis=0)
    return ~values if values.dtype.kind == "b" else values + values.dtype.type(1)
