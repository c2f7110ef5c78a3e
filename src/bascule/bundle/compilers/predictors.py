"""The last step of a model: what it answers, from the columns before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.compilers import trees
from bascule.bundle.compilers.context import Context
from bascule.bundle.compilers.exponentials import exponential, softmax, two_sigmoids
from bascule.bundle.compilers.foreign import convert
from bascule.bundle.compilers.graph import Graph, as_column
from bascule.bundle.compilers.steps import compiler_for, transform
from bascule.bundle.compilers.trees import Tree
from bascule.bundle.compilers.values import NUMBER, Value, matrix, width
from bascule.core.errors import Unconvertible
from bascule.core.fields import DType


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the last step gives.

    Attributes:
        prediction: Doubles of shape (rows,): a regressor's answer.
        index: Whole numbers of shape (rows,): the place of a classifier's label in its classes.
        probabilities: Doubles of shape (rows, classes), where the classifier has them.
    """

    prediction: str | None = None
    index: str | None = None
    probabilities: str | None = None


Predictor = Callable[[Context, Any, Value], Outcome]

_HERE = "bascule.bundle.compilers.predictors"
_LINEAR_REGRESSORS = (
    "ARDRegression BayesianRidge ElasticNet ElasticNetCV HuberRegressor Lars LarsCV Lasso LassoCV "
    "LassoLars LassoLarsCV LassoLarsIC LinearRegression OrthogonalMatchingPursuit "
    "OrthogonalMatchingPursuitCV QuantileRegressor Ridge RidgeCV SGDRegressor TheilSenRegressor"
)
_LINEAR_CLASSIFIERS = (
    "LogisticRegression LogisticRegressionCV Perceptron RidgeClassifier RidgeClassifierCV"
)
_PREDICTORS = {
    "catboost.core.CatBoostClassifier": "bascule.bundle.compilers.catboost:estimator",
    "catboost.core.CatBoostRegressor": "bascule.bundle.compilers.catboost:estimator",
    "lightgbm.sklearn.LGBMClassifier": "bascule.bundle.compilers.lightgbm:estimator",
    "lightgbm.sklearn.LGBMRegressor": "bascule.bundle.compilers.lightgbm:estimator",
    "sklearn.ensemble.ExtraTreesClassifier": f"{_HERE}:forest_classifier",
    "sklearn.ensemble.ExtraTreesRegressor": f"{_HERE}:forest_regressor",
    "sklearn.ensemble.GradientBoostingClassifier": f"{_HERE}:gradient_boosting_classifier",
    "sklearn.ensemble.GradientBoostingRegressor": f"{_HERE}:gradient_boosting_regressor",
    "sklearn.ensemble.HistGradientBoostingClassifier": f"{_HERE}:histogram_classifier",
    "sklearn.ensemble.HistGradientBoostingRegressor": f"{_HERE}:histogram_regressor",
    "sklearn.ensemble.RandomForestClassifier": f"{_HERE}:forest_classifier",
    "sklearn.ensemble.RandomForestRegressor": f"{_HERE}:forest_regressor",
    "sklearn.ensemble.VotingClassifier": f"{_HERE}:voting_classifier",
    "sklearn.ensemble.VotingRegressor": f"{_HERE}:voting_regressor",
    "sklearn.svm.LinearSVC": f"{_HERE}:linear_classifier",
    "sklearn.svm.LinearSVR": f"{_HERE}:linear_regressor",
    "sklearn.tree.DecisionTreeClassifier": f"{_HERE}:forest_classifier",
    "sklearn.tree.DecisionTreeRegressor": f"{_HERE}:forest_regressor",
    "sklearn.tree.ExtraTreeClassifier": f"{_HERE}:forest_classifier",
    "sklearn.tree.ExtraTreeRegressor": f"{_HERE}:forest_regressor",
    "xgboost.sklearn.XGBClassifier": "bascule.bundle.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRFClassifier": "bascule.bundle.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRFRegressor": "bascule.bundle.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRegressor": "bascule.bundle.compilers.xgboost:estimator",
    **{
        f"sklearn.linear_model.{n}": f"{_HERE}:linear_regressor" for n in _LINEAR_REGRESSORS.split()
    },
    **{
        f"sklearn.linear_model.{n}": f"{_HERE}:linear_classifier"
        for n in _LINEAR_CLASSIFIERS.split()
    },
}


