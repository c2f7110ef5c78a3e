"""XGBoost. The thresholds are those of its own table of trees, not of the compiler under test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xgboost
from conformance_sample import Sample, of_classifier, of_regressor
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def _tests(booster) -> tuple[tuple[int, float], ...]:
    table = booster.trees_to_dataframe()
    table = table[table.Feature != "Leaf"]
    return tuple(
        (int(name.lstrip("f")), float(np.float32(split)))
        for name, split in zip(table.Feature, table.Split, strict=True)
    )


def binary() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    X = X.round(2)
    X[::9, 3] = np.nan
    model = xgboost.XGBClassifier(n_estimators=20, max_depth=3).fit(X[:400], y[:400])
    return Sample(
        model,
        X[:400],
        X[400:],
        lambda rows: of_classifier(model, rows),
        thresholds=_tests(model.get_booster()),
    )


def several_classes_in_floats() -> Sample:
    X, y = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    model = xgboost.XGBClassifier(n_estimators=15, max_depth=3).fit(X, y)
    return Sample(
        model,
        X[:80],
        X[80:],
        lambda rows: of_classifier(model, rows),
        thresholds=_tests(model.get_booster()),
    )


def stopped_early() -> Sample:
    X, y = load_diabetes(return_X_y=True)
    model = xgboost.XGBRegressor(n_estimators=200, early_stopping_rounds=3, learning_rate=0.5)
    model.fit(X[:300], y[:300], eval_set=[(X[300:], y[300:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    return Sample(model, X[:300], X[300:], lambda rows: of_regressor(model, rows))


def native_binary() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    data = xgboost.DMatrix(X[:400], y[:400])
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, data, 10)

    def ask(rows):
        second = booster.predict(xgboost.DMatrix(rows))
        return {
            "label": (second > 0.5).astype(int),
            "probabilities": np.column_stack([1 - second, second]),
        }

    return Sample(booster, X[:400], X[400:], ask, thresholds=_tests(booster))


def native_counts() -> Sample:
    random = np.random.default_rng(2)
    X = random.normal(size=(300, 5))
    y = random.poisson(np.exp(X[:, 0]))
    data = xgboost.DMatrix(X[:200], y[:200])
    booster = xgboost.train({"objective": "count:poisson", "booster": "dart"}, data, 15)
    return Sample(
        booster,
        X[:200],
        X[200:],
        lambda rows: {"prediction": booster.predict(xgboost.DMatrix(rows))},
        saved_within=1e-6,
    )


def ranker() -> Sample:
    random = np.random.default_rng(4)
    X = random.normal(size=(300, 4))
    model = xgboost.XGBRanker(n_estimators=10).fit(
        X, random.integers(0, 4, 300), qid=np.repeat(np.arange(30), 10)
    )
    return Sample(model, X[:200], X[200:], lambda rows: of_regressor(model, rows))


def _table(n: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(7)
    table = pd.DataFrame(
        {
            "plane": pd.Categorical(random.choice(list("abcdefgh"), n)),
            "wind": random.normal(size=n),
            "rain": random.random(n) < 0.3,
            "hour": random.integers(0, 24, n),
        }
    )
    late = (table.wind + table.plane.isin(list("aceg")) + table.rain > 0.8).astype(int)
    table.loc[random.random(n) < 0.1, "wind"] = np.nan
    return table, late.to_numpy()


def categories() -> Sample:
    table, late = _table()
    model = xgboost.XGBClassifier(
        n_estimators=15, max_depth=4, enable_categorical=True, max_cat_to_onehot=2
    ).fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


def named_columns() -> Sample:
    table, late = _table()
    table = table[["wind", "rain", "hour"]]
    model = xgboost.XGBClassifier(n_estimators=15).fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


def _pipeline(sparse_threshold: float) -> Sample:
    table, late = _table()
    table["plane"] = table.plane.astype(str)
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["plane"]),
            (StandardScaler(), ["wind", "hour"]),
            sparse_threshold=sparse_threshold,
        ),
        xgboost.XGBClassifier(n_estimators=15, max_depth=4),
    ).fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


def pipeline() -> Sample:
    return _pipeline(0)


def pipeline_of_sparse_columns() -> Sample:
    """What a sparse matrix leaves out is zero to scikit-learn, and missing to XGBoost."""
    return _pipeline(1)


SAMPLES = {
    "binary": binary,
    "several-classes": several_classes_in_floats,
    "stopped-early": stopped_early,
    "native-binary": native_binary,
    "native-counts": native_counts,
    "ranker": ranker,
    "categories": categories,
    "named-columns": named_columns,
    "pipeline": pipeline,
    "sparse-pipeline": pipeline_of_sparse_columns,
}
