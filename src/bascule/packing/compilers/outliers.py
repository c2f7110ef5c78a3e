"""Detectors of outliers: a score for each row, and its sign as the label.

The label is 1 for an inlier and -1 for an outlier, as in scikit-learn, and the score is its
`decision_function`: below 0 for an outlier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bascule.core import DType
from bascule.packing.compilers import trees
from bascule.packing.compilers.exponentials import exponential
from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.predictors import Outcome, flat, linear_scores, rounded_to_float
from bascule.packing.compilers.trees import Tree
from bascule.packing.compilers.values import Value, numeric
from bascule.stats import usual_depth


def detected(graph: Graph, decision: str, *, zero_is_inside: bool = True) -> Outcome:
    """Labels of scores of shape (rows, 1): by place, 0 for an outlier and 1 for an inlier."""
    comparison = "GreaterOrEqual" if zero_is_inside else "Greater"
    inside = graph.add(comparison, decision, 0.0)
    index = flat(graph, graph.cast(inside, DType.INT64))
    return Outcome(index=index, decision=decision, is_detection=True)


def isolation_forest(context: Context, model: Any, value: Value) -> Outcome:
    """By how few splits isolate a row from the training rows (Liu, Ting and Zhou 2008)."""
    graph = context.graph
    made = [_depths(model, place) for place in range(len(model.estimators_))]
    depths = trees.sums_in_double(graph, rounded_to_float(graph, value), made, 1)
    usual = len(made) * usual_depth(model._max_samples)
    if usual:
        share = graph.add("Div", depths, -usual)
    else:  # trained on one row
        share = graph.add("Sub", graph.add("Mul", depths, 0.0), 1.0)
    powers = exponential(graph, graph.add("Mul", share, float(np.log(2.0))))
    scores = graph.add("Sub", graph.add("Neg", powers), float(model.offset_))
    return detected(graph, scores)


def elliptic_envelope(context: Context, model: Any, value: Value) -> Outcome:
    """The squared Mahalanobis distance from the middle, and how far it is below the limit."""
    graph, tensor = numeric(context, model, value)
    away = graph.add("Sub", tensor, as_column(model.location_))
    turned = graph.add("MatMul", away, model.get_precision())
    squares = graph.add("Mul", turned, away)
    distance = graph.add("ReduceSum", squares, [1], keepdims=1)
    return detected(graph, graph.add("Sub", graph.add("Neg", distance), float(model.offset_)))


def linear_one_class(context: Context, model: Any, value: Value) -> Outcome:
    coefficients = np.atleast_2d(np.asarray(model.coef_, np.float64))
    scores = linear_scores(context, model, value, coefficients, -np.ravel(model.offset_))
    return detected(context.graph, scores)


def _depths(forest: Any, place: int) -> Tree:
    """A tree whose leaves hold how deep they are, and how much deeper they would have gone on."""
    tree = forest.estimators_[place].tree_
    beyond = np.asarray(forest._average_path_length_per_tree[place], np.float64)
    questions = np.asarray(forest._decision_path_lengths[place], np.float64)
    values = (questions + beyond - 1.0).reshape(-1, 1)
    made = trees.of_sklearn(tree, values=values, targets=(0,))
    columns = np.asarray(forest.estimators_features_[place], np.int64)
    return replace(made, feature=columns[made.feature])