def predict(context: Context, model: Any, value: Value) -> Outcome:
    """Compile the last step; one without a compiler here is converted by skl2onnx."""
    compiler: Predictor | None = compiler_for(model, _PREDICTORS)
    if compiler is not None:
        return compiler(context, model, value)
    tensors, _ = convert(context, model, value)
    graph = context.graph
    if not hasattr(model, "classes_"):
        return Outcome(prediction=flat(graph, graph.cast(tensors[0], DType.FP64)))
    index = _foreign_index(graph, model, tensors[0])
    if not hasattr(model, "predict_proba"):
        return Outcome(index=index)
    return Outcome(index=index, probabilities=graph.cast(tensors[1], DType.FP64))


# -- trees ---------------------------------------------------------------------------------------


def forest_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The mean of the trees' class shares; the label is the first class with the largest one."""
    trees.check_one_output(model)
    graph = context.graph
    made = forest_trees(model)
    tensor = rounded_to_float(graph, value)
    sums = trees.sums_in_double(graph, tensor, made, len(model.classes_))
    shares = graph.add("Div", sums, graph.constant(float(len(made))))
    index = graph.add("ArgMax", shares, axis=1, keepdims=0)
    return Outcome(index=index, probabilities=shares)


def forest_regressor(context: Context, model: Any, value: Value) -> Outcome:
    trees.check_one_output(model)
    graph = context.graph
    members = getattr(model, "estimators_", [model])
    made = [trees.of_sklearn(t.tree_, values=_values(t.tree_), targets=(0,)) for t in members]
    sums = trees.sums_in_double(graph, rounded_to_float(graph, value), made, 1)
    mean = graph.add("Div", sums, graph.constant(float(len(members))))
    return Outcome(prediction=flat(graph, mean))


def gradient_boosting_classifier(context: Context, model: Any, value: Value) -> Outcome:
    graph = context.graph
    made, base = boosted_trees(model)
    sums = trees.sums_in_double(graph, rounded_to_float(graph, value), made, len(base))
    return of_scores(context, raised(graph, sums, base), len(model.classes_))


def gradient_boosting_regressor(context: Context, model: Any, value: Value) -> Outcome:
    graph = context.graph
    made, base = boosted_trees(model)
    sums = trees.sums_in_double(graph, rounded_to_float(graph, value), made, 1)
    return Outcome(prediction=flat(graph, raised(graph, sums, base)))


def histogram_classifier(context: Context, model: Any, value: Value) -> Outcome:
    return of_scores(context, _histogram_sums(context, model, value), len(model.classes_))


def histogram_regressor(context: Context, model: Any, value: Value) -> Outcome:
    graph = context.graph
    sums = _histogram_sums(context, model, value)
    if model.loss in ("poisson", "gamma"):
        sums = exponential(graph, sums)
    return Outcome(prediction=flat(graph, sums))


def forest_trees(model: Any) -> list[Tree]:
    """The trees of a forest of classifiers, or the one tree, with the class shares as values."""
    targets = tuple(range(len(model.classes_)))
    return [
        trees.of_sklearn(member.tree_, values=_shares(member.tree_), targets=targets)
        for member in getattr(model, "estimators_", [model])
    ]


def boosted_trees(model: Any) -> tuple[list[Tree], list[float]]:
    """The trees of a GradientBoosting model, scaled, and what their sums start from."""
    # The exponential loss puts twice the score on the log scale.
    scale = 2.0 if getattr(model, "loss", "") == "exponential" else 1.0
    start = [scale * score for score in _constant_start(model)]
    made = [
        trees.of_sklearn(
            tree.tree_,
            values=_values(tree.tree_) * (model.learning_rate * scale),
            targets=(target,),
        )
        for stage in model.estimators_
        for target, tree in enumerate(stage)
    ]
    return made, start


def _constant_start(model: Any) -> list[float]:
    if not (model.init_ == "zero" if isinstance(model.init_, str) else _is_dummy(model.init_)):
        raise Unconvertible(
            f"{type(model).__name__} starts from a model of its own (init), and there is no "
            "compiler for that",
            hint="pass serve_original=True (--serve-original) to serve the original, slower",
        )
    row = np.zeros((1, model.n_features_in_), np.float32)
    return [float(score) for score in np.ravel(model._raw_predict_init(row))]


def _is_dummy(init: Any) -> bool:
    return type(init).__module__ == "sklearn.dummy"


