"""Naive Bayes on counts: sums of logarithms, and the softmax of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.graph import Context
from bascule.packing.compilers.predictors import Outcome, likeliest, linear_scores
from bascule.packing.compilers.values import NUMBER, Value, matrix, numbers, width


def multinomial(context: Context, model: Any, value: Value) -> Outcome:
    scores = linear_scores(
        context, model, value, np.asarray(model.feature_log_prob_), model.class_log_prior_
    )
    return likeliest(context.graph, scores, len(model.classes_))


def complement(context: Context, model: Any, value: Value) -> Outcome:
    if len(model.classes_) == 1:
        raise Unconvertible("a ComplementNB of one class has nothing to choose from")
    none = np.zeros(len(model.classes_))
    scores = linear_scores(context, model, value, np.asarray(model.feature_log_prob_), none)
    return likeliest(context.graph, scores, len(model.classes_))


def bernoulli(context: Context, model: Any, value: Value) -> Outcome:
    """Whether each column is above the limit counts, and so does whether it is not."""
    graph = context.graph
    if model.binarize is not None:
        tensor = matrix(graph, value, NUMBER, step="BernoulliNB")
        above = graph.add("Greater", tensor, float(model.binarize))
        value = numbers(graph.cast(above, DType.FP64), width(value))
    there = np.asarray(model.feature_log_prob_)
    absent = np.log(1 - np.exp(there))
    start = model.class_log_prior_ + absent.sum(axis=1)
    scores = linear_scores(context, model, value, there - absent, start)
    return likeliest(graph, scores, len(model.classes_))
