"""The table of what can be compiled, and the steps that hold other steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from bascule.bundle.originals import own_methods
from bascule.core import Unconvertible, load_named
from bascule.packing.compilers.foreign import transform_by_skl2onnx
from bascule.packing.compilers.graph import Context
from bascule.packing.compilers.values import (
    NUMBER,
    Part,
    Value,
    is_single,
    matrix,
    numbers,
    select,
    width,
)

T = TypeVar("T")
_FEW = 5
Transformer = Callable[[Context, Any, Value], Value]

_HERE = "bascule.packing.compilers"
_TRANSFORMERS = {
    "sklearn.cluster.Birch": f"{_HERE}.clusters:distances",
    "sklearn.cluster.FeatureAgglomeration": f"{_HERE}.projections:feature_agglomeration",
    "sklearn.cluster.KMeans": f"{_HERE}.clusters:distances",
    "sklearn.cluster.MiniBatchKMeans": f"{_HERE}.clusters:distances",
    "sklearn.compose.ColumnTransformer": f"{_HERE}.steps:column_transformer",
    "sklearn.decomposition.FactorAnalysis": f"{_HERE}.projections:factor_analysis",
    "sklearn.decomposition.FastICA": f"{_HERE}.projections:fast_ica",
    "sklearn.decomposition.PCA": f"{_HERE}.scaling:pca",
    "sklearn.decomposition.TruncatedSVD": f"{_HERE}.projections:truncated_svd",
    "sklearn.feature_extraction.text.CountVectorizer": f"{_HERE}.texts:count_vectorizer",
    "sklearn.feature_extraction.text.HashingVectorizer": f"{_HERE}.texts:hashing_vectorizer",
    "sklearn.feature_extraction.text.TfidfTransformer": f"{_HERE}.texts:tfidf_transformer",
    "sklearn.feature_extraction.text.TfidfVectorizer": f"{_HERE}.texts:tfidf_vectorizer",
    "sklearn.impute.IterativeImputer": f"{_HERE}.imputing:iterative_imputer",
    "sklearn.impute.MissingIndicator": f"{_HERE}.imputing:missing_indicator",
    "sklearn.impute.SimpleImputer": f"{_HERE}.imputing:simple_imputer",
    "sklearn.kernel_approximation.RBFSampler": f"{_HERE}.projections:rbf_sampler",
    "sklearn.kernel_approximation.SkewedChi2Sampler": f"{_HERE}.projections:skewed_chi2_sampler",
    "sklearn.pipeline.FeatureUnion": f"{_HERE}.steps:feature_union",
    "sklearn.pipeline.Pipeline": f"{_HERE}.steps:pipeline",
    "sklearn.preprocessing.Binarizer": f"{_HERE}.scaling:binarizer",
    "sklearn.preprocessing.FunctionTransformer": f"{_HERE}.scaling:function_transformer",
    "sklearn.preprocessing.KBinsDiscretizer": f"{_HERE}.scaling:kbins_discretizer",
    "sklearn.preprocessing.MaxAbsScaler": f"{_HERE}.scaling:max_abs_scaler",
    "sklearn.preprocessing.MinMaxScaler": f"{_HERE}.scaling:min_max_scaler",
    "sklearn.preprocessing.Normalizer": f"{_HERE}.scaling:normalizer",
    "sklearn.preprocessing.OneHotEncoder": f"{_HERE}.encoding:one_hot_encoder",
    "sklearn.preprocessing.OrdinalEncoder": f"{_HERE}.encoding:ordinal_encoder",
    "sklearn.preprocessing.PolynomialFeatures": f"{_HERE}.scaling:polynomial_features",
    "sklearn.preprocessing.PowerTransformer": f"{_HERE}.scaling:power_transformer",
    "sklearn.preprocessing.RobustScaler": f"{_HERE}.scaling:robust_scaler",
    "sklearn.preprocessing.StandardScaler": f"{_HERE}.scaling:standard_scaler",
    "sklearn.preprocessing.TargetEncoder": f"{_HERE}.encoding:target_encoder",
    "sklearn.random_projection.GaussianRandomProjection": f"{_HERE}.projections:random_projection",
    "sklearn.random_projection.SparseRandomProjection": f"{_HERE}.projections:random_projection",
}
LIBRARIES = ("sklearn", "imblearn", "catboost", "_catboost", "lightgbm", "xgboost")
_HOMES = ("sklearn.", "catboost.", "lightgbm.", "xgboost.")


def by_name(table: Mapping[T, str]) -> dict[str, T]:
    """By each name of a table whose values are names with spaces between them: its key."""
    return {name: key for key, names in table.items() for name in names.split()}


def check_methods(step: Any) -> None:
    """Raise `Unconvertible` for a step with methods of its author's in place of its library's."""
    if own := own_methods(step, LIBRARIES):
        raise Unconvertible(
            f"{type(step).__name__} has its own {own[0]}, and there is no compiler for that",
            estimator=type(step).__qualname__,
        )


def compiler_for(step: Any, table: dict[str, str]) -> Any | None:
    """The function of `table` for this very class; a subclass may compute something else."""
    check_methods(step)
    kind = type(step)
    if not kind.__module__.startswith(_HOMES):
        return None
    place = table.get(f"{kind.__module__.split('._')[0]}.{kind.__qualname__}")
    return None if place is None else load_named(place)


def transform(context: Context, step: Any, value: Value) -> Value:
    """The columns after a fitted transformer."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return value
    check_methods(step)
    if hasattr(step, "get_support") and hasattr(step, "_get_support_mask"):
        one = tuple(replace(part, single=is_single(value)) for part in value)
        return select(context.graph, one, [int(i) for i in step.get_support(indices=True)])
    compiler: Transformer | None = compiler_for(step, _TRANSFORMERS)
    if compiler is not None:
        return compiler(context, step, value)
    return transform_by_skl2onnx(context, step, value)


