"""Detectors of outliers: a label and a score; and what makes no sense for them is said."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import SGDOneClassSVM
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from tests.tiers import first_of

from bascule.bundle.card import Said, render
from bascule.bundle.disk.folder import read_statements
from bascule.core.errors import Invalid
from bascule.packing.statements import parity
from bascule.release import Criterion, measure as measuring


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return random.normal(size=(300, 3)) * [1.0, 5.0, 0.2] + [0.0, 3.0, -1.0]


DETECTORS = [
    IsolationForest(n_estimators=10, random_state=0),
    IsolationForest(n_estimators=10, contamination=0.1, max_features=0.5, random_state=0),
    IsolationForest(n_estimators=3, max_samples=2, random_state=0),
    IsolationForest(n_estimators=3, max_samples=1, random_state=0),
    OneClassSVM(nu=0.1),
    OneClassSVM(kernel="linear"),
    make_pipeline(StandardScaler(), OneClassSVM(kernel="poly", nu=0.2)),
    EllipticEnvelope(contamination=0.05, random_state=0),
    SGDOneClassSVM(nu=0.1, random_state=0),
]


@pytest.mark.parametrize("model", first_of(DETECTORS, 2), ids=lambda model: repr(model)[:50])
def test_a_detector_answers_a_label_and_the_score_behind_it(pack, rows, model):
    model.fit(rows)
    bundle = pack(model, rows)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.parity.max_difference <= 1e-9
    assert bundle.task == "outlier-detection"
    assert [field.name for field in bundle.signature.outputs] == ["label", "score"]
    others = rows * 1.7
    answer = bundle.predict(others)
    assert answer["label"].tolist() == model.predict(others).tolist()
    np.testing.assert_allclose(answer["score"], model.decision_function(others), atol=1e-7)


def test_neighbours_that_are_equally_far_are_chosen_by_the_original(pack, rows):
    """Far out, all training rows are as near, and every library takes others of them."""
    model = LocalOutlierFactor(novelty=True).fit(rows)
    bundle = pack(model, rows)
    assert bundle.manifest.serves == "original"
    assert "onnx differs from the original by up to" in bundle.parity.reason
    far = np.where(np.eye(3, dtype=bool), 1e30, rows[:3])
    answer = bundle.predict(far)
    assert answer["score"].tolist() == model.decision_function(far).tolist()


def test_missing_values_go_down_the_trees_as_in_the_original(pack, rows):
    holes = np.where(np.random.default_rng(1).random(rows.shape) < 0.2, np.nan, rows)
    bundle = pack(IsolationForest(n_estimators=10, random_state=0).fit(holes), holes)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.signature.inputs[0].nullable


@pytest.mark.parametrize(
    ("score", "ties", "passed"), [(0.0, 1, True), (0.9e-5, 1, True), (1.1e-5, 0, False)]
)
def test_a_label_may_differ_where_the_score_is_zero_and_nowhere_else(score, ties, passed):
    expected = {"label": np.array([1, 1, -1]), "score": np.array([score, 1.0, -1.0])}
    found = {"label": np.array([-1, 1, -1]), "score": expected["score"]}
    judged = parity.compare(expected, found, tolerance=1e-5, program="onnx", precision="", probes=0)
    assert (judged.ties, judged.passed) == (ties, passed)


def test_its_truth_is_one_and_minus_one(pack, rows):
    model = IsolationForest(n_estimators=5, random_state=0).fit(rows)
    with pytest.raises(Invalid, match="holds other values than -1 and 1"):
        pack(model, rows, (rows, np.arange(300) % 2))


def test_it_is_not_calibrated_and_the_reason_is_told(pack, rows):
    model = IsolationForest(n_estimators=5, random_state=0).fit(rows)
    truth = np.where(np.abs(rows[:, 0]) > 2, -1, 1)
    bundle = pack(model, rows, (rows, truth))
    (told,) = read_statements(bundle.path, "calibration")
    assert told.body["told"].startswith("no calibration: a detector of outliers answers a score")
    with pytest.raises(Invalid, match="of which there is no truth") as refused:
        pack(model, rows, calibration=(rows, truth))
    assert refused.value.hint == "leave calibration out"


def test_gates_judge_its_labels_and_its_scores(pack, rows):
    model = IsolationForest(n_estimators=20, random_state=0).fit(rows)
    truth = np.where(np.abs(rows[:, 0]) > 2, -1, 1)
    bundle = pack(model, rows, (rows, truth))
    asked = [Criterion.parse("balanced_accuracy >= 0.5"), Criterion.parse("auc >= 0.5")]
    measured = measuring.measure(bundle, asked)
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    assert measured["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(truth, model.predict(rows))
    )
    assert measured["auc"].value == pytest.approx(
        roc_auc_score(truth, model.decision_function(rows))
    )
    text = render(bundle.manifest, Said.of(read_statements(bundle.path)))
    assert "whether each is an inlier (1) or an outlier (-1)" in text
