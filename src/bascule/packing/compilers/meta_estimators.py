"""Models made of models: votes, stacks, bags, calibrated ones, and one model for each output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bascule.core import DType, Unconvertible
from bascule.packing.compilers.exponentials import sigmoids, softmax, sum_of_rows
from bascule.packing.compilers.foreign import unconvertible
from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.piecewise import piecewise_linear, rounding_error
from bascule.packing.compilers.predictors import (
    Outcome,
    adding_up,
    by_skl2onnx,
    flat,
    of_both,
    of_shares,
    predict_whole,
)
from bascule.packing.compilers.scaling import function_transformer
from bascule.packing.compilers.values import Part, Value, numbers, select

_LOG_FLOOR = 1e-12
"""scikit-learn's `_convert_to_logits` adds it before it takes a logarithm."""
_CALLED = {"prediction": "single number", "decision": "decision function"}


# -- votes ---------------------------------------------------------------------------------------


def voting_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The weighted mean of the members' probabilities, or the label with the most weight."""
    graph = context.graph
    members = [predict_whole(context, member, value) for member in model.estimators_]
    weights = model._weights_not_none
    if model.voting == "soft":
        shares = [_part(outcome, "probabilities", model) for outcome in members]
        mean = _weighted_mean(graph, shares, weights)
        return of_shares(graph, mean)
    votes = [
        _votes(graph, outcome, member, len(model.classes_))
        for outcome, member in zip(members, model.estimators_, strict=True)
    ]
    total = _weighted_sum(graph, votes, weights)
    return Outcome(index=graph.add("ArgMax", total, axis=1, keepdims=0))


def voting_regressor(context: Context, model: Any, value: Value) -> Outcome:
    """The weighted mean of the members' numbers."""
    members = [predict_whole(context, member, value) for member in model.estimators_]
    mean = _weighted_mean(
        context.graph,
        [_part(outcome, "prediction", model) for outcome in members],
        model._weights_not_none,
    )
    return Outcome(prediction=mean)


def _votes(graph: Graph, outcome: Outcome, member: Any, classes: int) -> str:
    """One for the class that a member chooses, shape (rows, classes)."""
    if outcome.index is None:
        raise _lacks(member, "label")
    # Members were trained on the places of the classes, of which one may have seen a few only.
    places = graph.constant(np.asarray(member.classes_).astype(np.int64), "int64")
    place = graph.add("Gather", places, outcome.index)
    column = graph.add("Reshape", place, [-1, 1])
    same = graph.add("Equal", column, as_column(np.arange(classes)))
    return graph.cast(same, DType.FP64)


# -- bags ----------------------------------------------------------------------------------------


def bagging_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The mean of the members' probabilities, or of their votes where one has none."""
    graph = context.graph
    classes = len(model.classes_)
    shares = []
    for member, columns in zip(model.estimators_, model.estimators_features_, strict=True):
        outcome = predict_whole(context, member, select(graph, value, [int(c) for c in columns]))
        if not hasattr(model.estimators_[0], "predict_proba"):
            shares.append(_votes(graph, outcome, member, classes))
        elif len(member.classes_) == classes:
            shares.append(_part(outcome, "probabilities", model))
        else:
            place = np.zeros((len(member.classes_), classes))
            place[np.arange(len(member.classes_)), np.asarray(member.classes_, np.int64)] = 1
            known = _part(outcome, "probabilities", model)
            shares.append(graph.add("MatMul", known, place))
    mean = _weighted_mean(graph, shares, None)
    return of_shares(graph, mean)


def bagging_regressor(context: Context, model: Any, value: Value) -> Outcome:
    """The mean of the members' numbers."""
    graph = context.graph
    made = [
        _part(
            predict_whole(context, member, select(graph, value, [int(c) for c in columns])),
            "prediction",
            model,
        )
        for member, columns in zip(model.estimators_, model.estimators_features_, strict=True)
    ]
    return Outcome(prediction=_weighted_mean(graph, made, None))


# -- stacks --------------------------------------------------------------------------------------


def stacking(context: Context, model: Any, value: Value) -> Outcome:
    """The last model's answer to the members' answers, and to the columns where they pass on."""
    answers: list[Part] = []
    for member, method in zip(model.estimators_, model.stack_method_, strict=True):
        outcome = predict_whole(context, member, value)
        answers += _answers_of(context.graph, outcome, member, method, model)
    if model.passthrough:
        answers += value
    classes = getattr(model, "classes_", None)
    if classes is not None and list(model.final_estimator_.classes_) != list(range(len(classes))):
        raise Unconvertible("the last model of a StackingClassifier knows other classes than it")
    return predict_whole(context, model.final_estimator_, tuple(answers))