def _histogram_sums(context: Context, model: Any, value: Value) -> str:
    graph = context.graph
    # Where there are categories, they are encoded and put before the numbers.
    value = transform(context, getattr(model, "_preprocessor", None), value)
    made = [
        trees.of_histogram(predictor, target)
        for stage in model._predictors
        for target, predictor in enumerate(stage)
    ]
    tensor = matrix(graph, value, NUMBER, step=type(model).__name__)
    tensor, made = trees.without_members(graph, tensor, made, width(value))
    sums = trees.sums_in_double(graph, tensor, made, model.n_trees_per_iteration_)
    return raised(graph, sums, [float(b) for b in np.ravel(model._baseline_prediction)])


def _values(tree: Any) -> NDArray[np.float64]:
    return np.asarray(tree.value[:, 0, :1], np.float64)


def _shares(tree: Any) -> NDArray[np.float64]:
    value = np.asarray(tree.value[:, 0, :], np.float64)
    total = value.sum(axis=1, keepdims=True)
    # Newer versions store shares already; dividing those by a sum that is 1 but for the last
    # bit would change them.
    return value if np.allclose(total, 1.0, rtol=1e-9) else value / total


def rounded_to_float(graph: Graph, value: Value) -> str:
    """As scikit-learn's trees do before they compare."""
    tensor = matrix(graph, value, NUMBER, step="a tree")
    return graph.cast(graph.cast(tensor, DType.FP32), DType.FP64)


def raised(graph: Graph, sums: str, base: Sequence[float]) -> str:
    if not any(base):
        return sums
    return graph.add("Add", sums, graph.constant(as_column(np.array(base))))


# -- linear models -------------------------------------------------------------------------------


def linear_regressor(context: Context, model: Any, value: Value) -> Outcome:
    coefficients = np.atleast_2d(np.asarray(model.coef_, np.float64))
    if coefficients.shape[0] != 1 or np.ndim(model.coef_) > 1:
        raise Unconvertible(f"{type(model).__name__} predicts several outputs")
    scores = _linear_scores(context, model, value, coefficients)
    return Outcome(prediction=flat(context.graph, scores))


def linear_classifier(context: Context, model: Any, value: Value) -> Outcome:
    coefficients = np.atleast_2d(np.asarray(model.coef_, np.float64))
    scores = _linear_scores(context, model, value, coefficients, with_scaling=True)
    if not hasattr(model, "predict_proba"):
        return Outcome(index=_index_of_scores(context.graph, scores, len(coefficients), "Greater"))
    if len(coefficients) == 1 or getattr(model, "multi_class", "") != "ovr":
        return of_scores(context, scores, len(model.classes_), comparison="Greater")
    graph = context.graph
    each = graph.add("Sigmoid", scores)
    total = graph.add("ReduceSum", each, graph.constant([1], "int64"), keepdims=1)
    index = _index_of_scores(graph, scores, len(coefficients), "Greater")
    return Outcome(index=index, probabilities=graph.add("Div", each, total))


def _linear_scores(
    context: Context,
    model: Any,
    value: Value,
    coefficients: NDArray[np.float64],
    *,
    with_scaling: bool = False,
) -> str:
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step=type(model).__name__)
    if width(value) != coefficients.shape[1]:
        raise Unconvertible(
            f"{type(model).__name__} takes {coefficients.shape[1]} columns and is given "
            f"{width(value)}"
        )
    intercept = np.ravel(np.asarray(model.intercept_, np.float64))
    if with_scaling:
        tensor, coefficients, intercept = _with_scaling(graph, tensor, coefficients, intercept)
    products = graph.add("MatMul", tensor, graph.constant(coefficients.T))
    return raised(graph, products, list(intercept))


_MAX_FOLDED_ERROR = 1e-12
"""How far a score may be off, at most, for taking the scaling into the coefficients. Scores are on
the log scale here, so a probability is off by a quarter of that."""


