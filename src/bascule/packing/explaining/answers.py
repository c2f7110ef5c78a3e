"""What every exact method needs to know of a model: its sum, what it answers by it, whose features.

Nothing here knows a framework. The graph that was compiled says what is summed up; which link makes
the answers of it, and which column of the user each feature is made of, is found by asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import for_program, take
from bascule.bundle.disk import ProgramEntry
from bascule.bundle.explaining import Explanation, input_columns
from bascule.bundle.programs import FEATURES, SUMS, open_kind
from bascule.core import Columns, DType, Field, Unconvertible
from bascule.packing.compilers import Sum
from bascule.packing.explaining.making import Made, NotExplained, Sources, link_of
from bascule.packing.imported import Compilation, Rows
from bascule.packing.statements import parity

_PROBED_ROWS = 4096
_SEED = 28


@dataclass(frozen=True, slots=True)
class Explainable:
    """A model whose answers follow from one sum.

    Attributes:
        sum: Of the graph.
        shares: See `Compilation.shares`.
        features: Makes the features; None where they are the inputs, side by side.
        rows: The training rows, else the held-out ones, as the programs read them.
        matrix: Their features, shape (rows, features).
        players: By feature: the column of the user that it is made of; -1 for none that was seen.
        rounds: Whether the features are floats.
        factor, start: Of each target: what makes the margin of the sum.
        link, answer, columns, outputs: See `Explanation`.
    """

    sum: Sum
    shares: NDArray[np.float64] | None
    features: ProgramEntry | None
    rows: Columns
    matrix: NDArray[np.float64]
    players: NDArray[np.int64]
    rounds: bool
    factor: NDArray[np.float64]
    start: NDArray[np.float64]
    link: str
    answer: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]

    def packed(
        self,
        method: str,
        about: str,
        arrays: Mapping[str, NDArray[Any]],
        *,
        tolerance: float,
        background_rows: int,
        **settings: Any,
    ) -> Made:
        """A method for this model, with what `bundle.explaining.features` reads."""
        explanation = Explanation(
            method=method,
            link=self.link,
            answer=self.answer,
            columns=self.columns,
            outputs=self.outputs,
            tolerance=tolerance,
            about=about,
            background_rows=background_rows,
            features=self.features,
            settings={"width": len(self.players), "rounds": self.rounds, **settings},
        )
        if self.features is None:
            return Made(explanation, arrays)
        assert self.sum.features is not None
        graph = np.frombuffer(self.sum.features, np.uint8)
        return Made(explanation, {**arrays, "features": graph})


def explainable(sources: Sources, sum_of: Callable[[Compilation], Sum]) -> Explainable:
    """The first compilation with such a sum; raises `Unconvertible` with the first reason."""
    subject = sources.subject
    if subject.targets:
        raise NotExplained("the model has several targets")
    if any(len(read.shape) > 1 or -1 in read.shape for read in subject.signature.inputs):
        raise NotExplained("the model does not read columns")
    rows = subject.train or subject.test
    if rows is None:
        raise NotExplained("there are no rows to see what the features are made of")
    reason: Unconvertible | None = None
    for compilation in sources.compilations():
        try:
            if compilation.steps is not None:
                raise NotExplained("code of the model's own makes its features")
            return _explainable(sources, compilation, sum_of(compilation), rows)
        except Unconvertible as problem:
            reason = reason or problem
    raise reason or NotExplained("the model is not compiled")


def _explainable(sources: Sources, compilation: Compilation, found: Sum, rows: Rows) -> Explainable:
    signature = sources.subject.signature
    entry = ProgramEntry(
        name="sums",
        kind="onnx",
        file="sums",
        inputs=compilation.inputs,
        batch_invariant=False,
        tolerance=sources.tolerance,
        missing_text=compilation.missing_text,
        texts=compilation.texts,
    )
    sample = parity.sample((sources.subject.test or rows).columns)
    sums = _answers(entry, found.sums, SUMS, sample)
    factor, start, link, answer = _answered(sources, found, sums, sample)
    features = replace(entry, name=FEATURES, file=FEATURES)
    make = _maker(features, found)
    names = input_columns(signature)
    players = _players(make, compilation.inputs, rows.columns, len(names))
    floats = all(read.dtype is DType.FP32 for read in compilation.inputs)
    is_exact = (
        found.is_float or floats or all(f.dtype is not DType.FP32 for f in compilation.inputs)
    )
    is_moved = found.moves and is_exact and np.array_equal(players, np.arange(len(names)))
    return Explainable(
        sum=found,
        shares=compilation.shares,
        features=None if found.features is None or is_moved else features,
        rows=rows.columns,
        matrix=make(rows.columns),
        players=players,
        rounds=found.is_float or floats,
        factor=factor,
        start=start,
        link=link,
        answer=answer,
        columns=names,
        outputs=_outputs(sources, answer, len(factor)),
    )


def _maker(entry: ProgramEntry, found: Sum) -> Callable[[Columns], NDArray[np.float64]]:
    if found.features is None:
        (read,) = entry.inputs
        kind = DType.FP32 if found.is_float else DType.FP64
        return lambda columns: for_program(columns, (replace(read, dtype=kind),))[read.name].astype(
            np.float64
        )
    kind = DType.FP32 if found.is_float else DType.FP64
    program = open_kind(entry, found.features, outputs=(Field(FEATURES, kind, (-1,)),))
    return lambda columns: np.asarray(
        program.run(for_program(columns, entry.inputs))[FEATURES], np.float64
    )


def _answers(entry: ProgramEntry, graph: bytes, output: str, rows: Columns) -> NDArray[Any]:
    program = open_kind(entry, graph, outputs=(Field(output, DType.FP64, (-1,)),))
    return program.run(for_program(rows, entry.inputs))[output]


def _answered(
    sources: Sources, found: Sum, sums: NDArray[Any], rows: Columns
) -> tuple[NDArray[np.float64], NDArray[np.float64], str, str]:
    """What makes margins of the sums, the link and the output that it gives, all as they fit."""
    answers = sources.program.run(for_program(rows, sources.program.inputs))
    numbers = [output.name for output in sources.outputs if output.dtype.is_float]
    for factor, start in found.scaled[::-1]:
        for name in numbers:
            try:
                link = link_of(sums * factor + start, answers[name], sources.tolerance)
            except NotExplained:
                continue
            return factor, start, link, name
    raise NotExplained("the answers follow from the sums by no link that is known")


def _outputs(sources: Sources, answer: str, count: int) -> tuple[str, ...]:
    classes = sources.subject.classes
    if classes is None or count > len(classes):
        return (answer,) if count == 1 else tuple(f"{answer}_{i}" for i in range(count))
    return tuple(str(label) for label in (classes[-1:] if count == 1 else classes))


def _players(
    make: Callable[[Columns], NDArray[np.float64]],
    inputs: tuple[Field, ...],
    columns: Columns,
    count: int,
) -> NDArray[np.int64]:
    """The column that each feature is made of: the one that changes it when its values are mixed.

    Raises:
        NotExplained: A feature is made of several columns.
    """
    rows = len(next(iter(columns.values())))
    random = np.random.default_rng(_SEED)
    for taken in (min(rows, _PROBED_ROWS), rows):
        few = take(columns, random.permutation(rows)[:taken])
        usual = make(few)
        players = np.full(usual.shape[1], -1)
        for column in range(count):
            mixed = make(_mixed(few, inputs, column, random))
            changed = ~((mixed == usual) | (np.isnan(mixed) & np.isnan(usual))).all(axis=0)
            if (players[changed] >= 0).any():
                raise NotExplained("a feature is made of several columns")
            players[changed] = column
        if (players >= 0).all():
            break
    return players


def _mixed(
    columns: Columns, inputs: tuple[Field, ...], column: int, random: np.random.Generator
) -> Columns:
    """The rows with the values of one column in another order; others where all are the same."""
    order = random.permutation(len(next(iter(columns.values()))))
    if len(inputs) > 1 or not inputs[0].shape:
        name = list(columns)[column]
        return {**columns, name: _moved(columns[name], order)}
    ((name, matrix),) = columns.items()
    mixed = matrix.copy()
    mixed[:, column] = _moved(matrix[:, column], order)
    return {name: mixed}


def _moved(values: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    if values.dtype.kind not in "fiub" or (values != values[0]).any():
        return values[order]
    return ~values if values.dtype.kind == "b" else values + values.dtype.type(1)