@contextmanager
def within(step: Any, name: str, columns: Sequence[str] = ()) -> Iterator[None]:
    """Name the part that a step holds, and its columns, in a refusal of what is inside it."""
    try:
        yield
    except Unconvertible as problem:
        of = f", for {_listed(columns)}" * bool(columns)
        raise Unconvertible(
            f"{problem.message} (step {name!r} of {type(step).__name__}{of})",
            hint=problem.hint,
            **problem.facts,
        ) from problem


def _listed(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - _FEW} more" if len(columns) > _FEW else ""
    plural = "s" if len(columns) > 1 else ""
    return f"column{plural} {', '.join(map(repr, columns[:_FEW]))}{more}"


def pipeline(context: Context, step: Any, value: Value) -> Value:
    for name, part in step.steps:
        with within(step, name):
            value = transform(context, part, value)
    return value


def feature_union(context: Context, step: Any, value: Value) -> Value:
    weights = step.transformer_weights or {}
    parts: list[Part] = []
    for name, part in step.transformer_list:
        if isinstance(part, str) and part == "drop":
            continue
        with within(step, name):
            parts += _weighted(context, transform(context, part, value), weights.get(name))
    return tuple(parts)


def column_transformer(context: Context, step: Any, value: Value) -> Value:
    weights = step.transformer_weights or {}
    columns_in = getattr(step, "feature_names_in_", None)
    parts: list[Part] = []
    for name, part, columns in step.transformers_:
        indices = [int(i) for i in step._transformer_to_input_indices[name]]
        if (isinstance(part, str) and part == "drop") or not indices:
            continue
        if (
            isinstance(columns, str)
            and not hasattr(part, "feature_names_in_")
            and not reads_texts(part)
        ):
            raise Unconvertible(
                f"{type(part).__name__} of step {name!r} takes one column as a list of texts, "
                "and there is no compiler for that"
            )
        chosen = select(context.graph, value, indices)
        names = [str(columns_in[i]) for i in indices] if columns_in is not None else ()
        with within(step, name, names):
            parts += _weighted(context, transform(context, part, chosen), weights.get(name))
    return tuple(parts)


def reads_texts(step: Any) -> bool:
    """Whether a step of a ColumnTransformer is a vectorizer, or steps that begin with one."""
    while hasattr(step, "steps"):
        step = step.steps[0][1]
    return hasattr(step, "build_analyzer")


def _weighted(context: Context, value: Value, weight: float | None) -> Value:
    if weight is None:
        return value
    graph = context.graph
    tensor = matrix(graph, value, NUMBER, step="transformer_weights")
    return numbers(graph.add("Mul", tensor, float(weight)), width(value))
