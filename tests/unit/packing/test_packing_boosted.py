"""What is refused of boosted trees, and how it is said; what holds for all is in conformance."""

from __future__ import annotations

import sys
from dataclasses import replace

import catboost
import lightgbm
import numpy as np
import onnx
import pandas as pd
import pytest
import xgboost
from packaging.version import Version
from sklearn import datasets
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.linear_model import Ridge
from tests.tiers import first_of

from bascule.bundle.originals.saved import open_saved
from bascule.core import library
from bascule.core.errors import Invalid, MissingExtra, ModelFailed, Unconvertible, Untrusted
from bascule.packing.compilers import as_json, lightgbm as lightgbm_trees, xgboost as xgboost_trees
from bascule.packing.flavors import TABLE, flavor_of

QUIET = {"verbose": 0, "allow_writing_files": False, "thread_count": 1, "iterations": 3}
X, y = load_diabetes(return_X_y=True)


@pytest.mark.parametrize(
    "model",
    [
        xgboost.XGBRegressor(),
        lightgbm.LGBMRegressor(),
        catboost.CatBoostRegressor(),
    ],
)
def test_a_model_that_is_not_fitted_is_refused(pack, model):
    with pytest.raises(Invalid, match="is not fitted"):
        pack(model, X)


TWO = pd.DataFrame({"level": y, "slope": y * 2 + X[:, 0] * 300})


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            xgboost.XGBRegressor(n_estimators=3, n_jobs=1),
            xgboost.XGBRegressor(n_estimators=3, multi_strategy="multi_output_tree", n_jobs=1),
            catboost.CatBoostRegressor(loss_function="MultiRMSE", **QUIET),
        ]
    ),
    ids=["xgboost", "xgboost-vectors", "catboost"],
)
def test_several_numbers_are_an_output_each(pack, model):
    model.fit(X, TWO)
    bundle = pack(model, (X, TWO), test=(X, TWO))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert bundle.manifest.task == "multioutput-regression"
    expected = model.predict(X)
    for answers in (bundle.predict(X), bundle.original().run({"input": X.astype(np.float32)})):
        for place, name in enumerate(TWO):
            np.testing.assert_allclose(answers[f"prediction.{name}"], expected[:, place], rtol=1e-5)


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            xgboost.XGBClassifier(n_estimators=3, n_jobs=1),
            catboost.CatBoostClassifier(loss_function="MultiLogloss", **QUIET),
        ]
    ),
    ids=["xgboost", "catboost"],
)
def test_labels_that_do_not_exclude_each_other_are_outputs_each(pack, model):
    truth = np.c_[y > 140, X[:, 2] > 0, X[:, 3] > 0].astype(int)
    model.fit(X, truth)
    bundle = pack(model, (X, truth))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    labels, second = model.predict(X), model.predict_proba(X)
    for answers in (bundle.predict(X), bundle.original().run({"input": X.astype(np.float32)})):
        for place in range(3):
            np.testing.assert_array_equal(answers[f"label.{place}"], labels[:, place])
            np.testing.assert_allclose(
                answers[f"probabilities.{place}"][:, 1], second[:, place], atol=1e-6
            )


@pytest.mark.parametrize("library", first_of(["xgboost", "catboost"]))
def test_quantiles_are_a_prediction_and_bounds_that_intervals_are_made_of(pack, library):
    if library == "xgboost":
        model = xgboost.XGBRegressor(
            n_estimators=5, objective="reg:quantileerror", quantile_alpha=[0.1, 0.25, 0.5, 0.9]
        )
    else:
        loss = "MultiQuantile:alpha=0.1,0.25,0.5,0.9"
        model = catboost.CatBoostRegressor(loss_function=loss, **QUIET)
    expected = model.fit(X, y).predict(X)
    bundle = pack(model, (X, y), test=(X, y))
    # Since 3.4 XGBoost sorts the quantiles of a row, which the program does not: parity says so.
    sorts = library == "xgboost" and Version(xgboost.__version__) >= Version("3.3")
    assert bundle.manifest.task == "regression"
    assert bundle.manifest.serves == ("original" if sorts else "onnx"), bundle.parity.reason
    assert list(bundle.calibration.methods) == ["cqr"]
    names = ["lower_quantile", "quantile_0.25", "prediction", "upper_quantile"]
    for answers in (bundle.predict(X), bundle.original().run({"input": X.astype(np.float32)})):
        assert next(iter(answers)) == "prediction"
        for place, name in enumerate(names):
            np.testing.assert_allclose(answers[name], expected[:, place], rtol=1e-5)


