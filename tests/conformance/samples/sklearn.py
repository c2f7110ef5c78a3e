"""scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from conformance_sample import Sample, of_classifier, of_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC, OneClassSVM


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


def _detected(model, rows):
    return {"label": model.predict(rows), "score": model.decision_function(rows)}


def _scattered() -> np.ndarray:
    """Rows of which no two are at one distance from a third."""
    random = np.random.default_rng(3)
    return random.normal(size=(400, 4)) * [1.0, 2.0, 0.5, 10.0]


def isolation_forest() -> Sample:
    X = _scattered()
    model = IsolationForest(n_estimators=20, contamination=0.1, max_features=3, random_state=0).fit(
        X[:300]
    )
    tests = tuple(
        (int(columns[column]), float(value))
        for tree, columns in zip(model.estimators_, model.estimators_features_, strict=True)
        for column, value in zip(tree.tree_.feature, tree.tree_.threshold, strict=True)
        if column >= 0
    )
    return Sample(model, X[:300], X[300:], lambda rows: _detected(model, rows), thresholds=tests)


def local_outlier_factor() -> Sample:
    X = _scattered()
    model = LocalOutlierFactor(novelty=True).fit(X[:300])
    return Sample(
        model,
        X[:300],
        X[300:],
        lambda rows: _detected(model, rows),
        serves="original",  # far out, all training rows are equally near
    )


def one_class_machine() -> Sample:
    X = _scattered()
    model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(X[:300])
    return Sample(model, X[:300], X[300:], lambda rows: _detected(model, rows))


def elliptic_envelope() -> Sample:
    X = _scattered()
    model = EllipticEnvelope(contamination=0.1, random_state=0).fit(X[:300])
    return Sample(model, X[:300], X[300:], lambda rows: _detected(model, rows))


def several_numbers() -> Sample:
    X, y = load_diabetes(return_X_y=True)
    both = pd.DataFrame({"now": y, "later": y * 0.5 + X[:, 2] * 100})
    model = RandomForestRegressor(10, random_state=0).fit(X[:300], both[:300])
    tests = tuple(
        (int(column), float(value))
        for member in model.estimators_
        for column, value in zip(member.tree_.feature, member.tree_.threshold, strict=True)
        if column >= 0
    )
    names = ("prediction.now", "prediction.later")
    return Sample(
        model,
        (X[:300], both[:300]),
        X[300:],
        lambda rows: dict(zip(names, model.predict(rows).T, strict=True)),
        thresholds=tests,
    )


def several_labels() -> Sample:
    random = np.random.default_rng(5)
    X = random.normal(size=(400, 5))
    both = pd.DataFrame(
        {
            "colour": np.array(["red", "green", "blue"])[(X[:, 0] > 0) + 1 * (X[:, 1] > 0)],
            "size": np.where(X[:, 2] > 0, "large", "small"),
        }
    )
    model = MultiOutputClassifier(LogisticRegression()).fit(X[:300], both[:300])

    def ask(rows):
        labels, shares = model.predict(rows), model.predict_proba(rows)
        return {
            "label.colour": labels[:, 0],
            "label.size": labels[:, 1],
            "probabilities.colour": shares[0],
            "probabilities.size": shares[1],
        }

    return Sample(model, (X[:300], both[:300]), X[300:], ask)


_WORDS = [
    "flight",
    "late",
    "early",
    "wind",
    "École",
    "gate",
    "STRASSE",
    "naïve",
    "plane",
    "delayed",
    "on_time",
    "ok",
    "İzmir",
    "42",
]


def _sentences(count: int) -> np.ndarray:
    random = np.random.default_rng(11)
    made = np.empty(count, object)
    made[:] = [
        " ".join(random.choice(_WORDS, random.integers(0, 9))) + random.choice(["", "!", ", a"])
        for _ in range(count)
    ]
    return made


def texts_alone() -> Sample:
    texts = _sentences(400)
    late = np.array(["late" in text or "delayed" in text for text in texts])
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression()
    ).fit(texts[:300], late[:300])
    return Sample(
        model, texts[:300].tolist(), texts[300:].tolist(), lambda rows: of_classifier(model, rows)
    )


def texts_in_a_table() -> Sample:
    random = np.random.default_rng(12)
    table = pd.DataFrame({"note": _sentences(400), "wind": random.normal(size=400)})
    late = table.note.str.contains("late") | (table.wind > 1)
    model = make_pipeline(
        make_column_transformer(
            (CountVectorizer(strip_accents="unicode"), "note"), (StandardScaler(), ["wind"])
        ),
        HistGradientBoostingClassifier(max_iter=10),
    )
    model[0].set_params(sparse_threshold=0)
    model.fit(table[:300], late[:300])
    return Sample(model, table[:300], table[300:], lambda rows: of_classifier(model, rows))


def calibrated_by_sigmoids() -> Sample:
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    X, y = X[order], y[order]
    model = CalibratedClassifierCV(make_pipeline(StandardScaler(), LinearSVC()), cv=3)
    model.fit(X[:80], y[:80])
    return Sample(model, X[:80], X[80:], lambda rows: of_classifier(model, rows))


def calibrated_by_steps() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    model = CalibratedClassifierCV(
        RandomForestClassifier(10, random_state=0), method="isotonic", cv=3
    ).fit(X[:400], y[:400])
    return Sample(model, X[:400], X[400:], lambda rows: of_classifier(model, rows))


def stacked_classifier() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    model = StackingClassifier(
        [
            ("line", make_pipeline(StandardScaler(), LogisticRegression())),
            ("trees", RandomForestClassifier(10, random_state=0)),
            ("vectors", make_pipeline(StandardScaler(), SVC())),
        ],
        cv=3,
    ).fit(X[:400], np.array(["no", "yes"])[y[:400]])
    return Sample(model, X[:400], X[400:], lambda rows: of_classifier(model, rows))


def stacked_regressor() -> Sample:
    X, y = load_diabetes(return_X_y=True)
    model = StackingRegressor(
        [("line", Ridge()), ("trees", RandomForestRegressor(10, random_state=0))],
        final_estimator=Ridge(),
        passthrough=True,
        cv=3,
    ).fit(X[:300], y[:300])
    return Sample(model, X[:300], X[300:], lambda rows: of_regressor(model, rows))


def voting_classifier() -> Sample:
    X, y = load_breast_cancer(return_X_y=True)
    model = VotingClassifier(
        [
            ("line", make_pipeline(StandardScaler(), LogisticRegression())),
            ("trees", RandomForestClassifier(10, random_state=0)),
            ("bayes", GaussianNB()),
        ],
        weights=[2, 1, 1],
    ).fit(X[:400], y[:400])
    return Sample(
        model, X[:400], X[400:], lambda rows: {"label": model.predict(rows)}, allows_huge=False
    )


def steps_of_ones_own() -> Sample:
    home = Path(__file__).with_name("own_steps.py")
    sys.path.append(str(home.parent))  # its neighbours have the names of libraries
    import own_steps

    X, y = load_iris(return_X_y=True)
    steps = FunctionTransformer(own_steps.ratios), own_steps.Clip(), StandardScaler()
    model = make_pipeline(*steps, LogisticRegression()).fit(X[::2], y[::2])
    return Sample(
        model,
        (X[::2], y[::2]),
        X[1::2],
        lambda rows: of_classifier(model, rows),
        options={"code": [str(home)]},
        is_pickled=True,
    )


SAMPLES = {
    "calibrated-by-sigmoids": calibrated_by_sigmoids,
    "calibrated-by-steps": calibrated_by_steps,
    "elliptic-envelope": elliptic_envelope,
    "isolation-forest": isolation_forest,
    "local-outlier-factor": local_outlier_factor,
    "one-class-machine": one_class_machine,
    "several-labels": several_labels,
    "several-numbers": several_numbers,
    "steps-of-ones-own": steps_of_ones_own,
    "stacked-classifier": stacked_classifier,
    "stacked-regressor": stacked_regressor,
    "texts-alone": texts_alone,
    "texts-in-a-table": texts_in_a_table,
    "voting-classifier": voting_classifier,
    "boosted-trees": boosted_trees,
    "histogram-trees": histogram_trees,
    "pipeline-on-a-table": pipeline_on_a_table,
}
