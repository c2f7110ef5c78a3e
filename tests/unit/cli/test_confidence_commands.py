from __future__ import annotations

import json

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import bascule
from bascule.app import limits_of
from bascule.core.errors import Invalid
from bascule.settings import load_settings


@pytest.fixture
def bundle(run, tmp_path):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X[::2], y[::2])
    skops.io.dump(model, tmp_path / "model.skops")
    for name, start in (("train", 0), ("test", 1), ("own", 3)):
        np.savez(tmp_path / f"{name}.npz", X=X[start::4], y=y[start::4])
    np.save(tmp_path / "rows.npy", X[::10])
    code, _, messages = run(
        "pack", "model.skops", "--name=m", "--train=train.npz", "--test=test.npz",
        "--calibration=own.npz", "--no-measure",
    )  # fmt: skip
    assert code == 0, messages
    assert "calibrated on 37 rows: rows of their own" in messages
    return bascule.load(tmp_path / "m.bundle")


def test_predict_adds_a_set_for_a_confidence(run, bundle):
    code, out, _ = run("predict", bundle.path, "rows.npy", "--confidence=0.9", "--json")
    assert code == 0
    found = [[row[f"prediction_set_{label}"] for label in range(3)] for row in json.loads(out)]
    answer = bundle.predict(np.load("rows.npy"), confidence=0.9)
    assert found == answer["prediction_set"].tolist()
    code, out, _ = run(
        "predict", bundle.path, "rows.npy", "--confidence=0.9", "--conformal=aps", "--json"
    )
    adaptive = bundle.predict(np.load("rows.npy"), confidence=0.9, conformal="aps")
    found = [[row[f"prediction_set_{label}"] for label in range(3)] for row in json.loads(out)]
    assert found == adaptive["prediction_set"].tolist() != answer["prediction_set"].tolist()


def test_predict_refuses_a_confidence_that_cannot_be(run, bundle):
    for words, said in (
        (["--confidence=1"], "confidence: 1.0 is not a number over 0 and under 1"),
        (["--confidence=0.99"], "more than 37 calibration rows can support"),
        (["--confidence=0.9", "--conformal=best"], "'best' is not one of lac, aps"),
    ):
        code, out, messages = run("predict", bundle.path, "rows.npy", *words)
        assert (code, out) == (2, "")
        assert said in " ".join(messages.split())


@pytest.mark.parametrize(("written", "said"), [("1", "1 is not < 1"), ("-0.1", "-0.1 is not >= 0")])
def test_a_default_confidence_lies_below_one(tmp_path, written, said):
    with pytest.raises(Invalid, match=r"serving\.confidence: ") as refused:
        load_settings(tmp_path, {"BASCULE_SERVING__CONFIDENCE": written})
    assert said in refused.value.message.replace(".0 ", " ")


@pytest.mark.parametrize("written", ["0", "0.999"])
def test_a_default_confidence_reaches_the_workers(tmp_path, written):
    settings = load_settings(tmp_path, {"BASCULE_SERVING__CONFIDENCE": written})
    assert limits_of(settings).confidence == float(written)


def test_a_served_bundle_answers_with_its_default_confidence(bundle, serve, connect):
    server = serve(bundle.path, "--confidence=0.9")
    rows = {"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
    with connect(server.port) as client:
        answer = client.request("POST", "/v2/models/m/infer", {"inputs": [rows]}).answer()
    found = {one["name"]: one["data"] for one in answer.json["outputs"]}
    expected = bundle.predict([[5.1, 3.5, 1.4, 0.2]], confidence=0.9)
    assert found["prediction_set"] == expected["prediction_set"][0].tolist()