def test_quantiles_without_the_median_are_bounds_alone(pack):
    model = catboost.CatBoostRegressor(loss_function="MultiQuantile:alpha=0.05,0.95", **QUIET)
    bundle = pack(model.fit(X, y), (X, y))
    assert bundle.manifest.task == "other"
    assert [f.name for f in bundle.signature.outputs] == ["lower_quantile", "upper_quantile"]


def test_a_number_with_its_variance_is_two_outputs(pack):
    model = catboost.CatBoostRegressor(loss_function="RMSEWithUncertainty", **QUIET).fit(X, y)
    bundle = pack(model, (X, y))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    expected = model.predict(X)
    for answers in (bundle.predict(X), bundle.original().run({"input": X.astype(np.float32)})):
        np.testing.assert_allclose(answers["prediction"], expected[:, 0], rtol=1e-6)
        np.testing.assert_allclose(answers["variance"], expected[:, 1], rtol=1e-6)


@pytest.mark.parametrize("objective", ["cross_entropy", "cross_entropy_lambda"])
def test_cross_entropy_of_lightgbm_is_compiled(pack, objective):
    rows, labels = _two_classes()
    shares = np.clip(labels * 0.9 + 0.05, 0, 1)
    model = lightgbm.LGBMRegressor(objective=objective, n_estimators=5, verbose=-1, n_jobs=1)
    bundle = pack(model.fit(rows, shares), rows)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    np.testing.assert_allclose(bundle.predict(rows)["prediction"], model.predict(rows), rtol=1e-12)


def test_a_classifier_by_cross_entropy_answers_both_probabilities(pack):
    rows, labels = _two_classes()
    model = lightgbm.LGBMClassifier(objective="cross_entropy", n_estimators=5, verbose=-1, n_jobs=1)
    model.fit(rows, labels)
    bundle = pack(model, rows)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    for answers in (bundle.predict(rows), bundle.original().run({"input": rows})):
        np.testing.assert_allclose(answers["probabilities"], model.predict_proba(rows), atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*gblinear")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("model", "word"),
    first_of(
        [
            (xgboost.XGBRegressor(n_estimators=2, booster="gblinear"), "linear booster"),
            (
                lightgbm.LGBMRegressor(n_estimators=2, linear_tree=True, verbose=-1),
                "linear models",
            ),
        ]
    ),
)
def test_what_has_no_compiler_is_served_as_the_original_when_asked(pack, model, word):
    model.fit(X, y)
    with pytest.raises(Unconvertible, match=word):
        pack(model, X)
    bundle = pack(model, X, serve_original=True)
    assert bundle.manifest.serves == "original"
    assert word in bundle.parity.reason
    np.testing.assert_allclose(bundle.predict(X)["prediction"], model.predict(X), rtol=1e-6)


def test_rows_without_the_columns_of_training_are_refused(pack):
    model = xgboost.XGBRegressor(n_estimators=2).fit(X, y)
    with pytest.raises(Invalid, match="trained on 10"):
        pack(model, X[:, :3])


def test_other_categories_than_in_training_are_refused(pack):
    import pandas as pd

    table = pd.DataFrame({"a": pd.Categorical(["x", "y"] * 50), "b": np.arange(100.0)})
    model = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1).fit(table, table.b)
    other = table.assign(a=pd.Categorical(["y", "z"] * 50))
    with pytest.raises(Invalid, match="other categories"):
        pack(model, other)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "catboost"])
