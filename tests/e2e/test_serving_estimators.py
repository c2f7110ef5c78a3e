"""What is no plain classifier or regressor, asked over HTTP: several outputs, scores, texts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

import bascule

X, Y = load_iris(return_X_y=True)
BOTH = pd.DataFrame(
    {"kind": np.array(["a", "b", "c"])[Y], "large": np.where(X[:, 0] > 5.8, "yes", "no")}
)
TEXTS = ["late again", "in time", "École LATE", "nothing"] * 10
LATE = [1, 0, 1, 0] * 10


@pytest.fixture(scope="module")
def models():
    return {
        "several": MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, BOTH),
        "odd": IsolationForest(n_estimators=10, random_state=0).fit(X),
        "texts": make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LATE),
        "hashes": make_pipeline(HashingVectorizer(n_features=64), LogisticRegression()).fit(
            TEXTS, LATE
        ),
    }


@pytest.fixture(scope="module")
def bundles(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimators")
    trains = {"several": (X, BOTH), "odd": X, "texts": TEXTS, "hashes": TEXTS}
    return [
        bascule.pack(
            model, name=name, train=trains[name], to=folder / name,
            serve_original=True, measure=False,
        )
        for name, model in models.items()
    ]  # fmt: skip


def outputs(client, name, sent, asked=()):
    body = {"inputs": [sent], "outputs": [{"name": one} for one in asked]}
    if not asked:
        del body["outputs"]
    answer = client.request("POST", f"/v2/models/{name}/infer", json.dumps(body).encode()).answer()
    assert answer.status == 200, answer.body
    return {one["name"]: np.reshape(one["data"], one["shape"]) for one in answer.json["outputs"]}


def test_several_outputs_scores_and_texts_are_answered(serve, connect, bundles, models):
    server = serve(*(bundle.path for bundle in bundles))
    rows = {"name": "input", "datatype": "FP64", "shape": [150, 4], "data": X.ravel().tolist()}
    notes = ["LATE late", "", "\u00e9cole \u0130n", "time"]
    words = {"name": "text", "datatype": "BYTES", "shape": [4], "data": notes}
    with connect(server.port) as client:
        found = outputs(client, "several", rows)
        assert list(found) == ["label.kind", "label.large", "probabilities.kind",
                               "probabilities.large"]  # fmt: skip
        assert found["label.kind"].tolist() == models["several"].predict(X)[:, 0].tolist()
        np.testing.assert_allclose(
            found["probabilities.large"], models["several"].predict_proba(X)[1], atol=1e-12
        )
        assert list(outputs(client, "several", rows, ["label.large"])) == ["label.large"]

        found = outputs(client, "odd", rows)
        assert found["label"].tolist() == models["odd"].predict(X).tolist()
        np.testing.assert_allclose(found["score"], models["odd"].decision_function(X), atol=1e-7)

        for name in ("texts", "hashes"):
            found = outputs(client, name, words)
            expected = models[name].predict_proba(notes)
            np.testing.assert_allclose(found["probabilities"], expected, atol=1e-12)