def _with_scaling(
    graph: Graph,
    tensor: str,
    coefficients: NDArray[np.float64],
    intercept: NDArray[np.float64],
) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    """A linear model of what came before its columns were scaled, which is the same model.

    Scaling goes through a large batch twice for what costs nothing inside the coefficients. It
    stays where columns lie so far from zero, by their scale, that the sum would lose digits.
    """
    source, weights, start = tensor, coefficients, intercept
    rounding = np.finfo(np.float64).eps
    while (node := graph.arithmetic(source)) is not None:
        op, before, constant = node
        with np.errstate(all="ignore"):
            if op in ("Mul", "Div"):
                weights = weights * constant if op == "Mul" else weights / constant
            else:
                moved = weights * constant
                start = start + (moved if op == "Add" else -moved).sum(axis=1)
                error = rounding * np.abs(moved).sum(axis=1).max()
                if not error <= _MAX_FOLDED_ERROR:
                    break
        if not (np.isfinite(weights).all() and np.isfinite(start).all()):
            break
        source = before
        tensor, coefficients, intercept = source, weights, start
    return tensor, coefficients, intercept


# -- committees ----------------------------------------------------------------------------------


def voting_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The weighted mean of the members' probabilities."""
    if model.voting != "soft":
        raise Unconvertible(
            "VotingClassifier counts votes (voting='hard'), and there is no compiler for that",
            hint="pass serve_original=True (--serve-original) to serve the original, slower",
        )
    tensors = []
    for member in model.estimators_:
        tensor = _member(context, member, value).probabilities
        if tensor is None:
            raise Unconvertible(f"{type(member).__name__} in a committee has no probabilities")
        tensors.append(tensor)
    mean = _weighted_mean(context.graph, tensors, model._weights_not_none)
    index = context.graph.add("ArgMax", mean, axis=1, keepdims=0)
    return Outcome(index=index, probabilities=mean)


def voting_regressor(context: Context, model: Any, value: Value) -> Outcome:
    """The weighted mean of the members' numbers."""
    tensors = []
    for member in model.estimators_:
        tensor = _member(context, member, value).prediction
        if tensor is None:
            raise Unconvertible(f"{type(member).__name__} in a committee gives no numbers")
        tensors.append(tensor)
    return Outcome(prediction=_weighted_mean(context.graph, tensors, model._weights_not_none))


def _member(context: Context, member: Any, value: Value) -> Outcome:
    while hasattr(member, "steps"):
        for _, step in member.steps[:-1]:
            value = transform(context, step, value)
        member = member.steps[-1][1]
    return predict(context, member, value)


def _weighted_mean(graph: Graph, tensors: list[str], weights: Any) -> str:
    shares = [1.0] * len(tensors) if weights is None else [float(w) for w in weights]
    scaled = [
        tensor if share == 1.0 else graph.add("Mul", tensor, graph.constant(share))
        for tensor, share in zip(tensors, shares, strict=True)
    ]
    total = scaled[0] if len(scaled) == 1 else graph.add("Sum", *scaled)
    return graph.add("Div", total, graph.constant(sum(shares)))


# -- what all share ------------------------------------------------------------------------------


def of_scores(
    context: Context, scores: str, classes: int, *, comparison: str = "GreaterOrEqual"
) -> Outcome:
    """Labels and probabilities of scores on the log scale: one for two classes, else one each."""
    graph = context.graph
    if classes > 2:
        return Outcome(
            index=graph.add("ArgMax", scores, axis=1, keepdims=0),
            probabilities=softmax(graph, scores, classes),
        )
    return Outcome(
        index=_index_of_scores(graph, scores, 1, comparison),
        probabilities=two_sigmoids(graph, scores),
    )


def _index_of_scores(graph: Graph, scores: str, columns: int, comparison: str) -> str:
    if columns > 1:
        return graph.add("ArgMax", scores, axis=1, keepdims=0)
    flags = graph.add(comparison, scores, graph.constant(0.0))
    return flat(graph, graph.cast(flags, DType.INT64))


def flat(graph: Graph, tensor: str) -> str:
    return graph.add("Reshape", tensor, graph.constant([-1], "int64"))


def _foreign_index(graph: Graph, model: Any, label: str) -> str:
    """skl2onnx gives labels; their places are found by comparing them with all classes."""
    classes = np.asarray(model.classes_)
    flat = graph.add("Reshape", label, graph.constant([-1, 1], "int64"))
    if classes.dtype.kind in "iufb":
        known = graph.constant(as_column(classes.astype(np.int64)), "int64")
        flat = graph.cast(flat, DType.INT64)
    else:
        known = graph.constant(as_column(classes.astype(object)), object)
    same = graph.cast(graph.add("Equal", flat, known), DType.INT32)
    return graph.add("ArgMax", same, axis=1, keepdims=0)