def test_a_library_that_is_not_installed_says_how_to_install_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra) as refusal:
        library(name, name)
    assert refusal.value.hint == f"pip install 'bascule[{name}]'"


@pytest.mark.parametrize(
    "model",
    first_of(
        [
            xgboost.XGBRegressor(n_estimators=2),
            lightgbm.LGBMRegressor(n_estimators=2, verbose=-1),
            catboost.CatBoostRegressor(**QUIET),
        ]
    ),
    ids=["xgboost", "lightgbm", "catboost"],
)
def test_a_saved_model_that_is_damaged_is_not_trusted(pack, model):
    """Its digest would have told; this is what its own reader says."""
    bundle = pack(model.fit(X, y), X)
    for damage in (b"", b"not a model", b"{}", b"[1]"):
        with pytest.raises(Untrusted, match="cannot be read"):
            open_saved(damage, bundle.manifest)


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (
            xgboost.XGBClassifier(n_estimators=2, max_depth=2),
            ModelFailed,
            r"shape \(5, 3\), and not",
        ),
        (lightgbm.LGBMClassifier(n_estimators=2, verbose=-1), Untrusted, "answers other classes"),
    ],
)
def test_a_file_that_answers_other_classes_than_the_manifest_tells_of_does_not(
    pack, model, kind, said
):
    rows, truth = load_iris(return_X_y=True)
    manifest = pack(model.fit(rows, truth), rows).manifest
    saved = flavor_of(model).read(model, rows, None).saved
    fewer = replace(manifest, classes=manifest.classes[:2])
    with pytest.raises(kind, match=said):
        open_saved(saved, fewer).run({"input": rows[:5]}, ["probabilities"])


@pytest.mark.parametrize("numbers", first_of([[0, 7], [0], [-9, 0], ["a", 0]], 2))
def test_a_manifest_that_takes_other_numbers_than_the_model_answers_is_not_believed(pack, numbers):
    model = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(X, TWO)
    manifest = pack(model, (X, TWO)).manifest
    saved = flavor_of(model).read(model, (X, TWO), None).saved
    frame = {**manifest.original.frame, "numbers": numbers}
    damaged = replace(manifest, original=replace(manifest.original, frame=frame))
    with pytest.raises((ModelFailed, Untrusted)):
        open_saved(saved, damaged).run({"input": X[:5].astype(np.float32)})


def test_a_format_of_a_later_version_is_not_opened(pack):
    manifest = pack(xgboost.XGBRegressor(n_estimators=2).fit(X, y), X).manifest
    later = replace(manifest, original=replace(manifest.original, format="xgboost-2040"))
    with pytest.raises(Untrusted, match="cannot open"):
        open_saved(b"", later)


def test_the_table_asks_scikit_learn_last_because_it_takes_all_that_look_like_its_own():
    assert list(TABLE)[-1] == "sklearn"
    assert flavor_of(xgboost.XGBRegressor()).name == "xgboost"
    assert flavor_of(lightgbm.LGBMRegressor()).name == "lightgbm"
    assert flavor_of(catboost.CatBoostRegressor()).name == "catboost"


def test_a_derived_class_is_its_librarys_model(pack):
    class Ours(xgboost.XGBRegressor):
        pass

    bundle = pack(Ours(n_estimators=2).fit(X, y), X)
    assert bundle.manifest.flavor == "xgboost"


@pytest.mark.slow
def test_boosted_trees_may_be_members_of_a_committee(pack):
    model = VotingRegressor(
        [
            ("ridge", Ridge()),
            ("xgboost", xgboost.XGBRegressor(n_estimators=5)),
            ("lightgbm", lightgbm.LGBMRegressor(n_estimators=5, verbose=-1)),
            ("catboost", catboost.CatBoostRegressor(**QUIET)),
        ]
    ).fit(X, y)
    bundle = pack(model, X)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert {"lightgbm", "catboost"} <= set(bundle.manifest.original.requires)