def _answers_of(graph: Graph, outcome: Outcome, member: Any, method: str, model: Any) -> Value:
    classes = len(getattr(model, "classes_", ()))
    if method == "predict_proba":
        shares = _part(outcome, "probabilities", model)
        if classes != 2:
            return numbers(shares, classes)
        return numbers(graph.add("Gather", shares, [1], axis=1), 1)
    if method == "decision_function":
        return numbers(_part(outcome, "decision", member), 1 if classes == 2 else classes)
    if not classes:
        return (Part(_part(outcome, "prediction", model), flat=True),)
    labels = np.asarray(member.classes_)
    if outcome.index is None or labels.dtype.kind not in "biuf":
        raise _lacks(member, "labels that are numbers")
    known = graph.constant(labels.astype(np.float64))
    return (Part(graph.add("Gather", known, outcome.index), flat=True),)


# -- calibration ---------------------------------------------------------------------------------


def calibrated_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The mean of the calibrated probabilities of each fold's model."""
    made = [
        _calibrated(context, member, value, len(model.classes_))
        for member in model.calibrated_classifiers_
    ]
    mean = _weighted_mean(context.graph, made, None)
    return of_shares(context.graph, mean)


def _calibrated(context: Context, member: Any, value: Value, classes: int) -> str:
    graph = context.graph
    estimator = member.estimator
    outcome = predict_whole(context, estimator, value)
    by_scores = hasattr(estimator, "decision_function")
    known = len(estimator.classes_)
    scores = _part(outcome, "decision" if by_scores else "probabilities", estimator)
    if member.method == "temperature":
        return _by_temperature(graph, member.calibrators[0].beta_, scores, classes, by_scores)
    if known == 2 and not by_scores:
        scores = graph.add("Gather", scores, [1], axis=1)
    calibrated = _by_class(graph, member, scores)
    if classes == 2:
        shares = of_both(graph, calibrated)
    else:
        shares = adding_up(graph, _at_their_places(graph, calibrated, member, classes), classes)
    return graph.add("Min", shares, 1.0)


def _by_class(graph: Graph, member: Any, scores: str) -> str:
    """Each score through its own calibrator, shape as it was."""
    calibrators = member.calibrators
    if member.method == "sigmoid":
        slopes = graph.constant(as_column(np.array([-one.a_ for one in calibrators])))
        starts = graph.constant(as_column(np.array([one.b_ for one in calibrators])))
        lines = graph.add("Sub", graph.add("Mul", scores, slopes), starts)
        return sigmoids(graph, lines, len(calibrators))
    if member.method != "isotonic":
        raise Unconvertible(f"there is no compiler for a calibration by {member.method}")
    steepest = [rounding_error(one.X_thresholds_, one.y_thresholds_) for one in calibrators]
    graph.rounding = max(graph.rounding, *steepest)
    columns = [
        piecewise_linear(
            graph,
            graph.add("Gather", scores, [place], axis=1),
            np.asarray(one.X_thresholds_, np.float64),
            np.asarray(one.y_thresholds_, np.float64),
        )
        for place, one in enumerate(calibrators)
    ]
    return columns[0] if len(columns) == 1 else graph.add("Concat", *columns, axis=1)


def _at_their_places(graph: Graph, calibrated: str, member: Any, classes: int) -> str:
    """A fold may have seen fewer classes than there are: the others get nothing."""
    places = np.searchsorted(member.classes, member.estimator.classes_)
    if len(places) == classes:
        return calibrated
    if len(member.calibrators) != len(places):
        raise Unconvertible("a fold of a CalibratedClassifierCV saw two of several classes")
    spread = np.zeros((len(places), classes))
    spread[np.arange(len(places)), places] = 1
    return graph.add("MatMul", calibrated, spread)


def _by_temperature(graph: Graph, beta: float, scores: str, classes: int, by_scores: bool) -> str:
    if not by_scores:
        scores = graph.add("Log", graph.add("Add", scores, _LOG_FLOOR))
    elif classes == 2:
        scores = graph.add("Mul", scores, as_column(np.array([-1.0, 1.0])))
    return softmax(graph, graph.add("Mul", scores, float(beta)), classes)


# -- thresholds and targets ----------------------------------------------------------------------


def with_threshold(context: Context, model: Any, value: Value) -> Outcome:
    """The inner classifier's probabilities, and a label by a threshold."""
    graph = context.graph
    inner = getattr(model, "estimator_", model.estimator)
    outcome = predict_whole(context, inner, value)
    by_shares = model.response_method != "decision_function" and hasattr(inner, "predict_proba")
    search = getattr(model, "_curve_scorer", None)
    label = getattr(model, "pos_label", None) if search is None else search._get_pos_label()
    positive = 1 if label is None else list(model.classes_).index(label)
    if by_shares:
        place = graph.constant([positive], "int64")
        scores = graph.add("Gather", _part(outcome, "probabilities", model), place, axis=1)
    else:
        decision = _part(outcome, "decision", model)
        scores = decision if positive else graph.add("Neg", decision)
    threshold = getattr(model, "best_threshold_", None)
    if threshold is None:
        threshold = model.threshold
    if threshold == "auto":
        threshold = 0.5 if by_shares else 0.0
    reached = graph.add("GreaterOrEqual", scores, float(threshold))
    index = flat(graph, graph.cast(reached if positive else graph.add("Not", reached), DType.INT64))
    return Outcome(index=index, probabilities=outcome.probabilities, decision=outcome.decision)


