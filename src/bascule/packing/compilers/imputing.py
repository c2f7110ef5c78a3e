"""Steps about missing values: NaN among numbers, a reserved text among texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bascule.core import Unconvertible
from bascule.packing.compilers.foreign import unconvertible
from bascule.packing.compilers.graph import MISSING_TEXT, Context, Graph, as_column
from bascule.packing.compilers.values import (
    NUMBER,
    TEXT,
    Part,
    Value,
    flags_to_numbers,
    is_single,
    matrix,
    numbers,
    select,
    width,
)


def simple_imputer(context: Context, step: Any, value: Value) -> Value:
    """Fills with the statistics of the training data; columns without any are dropped."""
    graph = context.graph
    statistics = list(step.statistics_)
    kept = list(range(len(statistics)))
    if not (step.keep_empty_features or step.strategy == "constant"):
        kept = [i for i in kept if not _is_missing_statistic(statistics[i])]
    chosen = select(graph, value, kept)
    filled = _filled(graph, chosen, [statistics[i] for i in kept], step.missing_values)
    if step.indicator_ is None:
        return filled
    return filled + missing_indicator(context, step.indicator_, value)


def iterative_imputer(context: Context, step: Any, value: Value) -> Value:
    """Fills simply, and then column by column from regressions on the other columns.

    Only missing values are replaced, and each regression reads what those before it filled.
    """
    from bascule.packing.compilers.predictors import predict_whole

    graph = context.graph
    if step.sample_posterior:
        raise unconvertible(step)
    tensor = matrix(graph, value, NUMBER, step="IterativeImputer")
    absent = _missing_flags(graph, tensor, NUMBER, step.missing_values)
    columns = [
        part.tensor
        for i in range(width(value))
        for part in select(graph, simple_imputer(context, step.initial_imputer_, value), [i])
    ]
    if len(columns) != step.n_features_in_:
        raise unconvertible(step)
    low, high = np.ravel(step._min_value), np.ravel(step._max_value)
    for triplet in step.imputation_sequence_:
        others = tuple(Part(columns[int(i)]) for i in triplet.neighbor_feat_idx)
        outcome = predict_whole(context, triplet.estimator, others)
        if outcome.prediction is None:
            raise unconvertible(step)
        place = int(triplet.feat_idx)
        found = graph.add("Reshape", outcome.prediction, [-1, 1])
        ends = (graph.constant(float(low[place])), graph.constant(float(high[place])))
        flags = graph.add("Gather", absent, [place], axis=1)
        columns[place] = graph.add("Where", flags, graph.add("Clip", found, *ends), columns[place])
    filled = tuple(Part(column) for column in columns)
    if step.indicator_ is None:
        return filled
    return filled + missing_indicator(context, step.indicator_, value)


def missing_indicator(context: Context, step: Any, value: Value) -> Value:
    """One flag, as a number, for each column that had missing values in training."""
    graph = context.graph
    chosen = select(graph, value, [int(i) for i in step.features_])
    parts: list[Part] = []
    for run in _runs(chosen):
        tensor = matrix(graph, run, run[0].kind, step="MissingIndicator")
        flags = _missing_flags(graph, tensor, run[0].kind, step.missing_values)
        parts += flags_to_numbers(graph, flags, width(run))
    return tuple(parts)


def _filled(graph: Graph, value: Value, statistics: list[Any], missing_values: Any) -> Value:
    parts: list[Part] = []
    at = 0
    for run in _runs(value):
        wanted = statistics[at : at + width(run)]
        at += width(run)
        kind = run[0].kind
        tensor = matrix(graph, run, kind, step="SimpleImputer")
        flags = _missing_flags(graph, tensor, kind, missing_values)
        if kind == TEXT:
            texts = [MISSING_TEXT if _is_missing_statistic(text) else text for text in wanted]
            fill = graph.constant(as_column(np.array(texts, object)), object)
            parts.append(Part(graph.add("Where", flags, fill, tensor), TEXT, width(run)))
        else:
            single = is_single(value)
            held = np.array(wanted, np.float32 if single else np.float64)
            filled = graph.add("Where", flags, as_column(held), tensor)
            parts += numbers(filled, width(run), single=single)
    return tuple(parts)


def _runs(value: Value) -> list[Value]:
    """The value cut where its kind changes."""
    runs: list[list[Part]] = []
    for part in value:
        if runs and runs[-1][-1].kind == part.kind:
            runs[-1].append(part)
        else:
            runs.append([part])
    return [tuple(run) for run in runs]


def _missing_flags(graph: Graph, tensor: str, kind: str, missing_values: Any) -> str:
    means_missing = missing_values is None or missing_values != missing_values
    if kind == NUMBER:
        if means_missing or type(missing_values).__name__ == "NAType":
            return graph.add("IsNaN", tensor)
        if isinstance(missing_values, str):
            raise Unconvertible("an imputer looks for a text in a column of numbers")
        return graph.add("Equal", tensor, float(missing_values))
    text = MISSING_TEXT if not isinstance(missing_values, str) else missing_values
    return graph.add("Equal", tensor, graph.constant(np.array(text, object), object))


def _is_missing_statistic(value: Any) -> bool:
    return value is None or bool(value != value)