def test_the_sums_of_xgboost_start_where_its_objective_says():
    model = xgboost.XGBClassifier(n_estimators=1, base_score=0.3).fit(*_two_classes())
    ensemble = xgboost_trees.read_xgboost(_json(model))
    assert ensemble.base == pytest.approx([np.log(0.3 / 0.7)], rel=1e-6)


def test_the_weights_of_dart_are_read_where_either_form_of_xgboost_has_them():
    """Until 3.3 they lie beside the trees' model, from 3.4 on inside it."""
    model = xgboost.XGBRegressor(n_estimators=5, booster="dart", rate_drop=0.5, n_jobs=1).fit(X, y)
    saved = _json(model)
    booster = saved["learner"]["gradient_booster"]
    inside = booster.get("gbtree", booster)["model"]
    weights = booster.pop("weight_drop", None) or inside.pop("weight_drop")
    assert min(weights) < 1
    read = []
    for holder in (booster, inside):
        holder["weight_drop"] = weights
        read.append([tree.values.tolist() for tree in xgboost_trees.read_xgboost(saved).trees])
        del holder["weight_drop"]
    assert read[0] == read[1]
    assert read[0] != [tree.values.tolist() for tree in xgboost_trees.read_xgboost(saved).trees]


def test_a_threshold_of_xgboost_is_passed_by_the_float_before_it_only():
    model = xgboost.XGBRegressor(n_estimators=1, max_depth=1).fit(X, y)
    (tree,) = xgboost_trees.read_xgboost(_json(model)).trees
    (saved,) = _json(model)["learner"]["gradient_booster"]["model"]["trees"]
    written = saved["split_conditions"][0]
    assert np.float32(tree.threshold[0]) < np.float32(written)
    assert np.nextafter(np.float32(tree.threshold[0]), np.float32(np.inf)) == np.float32(written)


@pytest.mark.parametrize(
    ("threshold", "moved"),
    [
        (-lightgbm_trees.ZERO, np.nextafter(-lightgbm_trees.ZERO, -1)),
        (-1e-40, np.nextafter(-lightgbm_trees.ZERO, -1)),
        (np.nextafter(-lightgbm_trees.ZERO, -1), np.nextafter(-lightgbm_trees.ZERO, -1)),
        (0.0, lightgbm_trees.ZERO),
        (1e-40, lightgbm_trees.ZERO),
        (lightgbm_trees.ZERO, lightgbm_trees.ZERO),
        (1.0, 1.0),
    ],
)
def test_what_is_within_a_hair_of_zero_is_zero_to_lightgbm(threshold, moved):
    assert lightgbm_trees._past_zero(np.array([threshold])).tolist() == [moved]


def _two_classes():
    X, y = load_iris(return_X_y=True)
    return X[:100], y[:100]


def _json(model):
    import json

    return json.loads(bytes(model.get_booster().save_raw("json")))


def boosted_classifiers():
    return [
        xgboost.XGBClassifier(n_jobs=1),
        lightgbm.LGBMClassifier(verbose=-1, n_jobs=1),
        HistGradientBoostingClassifier(random_state=0),
    ]


def boosted_regressors():
    return [
        xgboost.XGBRegressor(n_jobs=1),
        lightgbm.LGBMRegressor(verbose=-1, n_jobs=1),
        HistGradientBoostingRegressor(random_state=0),
    ]


DATA = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    **{
        f"{classes} classes": lambda return_X_y, classes=classes: datasets.make_classification(
            400 * classes, 4 * classes, n_informative=6, n_classes=classes, random_state=classes
        )
        for classes in (2, 3, 5)
    },
}
NUMBERS = {
    "diabetes": datasets.load_diabetes,
    "friedman": lambda return_X_y: datasets.make_friedman1(800, random_state=0),
    "linear": lambda return_X_y: datasets.make_regression(500, 6, noise=1.0, random_state=0),
}


