"""CatBoost. The thresholds are the borders that the model itself lists."""

from __future__ import annotations

import catboost
import numpy as np
import pandas as pd
from conformance_sample import Sample, of_classifier, of_regressor
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

_QUIET = {"verbose": 0, "allow_writing_files": False, "thread_count": 1}


def _tests(model) -> tuple[tuple[int, float], ...]:
    return tuple(
        (int(column), float(border))
        for column, borders in model.get_borders().items()
        for border in borders
    )


def binary() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    X = X.round(2)
    names = np.array(["bad", "good"])
    model = catboost.CatBoostClassifier(iterations=20, depth=4, **_QUIET)
    model.fit(X[:400], names[y[:400]])
    return Sample(
        model,
        X[:400],
        X[400:],
        lambda rows: of_classifier(model, rows),
        thresholds=_tests(model),
    )


def several_classes() -> Sample:
    X, y = load_iris(return_X_y=True)
    model = catboost.CatBoostClassifier(iterations=15, depth=3, **_QUIET).fit(X, y)
    return Sample(model, X[:80], X[80:], lambda rows: of_classifier(model, rows))


def _missing(**settings) -> Sample:
    X, y = load_diabetes(return_X_y=True)
    X[::7, 2] = np.nan
    model = catboost.CatBoostRegressor(iterations=20, depth=4, **settings, **_QUIET)
    model.fit(X[:300], y[:300])
    return Sample(
        model,
        X[:300],
        X[300:],
        lambda rows: of_regressor(model, rows),
        thresholds=_tests(model),
    )


def missing_is_least() -> Sample:
    return _missing(nan_mode="Min")


def missing_is_most() -> Sample:
    return _missing(nan_mode="Max")


def plain_trees() -> Sample:
    """Trees that are not symmetric."""
    return _missing(grow_policy="Lossguide", max_leaves=9)


def native_counts() -> Sample:
    random = np.random.default_rng(2)
    X = random.normal(size=(300, 5))
    y = random.poisson(np.exp(X[:, 0]))
    model = catboost.CatBoost({"loss_function": "Poisson", "iterations": 15, **_QUIET})
    model.fit(X[:200], y[:200])
    return Sample(
        model,
        X[:200],
        X[200:],
        lambda rows: {"prediction": model.predict(rows, prediction_type="Exponent")},
    )


def _table(n: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(7)
    table = pd.DataFrame(
        {
            "plane": random.choice(list("abcdefgh"), n),
            "wind": random.normal(size=n),
            "hour": random.integers(0, 24, n),
        }
    )
    late = (table.wind + table.plane.isin(list("aceg")) > 0.8).astype(int)
    table.loc[random.random(n) < 0.1, "wind"] = np.nan
    return table, late.to_numpy()


def categories() -> Sample:
    """Flags and tables of CatBoost's own, which the graph looks up."""
    table, late = _table()
    model = catboost.CatBoostClassifier(iterations=15, cat_features=["plane"], **_QUIET)
    model.fit(table[:300], late[:300])
    return Sample(
        model,
        table[:300],
        table[300:],
        lambda rows: of_classifier(model, rows),
    )


def pipeline() -> Sample:
    table, late = _table()
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["plane"]),
            (StandardScaler(), ["wind", "hour"]),
        ),
        catboost.CatBoostClassifier(iterations=15, depth=4, **_QUIET),
    ).fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


SAMPLES = {
    "binary": binary,
    "several-classes": several_classes,
    "missing-is-least": missing_is_least,
    "missing-is-most": missing_is_most,
    "plain-trees": plain_trees,
    "native-counts": native_counts,
    "categories": categories,
    "pipeline": pipeline,
}