def transformed_target(context: Context, model: Any, value: Value) -> Outcome:
    """The inner regressor's number, transformed back by a function of numpy or a scaler."""
    graph = context.graph
    inner = predict_whole(context, model.regressor_, value)
    column = graph.add("Reshape", _part(inner, "prediction", model), [-1, 1])
    back = model.transformer_
    kind = type(back).__name__
    if kind == "FunctionTransformer":
        from sklearn.preprocessing import FunctionTransformer

        function = FunctionTransformer(back.inverse_func, kw_args=back.inv_kw_args)
        (part,) = function_transformer(context, function, numbers(column, 1))
        return Outcome(prediction=flat(graph, part.tensor))
    if kind != "StandardScaler":
        raise unconvertible(model)
    if back.scale_ is not None:
        column = graph.add("Mul", column, as_column(back.scale_))
    if back.mean_ is not None:
        column = graph.add("Add", column, as_column(back.mean_))
    return Outcome(prediction=flat(graph, column))


# -- one model for each output -------------------------------------------------------------------


def one_for_each_output(context: Context, model: Any, value: Value) -> Outcome:
    return Outcome(
        targets=tuple(predict_whole(context, member, value) for member in model.estimators_)
    )


def regressor_chain(context: Context, model: Any, value: Value) -> Outcome:
    """Each model also reads what those before it in the chain answered."""
    made: dict[int, Outcome] = {}
    for place, member in zip(model.order_, model.estimators_, strict=True):
        outcome = predict_whole(context, member, value)
        value = (*value, Part(_part(outcome, "prediction", model), flat=True))
        made[int(place)] = outcome
    return Outcome(targets=tuple(made[place] for place in sorted(made)))


def one_against_the_rest(context: Context, model: Any, value: Value) -> Outcome:
    """The class whose model has the highest score; probabilities are made to add up to 1.

    The label is by the decision functions, where there are any: the probabilities of several
    models may be as good as 1.
    """
    graph, classes = context.graph, len(model.classes_)
    by_scores = hasattr(model.estimators_[0], "decision_function")
    has_shares = hasattr(model, "predict_proba")
    if len(model.estimators_) == 1 or model.multilabel_ or not (by_scores or has_shares):
        return by_skl2onnx(context, model, value)

    def joined(columns: list[str]) -> str:
        return graph.add("Concat", *columns, axis=1)

    def second(shares: str) -> str:
        return graph.add("Gather", shares, [1], axis=1)

    try:
        members = [predict_whole(context, member, value) for member in model.estimators_]
        shares = (
            [second(_part(one, "probabilities", model)) for one in members] if has_shares else []
        )
        scores = joined([_part(one, "decision", model) for one in members] if by_scores else shares)
    except Unconvertible:
        return by_skl2onnx(context, model, value)
    index = graph.add("ArgMax", scores, axis=1, keepdims=0)
    decision = scores if by_scores else None
    if not shares:
        return Outcome(index=index, decision=decision)
    each = joined(shares)
    total = sum_of_rows(graph, each, classes)
    nothing = graph.add("Equal", total, 0.0)
    added = graph.add("Where", nothing, each, graph.add("Div", each, total))
    return Outcome(index=index, probabilities=added, decision=decision)


# -- what all share ------------------------------------------------------------------------------


def _part(outcome: Outcome, name: str, model: Any) -> str:
    """The `prediction`, `probabilities` or `decision`; raises `Unconvertible` where it has none."""
    part: str | None = getattr(outcome, name)
    if part is None:
        raise _lacks(model, _CALLED.get(name, name))
    return part


def _lacks(model: Any, what: str) -> Unconvertible:
    name = type(model).__name__
    return Unconvertible(
        f"there is no compiler for {name} in a committee: its graph has no {what}", estimator=name
    )


def _weighted_sum(graph: Graph, tensors: Sequence[str], weights: Any) -> str:
    shares = [1.0] * len(tensors) if weights is None else [float(w) for w in weights]
    scaled = [
        tensor if share == 1.0 else graph.add("Mul", tensor, share)
        for tensor, share in zip(tensors, shares, strict=True)
    ]
    return scaled[0] if len(scaled) == 1 else graph.add("Sum", *scaled)


def _weighted_mean(graph: Graph, tensors: Sequence[str], weights: Any) -> str:
    total = _weighted_sum(graph, tensors, weights)
    weight = float(len(tensors)) if weights is None else float(sum(float(w) for w in weights))
    return graph.add("Div", total, weight)