def is_compiled_and_equal_on_fresh_rows(pack, model, X, y):
    model = clone(model).fit(X, y)  # XGBoost keeps the objective of the fit before
    bundle = pack(model, (X, y), serve_original=True)
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    assert all(parity.passed for parity in bundle.parities.values())
    rows = np.random.default_rng(0).uniform(X.min(0) - 1, X.max(0) + 1, (5_000, X.shape[1]))
    rows = rows.astype(bundle.signature.inputs[0].dtype.numpy)
    found = bundle.predict(rows)
    if hasattr(model, "classes_"):
        found, expected = found["probabilities"], model.predict_proba(rows)
    else:
        found, expected = found["prediction"], model.predict(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.median(np.abs(expected)))


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", boosted_classifiers(), ids=lambda model: type(model).__name__)
def test_boosted_classifiers_as_they_are_by_default_are_compiled(pack, model, data):
    is_compiled_and_equal_on_fresh_rows(pack, model, *DATA[data](return_X_y=True))


@pytest.mark.slow
@pytest.mark.parametrize("data", NUMBERS)
@pytest.mark.parametrize("model", boosted_regressors(), ids=lambda model: type(model).__name__)
def test_boosted_regressors_as_they_are_by_default_are_compiled(pack, model, data):
    is_compiled_and_equal_on_fresh_rows(pack, model, *NUMBERS[data](return_X_y=True))


@pytest.mark.parametrize(
    "model", first_of(boosted_classifiers()[:2]), ids=lambda model: type(model).__name__
)
def test_trees_that_stop_growing_are_compiled(pack, model):
    """After some rounds there is nothing left to split, and the trees are single leaves."""
    is_compiled_and_equal_on_fresh_rows(pack, model, *load_iris(return_X_y=True))


@pytest.mark.slow
def test_histogram_boosting_of_many_rounds_is_equal_on_fresh_rows(pack):
    X, y = datasets.make_classification(1_000, 10, random_state=0)
    model = HistGradientBoostingClassifier(max_iter=200, random_state=0)
    is_compiled_and_equal_on_fresh_rows(pack, model, X, y)


# -- categories of CatBoost, compiled --

RANDOM = np.random.default_rng(3)
TRIPS = pd.DataFrame(
    {
        "city": RANDOM.choice(["Bern", "Oslo", "São Paulo", "Łódź", "NY"], 600),
        "hour": RANDOM.integers(0, 24, 600),
        "size": np.where(RANDOM.random(600) < 0.1, np.nan, RANDOM.normal(size=600)),
        "plan": RANDOM.choice(["free", "pro"], 600),
    }
)
LATE = ((TRIPS.city < "O") ^ (TRIPS.hour > 12) ^ (TRIPS.plan == "pro")).astype(int).to_numpy()
CATEGORIES = ["city", "hour", "plan"]


def of_categories(truth=LATE, kind="CatBoostClassifier", **settings):
    model = getattr(catboost, kind)(
        iterations=15, verbose=False, allow_writing_files=False, thread_count=1, **settings
    )
    return model.fit(TRIPS[:400], truth[:400], cat_features=CATEGORIES)


