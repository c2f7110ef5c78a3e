"""Compile the boosted trees of XGBoost, LightGBM and CatBoost.

Each of those libraries writes its trees down; the modules named after them read that, and here it
becomes a graph. They differ in what they compare (floats or doubles, below or at most), in where a
missing value goes and in what a category is. All of it is brought to one form: `x <= threshold` in
doubles, where a library that compares floats has had its input rounded to floats first, so that a
row at a threshold, or one float beside it, goes the way that it goes in the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Field, Signature, Unconvertible
from bascule.packing.compilers import trees
from bascule.packing.compilers.encoding import looked_up
from bascule.packing.compilers.exponentials import exponential, sigmoids, softplus, two_sigmoids
from bascule.packing.compilers.graph import MISSING_TEXT, Context, Graph
from bascule.packing.compilers.predictors import (
    Outcome,
    flat,
    likeliest,
    of_both,
    of_scores,
    raised,
    rounded_to_float,
)
from bascule.packing.compilers.sklearn import declare, declare_each
from bascule.packing.compilers.trees import Tree
from bascule.packing.compilers.values import (
    NUMBER,
    TEXT,
    Part,
    Value,
    matrix,
    numbers as of_numbers,
    rounded,
    width,
)
from bascule.packing.imported import Compilation


class Link(StrEnum):
    """What becomes of the sums of the trees."""

    IDENTITY = "identity"
    EXPONENTIAL = "exponential"
    SIGMOID = "sigmoid"
    SIGMOIDS = "one sigmoid for each class"
    SOFTMAX = "softmax"
    HINGE = "1 above zero, else 0"
    MARGIN = "the sum itself for the second class"
    SOFTPLUS = "log(1 + exp(x))"
    VARIANCE = "a mean, and the logarithm of a deviation, of which the square is answered"


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Boosted trees in one form.

    Attributes:
        trees: Each test is `x <= threshold`.
        base: What the sum of each target starts from.
        link: What becomes of the sums.
        columns: How many columns the trees read.
        rounds: Whether the library rounds its input to floats.
        rounds_whole: Whether it rounds whole numbers alone.
        zero_is_missing: Columns in which a number within 1e-35 of zero counts as missing.
        categorical: Columns that hold categories, as whole numbers from 0.
        several: Whether each sum is an answer of its own; else they are scores of classes.
    """

    trees: Sequence[Tree]
    base: Sequence[float]
    link: Link
    columns: int
    rounds: bool
    zero_is_missing: frozenset[int] = field(default_factory=frozenset)
    categorical: frozenset[int] = field(default_factory=frozenset)
    rounds_whole: bool = False
    several: bool = False


ZERO = float(np.float32(1e-35))
"""LightGBM's kZeroThreshold, a constant of type float: what is as near to zero as that is zero."""
_NO_CATEGORY = 2.0**31
"""What is put for a negative category: it is in no set, as the libraries say of it."""


def compile_ensemble(
    ensemble: Ensemble,
    signature: Signature,
    classes: Sequence[Any] | None,
    categories: Mapping[str, Sequence[Any]],
    *,
    reads_floats: bool,
    answers: DType,
    prepare: Callable[[Graph, Value], Value] | None = None,
    threshold: float = 0.5,
    numbers: Sequence[int] = (),
) -> Compilation:
    """The one graph of a model that is nothing but boosted trees.

    Args:
        ensemble: The trees.
        signature: What the model takes.
        classes: The labels of a classifier, else None.
        categories: The categories of the columns of a categorical type: their places are what the
            trees read.
        reads_floats: Whether the library was handed floats.
        answers: In which type it gives numbers.
        prepare: Makes the columns that the trees read of those of the model; they are the same if
            None.
        threshold: From which probability on a classifier of two classes answers the second.
        numbers: For each output of a model that answers several numbers: which one it is made of.
    """
    number = DType.FP32 if reads_floats and not (categories or prepare) else DType.FP64
    inputs = tuple(
        read if read.dtype in (DType.BOOL, DType.BYTES) else replace(read, dtype=number)
        for read in signature.inputs
    )
    graph = Graph(inputs)
    value = _columns(graph, inputs, categories, number)
    if prepare is not None:
        value = prepare(graph, value)
    rounds = ensemble.rounds or reads_floats
    if number is DType.FP32:
        joined = matrix(graph, value, NUMBER, step="boosted trees")
        value = of_numbers(graph.cast(joined, DType.FP64), width(value))
        rounds = False
    context = Context(graph, DType.FP64)
    many = None if classes is None else len(classes)
    outcome = predict_ensemble(context, replace(ensemble, rounds=rounds), value, many, threshold)
    if numbers:
        targets = [outcome.targets[place] for place in numbers]
        fields = [replace(f, dtype=answers) if f.dtype.is_float else f for f in signature.outputs]
        outputs = declare_each(graph, fields, targets, [classes or ()] * len(numbers))
    else:
        outputs = declare(graph, outcome, classes, answers, signature.outputs[0].name)
    has_text = any(read.dtype is DType.BYTES for read in inputs)
    precision = "float64, after rounding to float32" if ensemble.rounds else "float64"
    return Compilation(
        precision,
        graph.finish(),
        inputs,
        outputs,
        MISSING_TEXT if has_text else None,
        shares=graph.shares_of_one,
    )


