"""scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
from conformance_sample import Sample, of_classifier, of_regressor
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def boosted_trees() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    X = X.round(2)
    model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(X[:400], y[:400])
    tests = tuple(
        (int(column), float(value))
        for stage in model.estimators_
        for column, value in zip(stage[0].tree_.feature, stage[0].tree_.threshold, strict=True)
        if column >= 0
    )
    return Sample(
        model, X[:400], X[400:], lambda rows: of_classifier(model, rows), thresholds=tests
    )


def histogram_trees() -> Sample:
    X, y = load_diabetes(return_X_y=True)
    X[::7, 2] = np.nan
    model = HistGradientBoostingRegressor(max_iter=20).fit(X[:300], y[:300])
    tests = tuple(
        (int(node["feature_idx"]), float(node["num_threshold"]))
        for (predictor,) in model._predictors
        for node in predictor.nodes
        if not node["is_leaf"]
    )
    return Sample(
        model,
        X[:300],
        X[300:],
        lambda rows: of_regressor(model, rows),
        thresholds=tests,
        rounds=False,
    )


def pipeline_on_a_table() -> Sample:
    random = np.random.default_rng(7)
    n = 400
    table = pd.DataFrame(
        {
            "carrier": random.choice(["AA", "BB", "CC"], n),
            "wind": random.normal(size=n),
            "gust": random.normal(size=n),
        }
    )
    late = np.where((table.wind > 0) ^ (table.carrier == "AA"), "late", "in time")
    table.loc[random.random(n) < 0.1, "wind"] = np.nan
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
            (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["wind", "gust"]),
        ),
        LogisticRegression(),
    ).fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


SAMPLES = {
    "boosted-trees": boosted_trees,
    "histogram-trees": histogram_trees,
    "pipeline-on-a-table": pipeline_on_a_table,
}
