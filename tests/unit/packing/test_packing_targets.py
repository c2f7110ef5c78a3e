"""Models with several outputs: each has a name, its classes, its truth and its own quality."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import ExtraTreesClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, MultiTaskLasso, Ridge
from sklearn.multioutput import (
    MultiOutputClassifier,
    MultiOutputRegressor,
    RegressorChain,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tests.tiers import first_of

import bascule
from bascule.batch.table_files import as_table
from bascule.bundle.disk.folder import read_statements
from bascule.bundle.statements.baseline import read_baseline
from bascule.core.errors import Invalid
from bascule.release import Criterion, measure as measuring
from bascule.release.quality import measure_quality


@pytest.fixture(scope="module")
def several():
    random = np.random.default_rng(0)
    X = random.normal(size=(240, 4))
    numbers = pd.DataFrame({"warm": X[:, 0] * 3 + 1, "wet": X[:, 1] - X[:, 0] + 0.1 * X[:, 3]})
    labels = pd.DataFrame(
        {
            "colour": np.array(["blue", "green", "red"])[(X[:, 0] > 0) + 1 * (X[:, 1] > 0)],
            "size": np.array(["large", "small"])[(X[:, 2] > 0) * 1],
        }
    )
    return X, numbers, labels


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            LinearRegression(),
            MultiTaskLasso(alpha=0.01),
            PLSRegression(2),
            make_pipeline(StandardScaler(), RandomForestRegressor(5, random_state=0)),
            DecisionTreeRegressor(max_depth=4),
            MultiOutputRegressor(Ridge()),
            RegressorChain(Ridge(), order=[1, 0]),
            MLPRegressor(hidden_layer_sizes=(5,), max_iter=2000, random_state=0, tol=1e-3),
        ],
        2,
    ),
    ids=lambda model: type(model).__name__,
)
def test_several_numbers_are_compiled_each_under_its_name(pack, several, model):
    X, numbers, _ = several
    model.fit(X, numbers)
    bundle = pack(model, (X, numbers), (X, numbers))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.parity.max_difference <= 1e-11
    assert bundle.task == "multioutput-regression"
    answer = bundle.predict(X)
    assert list(answer) == ["prediction.warm", "prediction.wet"]
    np.testing.assert_allclose(np.column_stack(list(answer.values())), model.predict(X), atol=1e-9)


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            MultiOutputClassifier(LogisticRegression()),
            DecisionTreeClassifier(max_depth=4),
            make_pipeline(StandardScaler(), ExtraTreesClassifier(6, random_state=0)),
        ]
    ),
    ids=lambda model: type(model).__name__,
)
def test_several_labels_are_compiled_each_with_its_own_classes(pack, several, model):
    X, _, labels = several
    model.fit(X, labels)
    bundle = pack(model, (X, labels), (X, labels))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.task == "multioutput-classification"
    assert bundle.classes is None
    colour, size = bundle.manifest.targets
    assert (colour.name, colour.classes) == ("colour", ("blue", "green", "red"))
    assert (size.name, size.classes) == ("size", ("large", "small"))
    answer, shares = bundle.predict(X), model.predict_proba(X)
    assert list(answer) == ["label.colour", "label.size", "probabilities.colour",
                            "probabilities.size"]  # fmt: skip
    for place, name in enumerate(("colour", "size")):
        assert answer[f"label.{name}"].tolist() == model.predict(X)[:, place].tolist()
        np.testing.assert_allclose(answer[f"probabilities.{name}"], shares[place], atol=1e-12)
    again = bascule.load(bundle.path).original()
    assert again.run({"input": X}, ["label.size"])["label.size"].tolist() == (
        answer["label.size"].tolist()
    )
    assert as_table(answer, bundle.manifest).column_names[2:] == [
        "probabilities.colour_blue", "probabilities.colour_green", "probabilities.colour_red",
        "probabilities.size_large", "probabilities.size_small",
    ]  # fmt: skip
    baseline = read_baseline(bundle.path, bundle.manifest)
    assert "probabilities.size.small" in set(baseline.answers.columns)


def test_outputs_without_names_are_numbered(pack, several):
    X, numbers, _ = several
    bundle = pack(LinearRegression().fit(X, numbers.to_numpy()), X)
    assert [field.name for field in bundle.signature.outputs] == ["prediction.0", "prediction.1"]
    assert bundle.manifest.to_json()["targets"] == [
        {"name": "0", "classes": None},
        {"name": "1", "classes": None},
    ]


def test_one_output_in_a_column_of_its_own_is_one_output(pack, several):
    X, numbers, _ = several
    bundle = pack(LinearRegression().fit(X, numbers[["warm"]]), (X, numbers[["warm"]]))
    assert bundle.task == "regression"
    assert "targets" not in bundle.manifest.to_json()


def test_neighbours_at_one_distance_leave_it_to_the_original(pack, several):
    X, numbers, _ = several
    X = np.round(X)
    bundle = pack(KNeighborsRegressor().fit(X, numbers), (X, numbers))
    assert bundle.manifest.serves == "original"
    assert list(bundle.predict(X)) == ["prediction.warm", "prediction.wet"]


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_the_truth_of_all_outputs_is_kept(pack, several, kind):
    X, numbers, labels = several
    truth = numbers if kind == "numbers" else labels
    maker = LinearRegression() if kind == "numbers" else DecisionTreeClassifier(max_depth=3)
    bundle = pack(maker.fit(X, truth), (X, truth), (X, truth))
    columns, found = bundle.test_data()
    assert columns["input"].tolist() == X.tolist()
    assert found.tolist() == truth.to_numpy().tolist()


def test_a_truth_of_another_width_is_refused(pack, several):
    X, numbers, _ = several
    model = LinearRegression().fit(X, numbers)
    with pytest.raises(Invalid, match=r"y of test has shape \[240\], and the model predicts"):
        pack(model, (X, numbers), (X, numbers.warm))
    bundle = pack(model, X)
    with pytest.raises(Invalid, match="test has 240 rows in X, and y has the shape"):
        measuring.measure(bundle, [Criterion.parse("r2 >= 0")], test=(X, numbers.warm))


def test_a_criterion_is_about_the_worst_output_and_says_which(pack, several):
    X, numbers, labels = several
    from sklearn.metrics import accuracy_score, mean_absolute_error

    model = LinearRegression().fit(X, numbers)
    noisy = numbers.assign(wet=numbers.wet + np.random.default_rng(1).normal(size=240))
    bundle = pack(model, (X, numbers), (X, noisy))
    measured = measuring.measure(
        bundle, [Criterion.parse("mae <= 1"), Criterion.parse("r2 >= 0.5")]
    )
    worst = mean_absolute_error(noisy.wet, model.predict(X)[:, 1])
    assert measured["mae"].value == pytest.approx(worst)
    assert measured["mae"].note.startswith("wet, the worst of 2 outputs: warm ")
    assert measured["r2"].value < 0.9

    model = DecisionTreeClassifier(max_depth=1).fit(X, labels)
    bundle = pack(model, (X, labels), (X, labels))
    found = measuring.measure(bundle, [Criterion.parse("accuracy >= 0.5")])["accuracy"].value
    assert found == pytest.approx(
        min(accuracy_score(labels.iloc[:, place], model.predict(X)[:, place]) for place in (0, 1))
    )
    quality = measure_quality(bundle)
    assert quality["overall"]["accuracy"] == pytest.approx(found, abs=1e-6)
    assert set(quality["targets"]) == {"colour", "size"}


def test_it_is_not_calibrated_and_the_reason_is_told(pack, several):
    X, numbers, _ = several
    bundle = pack(LinearRegression().fit(X, numbers), (X, numbers), (X, numbers))
    (told,) = read_statements(bundle.path, "calibration")
    assert "the model has several outputs" in told.body["told"]