def predict_ensemble(
    context: Context, ensemble: Ensemble, value: Value, classes: int | None, threshold: float = 0.5
) -> Outcome:
    """What boosted trees answer, from the columns before them; see `compile_ensemble`."""
    if width(value) != ensemble.columns:
        raise Unconvertible(
            f"the boosted trees read {ensemble.columns} columns and are given {width(value)}"
        )
    graph = context.graph
    if ensemble.rounds:
        tensor = rounded_to_float(graph, value)
    else:
        tensor = matrix(graph, value, NUMBER, step="boosted trees")
    if ensemble.rounds_whole:
        is_whole = graph.add("Equal", tensor, graph.add("Floor", tensor))
        tensor = graph.add("Where", is_whole, rounded(graph, tensor), tensor)
    tensor = _cleaned(graph, tensor, ensemble)
    tensor, made = trees.without_members(graph, tensor, ensemble.trees, ensemble.columns)
    sums = trees.sums_in_double(graph, tensor, made, len(ensemble.base))
    scores = raised(graph, sums, ensemble.base)
    if ensemble.several:
        return Outcome(targets=_each(context, scores, ensemble, classes))
    outcome = _linked(context, scores, ensemble.link, classes)
    if threshold == 0.5 or classes != 2 or ensemble.link is not Link.SIGMOID:
        return outcome
    cut = graph.constant(math.log(threshold / (1 - threshold)) if threshold < 1 else math.inf)
    above = graph.cast(graph.add("Greater", scores, cut), DType.INT64)
    return replace(outcome, index=flat(graph, above))


def _each(
    context: Context, scores: str, ensemble: Ensemble, classes: int | None
) -> tuple[Outcome, ...]:
    """What becomes of each sum, shape (rows, sums)."""
    graph = context.graph
    columns = [graph.add("Gather", scores, [k], axis=1) for k in range(len(ensemble.base))]
    if ensemble.link is Link.VARIANCE:
        mean, deviation = columns
        variance = exponential(graph, graph.add("Mul", deviation, 2.0))
        return tuple(Outcome(prediction=flat(graph, column)) for column in (mean, variance))
    return tuple(_linked(context, column, ensemble.link, classes) for column in columns)


def _linked(context: Context, scores: str, link: Link, classes: int | None) -> Outcome:
    graph = context.graph
    if link is Link.HINGE:
        scores = graph.cast(graph.add("Greater", scores, 0.0), DType.FP64)
    if link in (Link.HINGE, Link.MARGIN):
        return _of_second(graph, scores, classes)
    if classes is None:
        if link is Link.EXPONENTIAL:
            scores = exponential(graph, scores)
        elif link is Link.SOFTPLUS:
            scores = softplus(graph, scores)
        elif link is Link.SIGMOID:
            both = two_sigmoids(graph, scores)
            scores = graph.add("Gather", both, [1], axis=1)
        elif link is not Link.IDENTITY:
            raise Unconvertible(f"there is no compiler for a regressor with {link}")
        return Outcome(prediction=flat(graph, scores))
    if link is Link.SIGMOIDS:
        index = graph.add("ArgMax", scores, axis=1, keepdims=0)
        return Outcome(index=index, probabilities=sigmoids(graph, scores, classes))
    if link is Link.SOFTMAX:  # of two classes as well: one score each
        return likeliest(graph, scores, classes)
    if link is not Link.SIGMOID:
        raise Unconvertible(f"there is no compiler for a classifier with {link}")
    # A probability of a half is the first class's in all three libraries.
    return of_scores(context, scores, classes, comparison="Greater")


def _of_second(graph: Graph, second: str, classes: int | None) -> Outcome:
    """What XGBoost calls probabilities where its objective has none: 1 - x and x."""
    if classes is None:
        return Outcome(prediction=flat(graph, second))
    above = graph.add("Greater", second, 0.5)
    return Outcome(
        index=flat(graph, graph.cast(above, DType.INT64)), probabilities=of_both(graph, second)
    )


def _cleaned(graph: Graph, tensor: str, ensemble: Ensemble) -> str:
    if ensemble.zero_is_missing:
        near = graph.add("LessOrEqual", graph.add("Abs", tensor), ZERO)
        where = graph.add("And", near, _flags(graph, ensemble.zero_is_missing, ensemble.columns))
        tensor = graph.add("Where", where, np.nan, tensor)
    if ensemble.categorical:
        # Between -1 and 0 a number is cut to 0, as in the libraries.
        below = graph.add("LessOrEqual", tensor, -1.0)
        where = graph.add("And", below, _flags(graph, ensemble.categorical, ensemble.columns))
        tensor = graph.add("Where", where, _NO_CATEGORY, tensor)
    return tensor


def _flags(graph: Graph, columns: frozenset[int], count: int) -> str:
    flags: NDArray[np.bool_] = np.zeros((1, count), bool)
    flags[0, sorted(columns)] = True
    return graph.constant(flags, np.bool_)


def _columns(
    graph: Graph, inputs: tuple[Field, ...], categories: Mapping[str, Sequence[Any]], number: DType
) -> Value:
    parts: list[Part] = []
    for read in inputs:
        tensor = graph.cast(read.name, number) if read.dtype is DType.BOOL else read.name
        if read.shape:
            parts.append(Part(tensor, NUMBER, read.shape[0]))
            continue
        part = Part(tensor, TEXT if read.dtype is DType.BYTES else NUMBER, flat=True)
        listed = categories.get(read.name)
        if listed is None:
            parts.append(part)
            continue
        places = np.arange(len(listed), dtype=np.float64)
        parts += looked_up(graph, (part,), np.asarray(listed, object), places, np.nan)
    return tuple(parts)