@pytest.mark.parametrize(
    ("settings", "truth"),
    first_of(
        [
            ({}, LATE),
            ({"one_hot_max_size": 100, "nan_mode": "Max"}, LATE),
            ({"simple_ctr": ["Buckets", "Counter"], "loss_function": "MultiClass"}, TRIPS.hour % 3),
            (
                {
                    "simple_ctr": ["BinarizedTargetMeanValue", "Counter"],
                    "counter_calc_method": "Full",
                    "grow_policy": "Depthwise",
                },
                LATE,
            ),
            (
                {"simple_ctr": ["Borders:TargetBorderCount=3"], "kind": "CatBoostRegressor"},
                TRIPS.hour,
            ),
        ]
    ),
    ids=["combinations", "flags", "several-classes", "means", "numbers"],
)
def test_categories_of_catboost_are_compiled_also_those_never_seen(pack, settings, truth):
    model = of_categories(np.asarray(truth), **settings)
    bundle = pack(model, (TRIPS[:400], np.asarray(truth)[:400]))
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    rows = TRIPS[400:].copy()
    rows.loc[rows.index[::3], "city"] = "never seen"
    rows.loc[rows.index[::4], "hour"] = 77
    answer = bundle.predict(rows)
    if "kind" in settings:
        np.testing.assert_allclose(answer["prediction"], model.predict(rows), rtol=1e-12)
    else:
        np.testing.assert_allclose(answer["probabilities"], model.predict_proba(rows), atol=1e-12)


def test_combinations_of_categories_take_few_nodes_however_many_they_are(pack):
    codes = np.random.default_rng(0).integers(0, 6, (600, 6))
    table = pd.DataFrame({f"c{at}": list(map(str, column)) for at, column in enumerate(codes.T)})
    truth = ((codes[:, 0] + codes[:, 1]) % 3 + codes[:, 2] * codes[:, 3] > 6).astype(int)
    model = catboost.CatBoostClassifier(**QUIET | {"iterations": 60})
    bundle = pack(model.fit(table, truth, cat_features=list(table)), (table, truth))
    graph = onnx.load(bundle.path / "programs" / "onnx.onnx").graph
    assert [node.op_type for node in graph.node].count("MatMul") == 1
    assert len(graph.node) < 60


def test_the_equal_tests_of_a_symmetric_tree_are_made_once(pack):
    model = catboost.CatBoostClassifier(depth=4, **QUIET)
    bundle = pack(model.fit(TRIPS[["hour"]], LATE), TRIPS[["hour"]])
    _, _, _, thresholds, *_ = bundle.program("llvm")._engine._forest
    borders = sum(len(tree["splits"]) for tree in as_json(model)["oblivious_trees"])
    assert len(thresholds) == borders
    rows = {"hour": np.arange(-1, 26).astype(np.float32)}
    many, _ = bundle.program("llvm").both_ways()
    expected = model.predict_proba(pd.DataFrame(rows))
    np.testing.assert_allclose(many.run(rows)["probabilities"], expected, atol=1e-6)


def test_a_category_of_the_model_that_the_training_rows_lack_is_told(pack):
    few = TRIPS[:400][TRIPS.city[:400] != "Oslo"]
    with pytest.raises(Unconvertible, match="categories that the training rows do not have") as no:
        pack(of_categories(), few)
    assert "pass train with all rows that the model was fitted on" in no.value.hint


def test_a_category_that_xgboost_refuses_is_refused(pack):
    table = TRIPS.assign(city=TRIPS.city.astype("category"))[["city", "size"]]
    model = xgboost.XGBClassifier(n_estimators=5, enable_categorical=True, n_jobs=1)
    bundle = pack(model.fit(table, LATE), table)
    with pytest.raises(Invalid, match=r"'city' holds 'never seen'.*none of the 5 categories"):
        bundle.predict({"city": ["never seen"], "size": [0.0]})
    assert bundle.predict({"city": [None, "Oslo"], "size": [0.0, 1.0]})["label"].shape == (2,)


def test_a_booster_refuses_the_infinity_that_its_matrix_refuses(pack):
    X, y = datasets.load_breast_cancer(return_X_y=True)
    bundle = pack(xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, y), 5), X)
    assert bundle.predict(np.full((1, 30), 3.4028235e38))["label"].shape == (1,)
    with pytest.raises(Invalid, match="has a number in row 0 that the model refuses"):
        bundle.predict(np.full((1, 30), 3.4028236e38))
