"""The last step of a model: what it answers, from the columns before it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import DType, Unconvertible
from bascule.packing.compilers import trees
from bascule.packing.compilers.exponentials import (
    exponential,
    sigmoids,
    softmax,
    sum_of_rows,
    two_sigmoids,
)
from bascule.packing.compilers.foreign import convert, unconvertible
from bascule.packing.compilers.graph import Context, Graph, as_column
from bascule.packing.compilers.steps import check_methods, compiler_for, transform
from bascule.packing.compilers.trees import Tree
from bascule.packing.compilers.values import NUMBER, Value, matrix, numbers, numeric, rounded, width


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the last step gives.

    Attributes:
        prediction: Doubles of shape (rows,): a regressor's answer.
        index: Whole numbers of shape (rows,): the place of a classifier's label in its classes.
        probabilities: Doubles of shape (rows, classes), where the classifier has them.
        decision: Doubles of shape (rows, 1) for two classes and (rows, classes) for more: the
            `decision_function` of a classifier that has one; a detector's score.
        targets: For a model with several outputs: what it gives for each, and nothing above.
        is_detection: Whether it detects outliers: place 0 is -1, an outlier, and place 1 is 1.
    """

    prediction: str | None = None
    index: str | None = None
    probabilities: str | None = None
    decision: str | None = None
    targets: tuple[Outcome, ...] = ()
    is_detection: bool = False


Predictor = Callable[[Context, Any, Value], Outcome]

