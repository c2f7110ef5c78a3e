"""LightGBM. The thresholds are those of its own table of trees, not of the compiler under test."""

from __future__ import annotations

import lightgbm
import numpy as np
import pandas as pd
from conformance_sample import Sample, of_classifier, of_regressor
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

_QUIET = {"verbose": -1, "n_jobs": 1, "min_child_samples": 5}


def _tests(booster) -> tuple[tuple[int, float], ...]:
    found: list[tuple[int, float]] = []

    def walk(node) -> None:
        if "split_feature" in node:
            if node["decision_type"] == "<=":
                found.append((node["split_feature"], float(node["threshold"])))
            walk(node["left_child"])
            walk(node["right_child"])

    for tree in booster.dump_model()["tree_info"]:
        walk(tree["tree_structure"])
    return tuple(found)


def binary() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    X = X.round(2)
    names = np.array(["bad", "good"])
    model = lightgbm.LGBMClassifier(n_estimators=20, **_QUIET).fit(X[:400], names[y[:400]])
    return Sample(
        model,
        X[:400],
        X[400:],
        lambda rows: of_classifier(model, rows),
        thresholds=_tests(model.booster_),
        rounds=False,
    )


def several_classes() -> Sample:
    X, y = load_iris(return_X_y=True)
    model = lightgbm.LGBMClassifier(n_estimators=10, **_QUIET).fit(X, y)
    return Sample(model, X[:80], X[80:], lambda rows: of_classifier(model, rows))


def one_against_all() -> Sample:
    X, y = load_iris(return_X_y=True)
    model = lightgbm.LGBMClassifier(n_estimators=10, objective="multiclassova", **_QUIET)
    model.fit(X, y)
    return Sample(model, X[:80], X[80:], lambda rows: of_classifier(model, rows))


def _missing(**settings) -> Sample:
    X, y = load_diabetes(return_X_y=True)
    X = np.where(np.random.default_rng(1).random(X.shape) < 0.2, 0.0, X)
    X[::7, 2] = np.nan
    model = lightgbm.LGBMRegressor(n_estimators=20, **settings, **_QUIET).fit(X[:300], y[:300])
    return Sample(
        model,
        X[:300],
        X[300:],
        lambda rows: of_regressor(model, rows),
        thresholds=_tests(model.booster_),
        rounds=False,
    )


def missing_is_nan() -> Sample:
    return _missing()


def missing_is_zero() -> Sample:
    return _missing(zero_as_missing=True)


def missing_is_nothing() -> Sample:
    return _missing(use_missing=False)


def floats() -> Sample:
    X, y = load_diabetes(return_X_y=True)
    X = X.astype(np.float32)
    model = lightgbm.LGBMRegressor(n_estimators=20, **_QUIET).fit(X[:300], y[:300])
    return Sample(
        model,
        X[:300],
        X[300:],
        lambda rows: of_regressor(model, np.asarray(rows, np.float32)),
        thresholds=_tests(model.booster_),
    )


def whole_numbers() -> Sample:
    """LightGBM rounds whole numbers to floats: these are larger than those hold exactly."""
    random = np.random.default_rng(6)
    X = random.integers(2**24 - 50, 2**24 + 50, (400, 3))
    y = (X[:, 0] > 2**24 + 3).astype(float) + X[:, 1] % 7
    model = lightgbm.LGBMRegressor(n_estimators=20, **_QUIET).fit(X[:300], y[:300])
    return Sample(model, X[:300], X[300:], lambda rows: of_regressor(model, rows))


def native_forest() -> Sample:
    """The random forest of LightGBM answers with the mean of its trees."""
    X, y = load_breast_cancer(return_X_y=True)
    booster = lightgbm.train(
        {
            "objective": "binary",
            "boosting": "rf",
            "bagging_freq": 1,
            "bagging_fraction": 0.7,
            "verbose": -1,
        },
        lightgbm.Dataset(X[:400], y[:400]),
        10,
    )

    def ask(rows):
        second = booster.predict(rows)
        return {
            "label": (second > 0.5).astype(int),
            "probabilities": np.column_stack([1 - second, second]),
        }

    return Sample(booster, X[:400], X[400:], ask, thresholds=_tests(booster), rounds=False)


def _table(n: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(7)
    table = pd.DataFrame(
        {
            "plane": pd.Categorical(random.choice(list("abcdefgh"), n)),
            "wind": random.normal(size=n),
            "hour": random.integers(0, 24, n),
        }
    )
    late = (table.wind + table.plane.isin(list("aceg")) > 0.8).astype(int)
    table.loc[random.random(n) < 0.1, "wind"] = np.nan
    table.loc[random.random(n) < 0.1, "plane"] = None
    return table, late.to_numpy()


def categories() -> Sample:
    table, late = _table()
    model = lightgbm.LGBMClassifier(n_estimators=15, min_data_per_group=5, cat_smooth=1, **_QUIET)
    model.fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


def categories_in_a_matrix() -> Sample:
    random = np.random.default_rng(3)
    X = np.column_stack([random.integers(0, 40, 500), random.normal(size=500)]).astype(float)
    y = np.isin(X[:, 0], [1, 5, 20, 33]) * 3 + X[:, 1]
    model = lightgbm.LGBMRegressor(n_estimators=15, min_data_per_group=5, cat_smooth=1, **_QUIET)
    model.fit(X[:400], y[:400], categorical_feature=[0])
    rows = X[400:].copy()
    rows[:6, 0] = [-1, -0.5, 39.7, 40, 1000, -7]
    return Sample(model, X[:400], rows, lambda rows: of_regressor(model, rows), allows_huge=False)


def pipeline() -> Sample:
    table, late = _table()
    table["plane"] = table.plane.astype(object)
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["plane"]),
            (StandardScaler(), ["wind", "hour"]),
            sparse_threshold=1,
        ),
        lightgbm.LGBMClassifier(n_estimators=15, **_QUIET),
    ).fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


SAMPLES = {
    "binary": binary,
    "several-classes": several_classes,
    "one-against-all": one_against_all,
    "missing-is-nan": missing_is_nan,
    "missing-is-zero": missing_is_zero,
    "missing-is-nothing": missing_is_nothing,
    "floats": floats,
    "whole-numbers": whole_numbers,
    "native-forest": native_forest,
    "categories": categories,
    "categories-in-a-matrix": categories_in_a_matrix,
    "pipeline": pipeline,
}