_HERE = "bascule.packing.compilers.predictors"
_CLUSTERS = "bascule.packing.compilers.clusters"
_COMMITTEES = "bascule.packing.compilers.meta_estimators"
_COUNTS = "bascule.packing.compilers.naive_bayes"
_KERNELS = "bascule.packing.compilers.kernels"
_OUTLIERS = "bascule.packing.compilers.outliers"
_LINEAR_REGRESSORS = (
    "ARDRegression BayesianRidge ElasticNet ElasticNetCV HuberRegressor Lars LarsCV Lasso LassoCV "
    "LassoLars LassoLarsCV LassoLarsIC LinearRegression MultiTaskElasticNet MultiTaskElasticNetCV "
    "MultiTaskLasso MultiTaskLassoCV OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV "
    "QuantileRegressor Ridge RidgeCV SGDRegressor TheilSenRegressor"
)
_LINEAR_CLASSIFIERS = (
    "LogisticRegression LogisticRegressionCV Perceptron RidgeClassifier RidgeClassifierCV"
)
_PREDICTORS = {
    "catboost.core.CatBoostClassifier": "bascule.packing.compilers.catboost:estimator",
    "catboost.core.CatBoostRanker": "bascule.packing.compilers.catboost:estimator",
    "catboost.core.CatBoostRegressor": "bascule.packing.compilers.catboost:estimator",
    "lightgbm.sklearn.LGBMClassifier": "bascule.packing.compilers.lightgbm:estimator",
    "lightgbm.sklearn.LGBMRanker": "bascule.packing.compilers.lightgbm:estimator",
    "lightgbm.sklearn.LGBMRegressor": "bascule.packing.compilers.lightgbm:estimator",
    "sklearn.calibration.CalibratedClassifierCV": f"{_COMMITTEES}:calibrated_classifier",
    "sklearn.cluster.AffinityPropagation": f"{_CLUSTERS}:nearest_center",
    "sklearn.cluster.Birch": f"{_CLUSTERS}:birch",
    "sklearn.cluster.KMeans": f"{_CLUSTERS}:k_means",
    "sklearn.cluster.MeanShift": f"{_CLUSTERS}:nearest_center",
    "sklearn.cluster.MiniBatchKMeans": f"{_CLUSTERS}:k_means",
    "sklearn.compose.TransformedTargetRegressor": f"{_COMMITTEES}:transformed_target",
    "sklearn.covariance.EllipticEnvelope": f"{_OUTLIERS}:elliptic_envelope",
    "sklearn.cross_decomposition.CCA": f"{_HERE}:pls_regression",
    "sklearn.cross_decomposition.PLSCanonical": f"{_HERE}:pls_regression",
    "sklearn.cross_decomposition.PLSRegression": f"{_HERE}:pls_regression",
    "sklearn.dummy.DummyClassifier": f"{_HERE}:dummy_classifier",
    "sklearn.dummy.DummyRegressor": f"{_HERE}:dummy_regressor",
    "sklearn.ensemble.BaggingClassifier": f"{_COMMITTEES}:bagging_classifier",
    "sklearn.ensemble.BaggingRegressor": f"{_COMMITTEES}:bagging_regressor",
    "sklearn.ensemble.ExtraTreesClassifier": f"{_HERE}:forest_classifier",
    "sklearn.ensemble.ExtraTreesRegressor": f"{_HERE}:forest_regressor",
    "sklearn.ensemble.GradientBoostingClassifier": f"{_HERE}:gradient_boosting_classifier",
    "sklearn.ensemble.GradientBoostingRegressor": f"{_HERE}:gradient_boosting_regressor",
    "sklearn.ensemble.HistGradientBoostingClassifier": f"{_HERE}:histogram_classifier",
    "sklearn.ensemble.HistGradientBoostingRegressor": f"{_HERE}:histogram_regressor",
    "sklearn.ensemble.IsolationForest": f"{_OUTLIERS}:isolation_forest",
    "sklearn.ensemble.RandomForestClassifier": f"{_HERE}:forest_classifier",
    "sklearn.ensemble.RandomForestRegressor": f"{_HERE}:forest_regressor",
    "sklearn.ensemble.StackingClassifier": f"{_COMMITTEES}:stacking",
    "sklearn.ensemble.StackingRegressor": f"{_COMMITTEES}:stacking",
    "sklearn.ensemble.VotingClassifier": f"{_COMMITTEES}:voting_classifier",
    "sklearn.ensemble.VotingRegressor": f"{_COMMITTEES}:voting_regressor",
    "sklearn.linear_model.SGDClassifier": f"{_HERE}:sgd_classifier",
    "sklearn.linear_model.SGDOneClassSVM": f"{_OUTLIERS}:linear_one_class",
    "sklearn.mixture.BayesianGaussianMixture": f"{_CLUSTERS}:mixture",
    "sklearn.mixture.GaussianMixture": f"{_CLUSTERS}:mixture",
    "sklearn.model_selection.FixedThresholdClassifier": f"{_COMMITTEES}:with_threshold",
    "sklearn.model_selection.TunedThresholdClassifierCV": f"{_COMMITTEES}:with_threshold",
    "sklearn.multiclass.OneVsRestClassifier": f"{_COMMITTEES}:one_against_the_rest",
    "sklearn.multioutput.MultiOutputClassifier": f"{_COMMITTEES}:one_for_each_output",
    "sklearn.multioutput.MultiOutputRegressor": f"{_COMMITTEES}:one_for_each_output",
    "sklearn.multioutput.RegressorChain": f"{_COMMITTEES}:regressor_chain",
    "sklearn.naive_bayes.BernoulliNB": f"{_COUNTS}:bernoulli",
    "sklearn.naive_bayes.ComplementNB": f"{_COUNTS}:complement",
    "sklearn.naive_bayes.MultinomialNB": f"{_COUNTS}:multinomial",
    "sklearn.svm.LinearSVC": f"{_HERE}:linear_classifier",
    "sklearn.svm.LinearSVR": f"{_HERE}:linear_regressor",
    "sklearn.svm.NuSVC": f"{_KERNELS}:classifier",
    "sklearn.svm.NuSVR": f"{_KERNELS}:regressor",
    "sklearn.svm.OneClassSVM": f"{_KERNELS}:one_class",
    "sklearn.svm.SVC": f"{_KERNELS}:classifier",
    "sklearn.svm.SVR": f"{_KERNELS}:regressor",
    "sklearn.tree.DecisionTreeClassifier": f"{_HERE}:forest_classifier",
    "sklearn.tree.DecisionTreeRegressor": f"{_HERE}:forest_regressor",
    "sklearn.tree.ExtraTreeClassifier": f"{_HERE}:forest_classifier",
    "sklearn.tree.ExtraTreeRegressor": f"{_HERE}:forest_regressor",
    "xgboost.sklearn.XGBClassifier": "bascule.packing.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRFClassifier": "bascule.packing.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRFRegressor": "bascule.packing.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRanker": "bascule.packing.compilers.xgboost:estimator",
    "xgboost.sklearn.XGBRegressor": "bascule.packing.compilers.xgboost:estimator",
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
    return by_skl2onnx(context, model, value)


def predict_whole(context: Context, model: Any, value: Value) -> Outcome:
    """Compile a model that may be a pipeline, or wrapped: a member of a committee."""
    steps, last = taken_apart(model)
    for step in steps:
        value = transform(context, step, value)
    return predict(context, last, value)


def by_skl2onnx(context: Context, model: Any, value: Value) -> Outcome:
    """What skl2onnx makes of a last step."""
    from sklearn.base import is_outlier_detector

    if isinstance(getattr(model, "classes_", None), list):
        raise unconvertible(model)
    tensors, _ = convert(context, model, value)
    graph = context.graph
    if is_outlier_detector(model):
        inside = graph.add("Greater", tensors[0], 0)
        decision = graph.add("Reshape", graph.cast(tensors[1], DType.FP64), [-1, 1])
        index = flat(graph, graph.cast(inside, DType.INT64))
        return Outcome(index=index, decision=decision, is_detection=True)
    if not hasattr(model, "classes_"):
        count = _count_of_numbers(model)
        numbers_ = graph.cast(tensors[0], DType.FP64)
        if count > 1:  # some converters lay the rows end to end
            numbers_ = graph.add("Reshape", numbers_, [-1, count])
        return of_columns(graph, numbers_, count)
    index = _foreign_index(graph, model, tensors[0])
    if not hasattr(model, "predict_proba"):
        return Outcome(index=index)
    return Outcome(index=index, probabilities=graph.cast(tensors[1], DType.FP64))


def _count_of_numbers(model: Any) -> int:
    """How many numbers a regressor answers for a row: estimators say it each in their own way."""
    with warnings.catch_warnings(action="ignore"):
        answer = np.asarray(model.predict(np.zeros((1, model.n_features_in_))))
    return int(answer.shape[1]) if answer.ndim == 2 else 1


def taken_apart(model: Any) -> tuple[list[Any], Any]:
    """The steps of a fitted model before its last one, and that: out of pipelines and wrappers."""
    steps: list[Any] = []
    while True:
        home = type(model).__module__
        check_methods(model)
        if home.startswith("sklearn.model_selection._search"):
            model = model.best_estimator_
        elif home == "sklearn.frozen._frozen":
            model = model.estimator
        elif home in ("sklearn.pipeline", "imblearn.pipeline") and hasattr(model, "steps"):
            # imbalanced-learn's samplers change the training rows, and no others.
            steps += [step for _, step in model.steps[:-1] if not hasattr(step, "fit_resample")]
            model = model.steps[-1][1]
        else:
            return steps, model


# -- trees ---------------------------------------------------------------------------------------


def forest_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """The mean of the trees' class shares; the label is the first class with the largest one."""
    graph = context.graph
    made = forest_trees(model)
    counts = [int(count) for count in np.atleast_1d(model.n_classes_)]
    tensor = rounded_to_float(graph, value)
    sums = trees.sums_in_double(graph, tensor, made, sum(counts))
    shares = graph.add("Div", sums, float(len(made)))
    if len(counts) == 1:
        return of_shares(graph, shares)
    each = graph.add_many("Split", (shares, graph.constant(counts, "int64")), len(counts), axis=1)
    return Outcome(targets=tuple(of_shares(graph, part) for part in each))


def of_shares(graph: Graph, shares: str) -> Outcome:
    """The first class with the largest share."""
    return Outcome(index=graph.add("ArgMax", shares, axis=1, keepdims=0), probabilities=shares)


def forest_regressor(context: Context, model: Any, value: Value) -> Outcome:
    graph = context.graph
    members = getattr(model, "estimators_", [model])
    count = int(model.n_outputs_)
    made = [
        trees.of_sklearn(
            member.tree_,
            values=np.asarray(member.tree_.value[:, :, 0], np.float64),
            targets=tuple(range(count)),
        )
        for member in members
    ]
    sums = trees.sums_in_double(graph, rounded_to_float(graph, value), made, count)
    mean = graph.add("Div", sums, float(len(members)))
    return of_columns(graph, mean, count)


def gradient_boosting_classifier(context: Context, model: Any, value: Value) -> Outcome:
    return of_scores(context, _boosted_sums(context.graph, model, value), len(model.classes_))


def gradient_boosting_regressor(context: Context, model: Any, value: Value) -> Outcome:
    graph = context.graph
    return Outcome(prediction=flat(graph, _boosted_sums(graph, model, value)))


def _boosted_sums(graph: Graph, model: Any, value: Value) -> str:
    made, base = boosted_trees(model)
    sums = trees.sums_in_double(graph, rounded_to_float(graph, value), made, len(base))
    return raised(graph, sums, base)


def histogram_classifier(context: Context, model: Any, value: Value) -> Outcome:
    return of_scores(context, _histogram_sums(context, model, value), len(model.classes_))


def histogram_regressor(context: Context, model: Any, value: Value) -> Outcome:
    graph = context.graph
    sums = _histogram_sums(context, model, value)
    if model.loss in ("poisson", "gamma"):
        sums = exponential(graph, sums)
    return Outcome(prediction=flat(graph, sums))


def forest_trees(model: Any) -> list[Tree]:
    """The trees of a forest of classifiers, or the one tree, with the class shares as values.

    Of several outputs, the classes of each come after those of the one before it.
    """
    targets = tuple(range(int(np.sum(model.n_classes_))))
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
    init = model.init_
    if not (init == "zero" if isinstance(init, str) else type(init).__module__ == "sklearn.dummy"):
        raise Unconvertible(
            f"{type(model).__name__} starts from a model of its own (init), and there is no "
            "compiler for that"
        )
    row = np.zeros((1, model.n_features_in_), np.float32)
    return [float(score) for score in np.ravel(model._raw_predict_init(row))]


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
    parts = []
    for output, count in enumerate(tree.n_classes):
        value = np.asarray(tree.value[:, output, :count], np.float64)
        total = value.sum(axis=1, keepdims=True)
        # Newer versions store shares already; dividing those by a sum that is 1 but for the last
        # bit would change them.
        parts.append(value if np.allclose(total, 1.0, rtol=1e-9) else value / total)
    return np.concatenate(parts, axis=1)


def rounded_to_float(graph: Graph, value: Value) -> str:
    """As scikit-learn's trees do before they compare."""
    tensor = matrix(graph, value, NUMBER, step="a tree")
    return rounded(graph, tensor)


def raised(graph: Graph, sums: str, base: Sequence[float]) -> str:
    if not any(base):
        return sums
    return graph.add("Add", sums, as_column(np.array(base)))


# -- linear models -------------------------------------------------------------------------------


def linear_regressor(context: Context, model: Any, value: Value) -> Outcome:
    coefficients = np.atleast_2d(np.asarray(model.coef_, np.float64))
    scores = linear_scores(context, model, value, coefficients, np.ravel(model.intercept_))
    return of_columns(context.graph, scores, len(coefficients))


def pls_regression(context: Context, model: Any, value: Value) -> Outcome:
    """A linear model of columns that are centred first; partial least squares gives it several."""
    graph, tensor = numeric(context, model, value)
    centred = graph.add("Sub", tensor, as_column(model._x_mean))
    return linear_regressor(context, model, numbers(centred, width(value)))


def linear_classifier(context: Context, model: Any, value: Value) -> Outcome:
    coefficients = np.atleast_2d(np.asarray(model.coef_, np.float64))
    intercepts = np.ravel(model.intercept_)
    scores = linear_scores(context, model, value, coefficients, intercepts, with_scaling=True)
    count = len(coefficients)
    if not hasattr(model, "predict_proba"):
        index = index_of_scores(context.graph, scores, count, "Greater")
        return Outcome(index=index, decision=scores)
    if count == 1 or getattr(model, "multi_class", "") != "ovr":
        return of_scores(context, scores, len(model.classes_), comparison="Greater")
    return _one_against_the_rest(context, scores, count)


def sgd_classifier(context: Context, model: Any, value: Value) -> Outcome:
    """A linear classifier, whose probabilities for several classes are made to add up.

    Its label is by the scores: several probabilities of `modified_huber` may be 1, or all 0.
    """
    huber = model.loss == "modified_huber"
    if not huber and (model.loss != "log_loss" or len(model.coef_) == 1):
        return linear_classifier(context, model, value)
    coefficients = np.asarray(model.coef_, np.float64)
    scores = linear_scores(context, model, value, coefficients, np.ravel(model.intercept_))
    if not huber:
        return _one_against_the_rest(context, scores, len(coefficients))
    graph = context.graph
    clipped = graph.add("Clip", scores, -1.0, 1.0)
    each = graph.add("Add", clipped, 1.0)
    each = graph.add("Div", each, 2.0)
    index = index_of_scores(graph, scores, len(coefficients), "Greater")
    if len(coefficients) == 1:
        each = of_both(graph, each)
    else:
        each = adding_up(graph, each, len(coefficients))
    return Outcome(index=index, probabilities=each, decision=scores)


def _one_against_the_rest(context: Context, scores: str, count: int) -> Outcome:
    graph = context.graph
    each = sigmoids(graph, scores, count)
    total = sum_of_rows(graph, each, count)
    index = index_of_scores(graph, scores, count, "Greater")
    return Outcome(index=index, probabilities=graph.add("Div", each, total), decision=scores)


def of_both(graph: Graph, second: str) -> str:
    """The probabilities of two classes, from that of the second, shape (rows, 1)."""
    first = graph.add("Sub", 1.0, second)
    return graph.add("Concat", first, second, axis=1)


def adding_up(graph: Graph, shares: str, classes: int) -> str:
    """Divided by their sum; all equal where that is 0."""
    total = sum_of_rows(graph, shares, classes)
    nothing = graph.add("Equal", total, 0.0)
    uniform = graph.constant(as_column(np.full(classes, 1 / classes)))
    return graph.add("Where", nothing, uniform, graph.add("Div", shares, total))


def linear_scores(
    context: Context,
    model: Any,
    value: Value,
    coefficients: NDArray[np.float64],
    intercepts: NDArray[np.float64],
    *,
    with_scaling: bool = False,
) -> str:
    """Products and sums, shape (rows, n), for coefficients of shape (n, columns)."""
    graph, tensor = numeric(context, model, value)
    if width(value) != coefficients.shape[1]:
        raise Unconvertible(
            f"{type(model).__name__} takes {coefficients.shape[1]} columns and is given "
            f"{width(value)}"
        )
    if with_scaling:
        tensor, coefficients, intercepts = _with_scaling(graph, tensor, coefficients, intercepts)
    products = graph.add("MatMul", tensor, coefficients.T)
    return raised(graph, products, [float(number) for number in intercepts])


_MAX_FOLDED_ERROR = 1e-12
"""How far a score may be off, at most, for taking the scaling into the coefficients. Scores are on
the log scale here, so a probability is off by a quarter of that."""


def _with_scaling(
    graph: Graph, tensor: str, coefficients: NDArray[np.float64], intercept: NDArray[np.float64]
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


# -- constants -----------------------------------------------------------------------------------


def dummy_classifier(context: Context, model: Any, value: Value) -> Outcome:
    if model.strategy not in ("prior", "most_frequent", "constant") or model.n_outputs_ > 1:
        raise unconvertible(model)
    row = np.zeros((1, model.n_features_in_ if hasattr(model, "n_features_in_") else 1))
    shares = _constant(context.graph, value, np.asarray(model.predict_proba(row), np.float64))
    return of_shares(context.graph, shares)


def dummy_regressor(context: Context, model: Any, value: Value) -> Outcome:
    constant = np.asarray(model.constant_, np.float64).reshape(1, -1)
    return of_columns(context.graph, _constant(context.graph, value, constant), constant.shape[1])


def _constant(graph: Graph, value: Value, row: NDArray[np.float64]) -> str:
    """One row, as often as there are rows, also where those hold no numbers."""
    rows = graph.add("Shape", value[0].tensor, start=0, end=1)
    shape = graph.add("Concat", rows, [row.shape[1]], axis=0)
    return graph.add("Expand", row, shape)


# -- what all share ------------------------------------------------------------------------------


def of_scores(
    context: Context, scores: str, classes: int, *, comparison: str = "GreaterOrEqual"
) -> Outcome:
    """Labels and probabilities of scores on the log scale: one for two classes, else one each."""
    graph = context.graph
    if classes > 2:
        return likeliest(graph, scores, classes)
    return Outcome(
        index=index_of_scores(graph, scores, 1, comparison),
        probabilities=two_sigmoids(graph, scores),
        decision=scores,
    )


def likeliest(graph: Graph, scores: str, classes: int) -> Outcome:
    """The class of the highest score, where probabilities are the softmax of one score each."""
    index = graph.add("ArgMax", scores, axis=1, keepdims=0)
    return Outcome(index=index, probabilities=softmax(graph, scores, classes), decision=scores)


def of_columns(graph: Graph, tensor: str, count: int) -> Outcome:
    """The numbers of a regressor, shape (rows, count): one output, or as many."""
    if count <= 1:
        return Outcome(prediction=flat(graph, tensor))
    return Outcome(
        targets=tuple(
            Outcome(prediction=graph.add("Gather", tensor, k, axis=1)) for k in range(count)
        )
    )


def index_of_scores(graph: Graph, scores: str, columns: int, comparison: str) -> str:
    """The class of the highest score, or of one score that is compared with 0."""
    if columns > 1:
        return graph.add("ArgMax", scores, axis=1, keepdims=0)
    flags = graph.add(comparison, scores, 0.0)
    return flat(graph, graph.cast(flags, DType.INT64))


def flat(graph: Graph, tensor: str) -> str:
    return graph.add("Reshape", tensor, [-1])


def _foreign_index(graph: Graph, model: Any, label: str) -> str:
    """skl2onnx gives labels; their places are found by comparing them with all classes."""
    classes = np.asarray(model.classes_)
    flat = graph.add("Reshape", label, [-1, 1])
    if classes.dtype.kind in "iufb":
        known = graph.constant(as_column(classes.astype(np.int64)), "int64")
        flat = graph.cast(flat, DType.INT64)
    else:
        known = graph.constant(as_column(classes.astype(object)), object)
    same = graph.cast(graph.add("Equal", flat, known), DType.INT32)
    return graph.add("ArgMax", same, axis=1, keepdims=0)
