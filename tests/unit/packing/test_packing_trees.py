"""Trees in machine code: the same answers as the original's, by other means."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import lightgbm
import numpy as np
import onnx
import pytest
import xgboost
from hypothesis import given, settings, strategies as st
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tests.skips import skip
from tests.tiers import examples, first_of

import bascule
from bascule.bundle.disk.folder import read_manifest
from bascule.bundle.opening import pinned_program
from bascule.bundle.programs import llvm, obstacles, open_kind, runnable
from bascule.bundle.programs.onnx import open_session
from bascule.bundle.programs.trees import Node, Trees
from bascule.core.errors import MissingExtra, ModelFailed, NotFound, Unconvertible, Untrusted
from bascule.core.fields import DType, Field
from bascule.packing.compilers import lightgbm as lightgbm_trees
from bascule.packing.compilers.apart import exactly_summed
from bascule.packing.compilers.graph import Graph
from bascule.packing.compilers.trees import Tree, sums_in_double
from bascule.packing.statements.parity import are_same_bits

SMALL = {"n_estimators": 8, "random_state": 0}
QUICK = {"measure": False, "outliers": False, "explain": False}


def program_file(bundle):
    return (bundle.path / "programs/trees.npz").read_bytes()


ENGINES = ["llvm"]


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def opened(bundle, data, engine):
    entry = bundle.manifest.program(engine)
    return open_kind(entry, data, outputs=bundle.signature.outputs)


def answers(bundle, columns):
    """What both ways of running the trees answer in every engine: the same bits."""
    engines = [entry.name for entry in bundle.manifest.programs[1:]]
    many, *others = (
        way.run(columns) for engine in engines for way in bundle.program(engine).both_ways()
    )
    for other in others:
        assert list(many) == list(other)
        assert all(many[name].dtype == other[name].dtype for name in many)
        assert are_same_bits(many, other)
    return many


def changed(data, **arrays):
    with np.load(io.BytesIO(data)) as archive:
        kept = {name: archive[name] for name in archive.files}
    file = io.BytesIO()
    np.savez(file, **{**kept, **arrays})
    return file.getvalue()


def arrays_of(data):
    with np.load(io.BytesIO(data)) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize(
    "model",
    [
        GradientBoostingClassifier(**SMALL),
        RandomForestClassifier(**SMALL),
        ExtraTreesClassifier(**SMALL),
        DecisionTreeClassifier(random_state=0),
        DecisionTreeClassifier(max_depth=1),
        make_pipeline(StandardScaler(), GradientBoostingClassifier(**SMALL)),
    ],
    ids=lambda model: type(model[-1] if hasattr(model, "steps") else model).__name__,
)
@pytest.mark.parametrize("data", first_of(["cancer", "iris"]))
def test_classifiers_of_trees_answer_as_the_original(pack, model, data, request):
    X, y = request.getfixturevalue(data)
    bundle = pack(model.fit(X, y), X)
    found = answers(bundle, {"input": X.astype(bundle_dtype(bundle))})
    assert (found["label"] == model.predict(X)).all()
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-6)
    for engine in ENGINES:
        assert bundle.parities[engine].passed
        assert bundle.manifest.program(engine).batch_invariant


def bundle_dtype(bundle):
    return bundle.manifest.program("llvm").inputs[0].dtype.numpy


@pytest.mark.parametrize(
    "model", [GradientBoostingRegressor(**SMALL), RandomForestRegressor(**SMALL)]
)
def test_regressors_of_trees_answer_as_the_original(pack, model, diabetes):
    X, y = diabetes
    bundle = pack(model.fit(X, y), X)
    found = answers(bundle, {"input": X.astype(bundle_dtype(bundle))})
    np.testing.assert_allclose(found["prediction"], model.predict(X), rtol=1e-6)


def test_the_preprocessing_stays_in_front_and_missing_values_stay_missing(pack, flights):
    table, late = flights
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier", "airport"]),
            (SimpleImputer(), ["wind"]),
            (OneHotEncoder(), ["plane"]),
            ("passthrough", ["hour", "gust", "rain"]),
        ),
        GradientBoostingClassifier(**SMALL),
    ).fit(table, late)
    bundle = pack(model, table)
    columns = bascule.bundle.tables.conform(table, bundle.signature)
    program = bundle.program("llvm")
    found = answers(bundle, bascule.bundle.tables.for_program(columns, program.inputs))
    for engine in ENGINES:
        assert bundle.parities[engine].passed
        assert bundle.parities[engine].probes > 0
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(table), atol=1e-6)


def test_a_forest_sends_missing_values_where_it_learned_to(pack, cancer):
    X, y = cancer
    X = X.copy()
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    model = RandomForestClassifier(**SMALL).fit(X, y)
    bundle = pack(model, X)
    found = answers(bundle, {"input": X.astype(bundle_dtype(bundle))})
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-6)


def test_values_at_and_beside_every_threshold_take_the_original_s_way(pack, cancer):
    """The trap of trees in floats: a double threshold that is rounded up lets one value too many
    pass."""
    X, y = cancer
    model = GradientBoostingClassifier(**SMALL).fit(X, y)
    bundle = pack(model, X)
    rows = []
    for tree in model.estimators_.ravel():
        for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
            if feature >= 0:
                near = np.float32(threshold)
                for value in (
                    threshold,
                    np.nextafter(threshold, -np.inf),
                    np.nextafter(threshold, np.inf),
                    near,
                    np.nextafter(near, np.float32(-np.inf)),
                    np.nextafter(near, np.float32(np.inf)),
                ):
                    row = X[len(rows) % len(X)].copy()
                    row[feature] = value
                    rows.append(row)
    rows = np.array(rows)
    found = answers(bundle, {"input": rows.astype(bundle_dtype(bundle))})
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(rows), atol=1e-6)


LIGHT = {"n_estimators": 10, "num_leaves": 15, "min_child_samples": 5, "verbose": -1, "n_jobs": 1}


def with_gaps(X):
    """Values missing, and zeros among them: what LightGBM's three kinds of missing differ in."""
    random = np.random.default_rng(0)
    X = X - np.median(X, axis=0)
    X[random.random(X.shape) < 0.1] = np.nan
    X[random.random(X.shape) < 0.1] = 0
    return X


def beside(threshold):
    """Values that a test by a neighbouring double or float would send another way."""
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
        floats = (
            near,
            np.nextafter(near, np.float32(-np.inf)),
            np.nextafter(near, np.float32(np.inf)),
        )
    return [
        threshold,
        np.nextafter(threshold, -np.inf),
        np.nextafter(threshold, np.inf),
        *(float(value) for value in floats),
        *(float(np.nextafter(np.float64(value), np.inf)) for value in floats),
    ]


ODD_VALUES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 1e300, -1e300]


def lightgbm_tests(model):
    ensemble = lightgbm_trees.read_lightgbm(model.booster_.model_to_string())
    return [
        (int(tree.feature[node]), float(tree.threshold[node]))
        for tree in ensemble.trees
        for node in np.flatnonzero(tree.left >= 0)
        if int(node) not in tree.members
    ]


def histogram_tests(model):
    return [
        (int(node["feature_idx"]), float(node["num_threshold"]))
        for (predictor,) in model._predictors
        for node in predictor.nodes
        if not node["is_leaf"]
    ]


@pytest.fixture(
    scope="module", params=["missing-nan", "missing-zero", "missing-nothing", "histogram", "close"]
)
def of_doubles(request, tmp_path_factory, cancer):
    """A model that compares doubles, its tests, and its bundle."""
    X, y = cancer
    if request.param == "histogram":
        X = with_gaps(X)
        model = HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=15).fit(X, y)
    elif request.param == "close":
        # Seconds since 1970: the floats of today are two minutes apart, and tests are closer.
        X = 1.7e9 + X.argsort(axis=0).argsort(axis=0) * 3.7
        model = lightgbm.LGBMClassifier(**LIGHT).fit(X, y)
    else:
        X = with_gaps(X)
        settings = {
            "missing-nan": {},
            "missing-zero": {"zero_as_missing": True},
            "missing-nothing": {"use_missing": False},
        }[request.param]
        model = lightgbm.LGBMClassifier(**LIGHT, **settings).fit(X, y)
    find = histogram_tests if request.param == "histogram" else lightgbm_tests
    to = tmp_path_factory.mktemp("doubles") / "bundle"
    bundle = bascule.pack(model, name="doubles", train=X, to=to, **QUICK)
    return model, X, find(model), bundle


def test_trees_that_compare_doubles_are_packed_for_every_engine(of_doubles):
    _, _, _, bundle = of_doubles
    assert [entry.name for entry in bundle.manifest.programs] == ["onnx", "llvm"]
    assert all(bundle.parities[engine].passed for engine in ENGINES)
    arrays = arrays_of(program_file(bundle))
    assert "threshold" not in arrays
    assert (arrays["double_threshold"].astype(np.float32) != arrays["double_threshold"]).any()


def test_doubles_at_and_beside_every_threshold_take_the_original_s_way(of_doubles):
    """Bit by bit as the graph in one piece, which compares doubles, and as the original."""
    model, X, tests, bundle = of_doubles
    rows = []
    for feature, threshold in tests:
        for value in beside(threshold):
            row = X[len(rows) % len(X)].copy()
            row[feature] = value
            rows.append(row)
    rows = np.array(rows)
    found = answers(bundle, {"input": rows})
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(rows), atol=1e-6)


@settings(max_examples=examples(25), deadline=None)
@given(data=st.data())
def test_any_doubles_take_the_original_s_way(of_doubles, data):
    model, X, tests, bundle = of_doubles
    by_feature = {feature: [t for f, t in tests if f == feature] for feature, _ in tests}
    row = X[data.draw(st.integers(0, len(X) - 1))].copy()
    for feature, thresholds in by_feature.items():
        near = st.sampled_from(thresholds).flatmap(lambda t: st.sampled_from(beside(t)))
        row[feature] = data.draw(near | st.sampled_from(ODD_VALUES) | st.floats())
    rows = row[None]
    found = answers(bundle, {"input": rows})
    with np.errstate(over="ignore"):
        expected = model.predict_proba(rows)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)


def test_the_caller_s_rows_are_left_as_they_are(of_doubles, engine):
    _, X, tests, bundle = of_doubles
    rows = np.resize(X, (len(tests), X.shape[1]))
    for row, (feature, threshold) in zip(rows, tests, strict=True):
        row[feature] = threshold
    kept = rows.copy()
    bundle.program(engine).both_ways()[0].run({"input": rows})
    assert (rows.view(np.int64) == kept.view(np.int64)).all()


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_floats_that_are_handed_in_need_no_doubles(pack, cancer, kind):
    """Every value is a float, so thresholds that are rounded down decide as the doubles do."""
    X, y = cancer[0].astype(np.float32), cancer[1]
    if kind == "lightgbm":
        model = lightgbm.LGBMClassifier(**LIGHT).fit(X, y)
        tests = lightgbm_tests(model)
    else:
        model = xgboost.XGBClassifier(n_estimators=10, max_depth=3).fit(X, y)
        tests = []
    bundle = pack(model, X)
    arrays = arrays_of(program_file(bundle))
    assert arrays["threshold"].dtype == np.float32
    assert not {"double_threshold", "before"} & set(arrays)
    rows = np.resize(X, (max(9 * len(tests), len(X)), X.shape[1]))
    near = [(feature, value) for feature, t in tests for value in beside(t)]
    for row, (feature, value) in zip(rows, near, strict=False):
        row[feature] = value
    found = answers(bundle, {"input": rows})
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(rows), atol=1e-6)


def test_a_model_without_trees_has_the_one_program(pack, cancer):
    X, y = cancer
    bundle = pack(LogisticRegression(max_iter=5000).fit(X, y), X)
    assert [entry.name for entry in bundle.manifest.programs] == ["onnx"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, cancer, boosted):
    to = tmp_path_factory.mktemp("trees") / "bundle"
    return bascule.pack(boosted, name="gb", train=cancer[0], to=to, **QUICK)


def test_a_server_keeps_to_one_program_and_a_batch_takes_the_fastest(bundle, cancer, say_of_cost):
    cheap, dear = {"1": 10.0, "512": 1000.0}, {"1": 30.0, "512": 300.0}
    say_of_cost(bundle, onnx=cheap, llvm=dear, original={"1": 100.0})
    assert pinned_program(bundle.path, bundle.manifest) == "llvm"
    assert bundle.program().name == "llvm"
    assert bundle.predict(cancer[0][:1]).program == "onnx"
    assert bundle.predict(cancer[0]).program == "llvm"
    say_of_cost(bundle, onnx={"1": 1.0, "512": 100.0}, llvm=dear, original={"1": 100.0})
    assert pinned_program(bundle.path, bundle.manifest) == "onnx"


def test_without_an_engine_the_next_best_serves_and_the_install_line_is_told(
    bundle, monkeypatch, say_of_cost
):
    say_of_cost(bundle, onnx={"1": 10.0}, original={"1": 100.0}, llvm={"1": 1.0})
    assert pinned_program(bundle.path, bundle.manifest) == "llvm"
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "llvmlite" else found(name)
    )
    llvm.obstacle.cache_clear()
    try:
        assert pinned_program(bundle.path, bundle.manifest) == "onnx"
        assert bundle.predict(np.zeros((1, 30))).program == "onnx"
        with pytest.raises(MissingExtra) as refused:
            bundle.program("llvm")
    finally:
        llvm.obstacle.cache_clear()
    assert refused.value.hint == "pip install 'bascule[llvm]'"


def test_a_bundle_with_a_program_of_a_retired_kind_opens_and_the_next_best_serves(
    bundle, cancer, say_of_cost
):
    """Bundles packed before machine code took its place hold one of the kind `onedal`."""
    entry = replace(bundle.manifest.program("llvm"), name="onedal", kind="onedal")
    programs = [bundle.manifest.program("onnx"), entry]
    assert runnable(programs) == ["onnx"]
    assert "pack the model again" in obstacles(programs)["onedal"]
    with pytest.raises(Untrusted, match="kind 'onedal', which this version cannot run") as refused:
        open_kind(entry, program_file(bundle), outputs=bundle.signature.outputs)
    assert "machine code" in refused.value.hint


def test_a_program_that_a_bundle_has_not_is_refused_with_those_it_has(bundle):
    with pytest.raises(NotFound) as refused:
        bundle.program("tensorrt")
    assert refused.value.hint == "it has onnx, llvm, original"


def test_a_worker_that_runs_it_imports_no_framework(bundle):
    probe = f"""
import sys
from bascule.bundle.disk.folder import read_manifest
from bascule.bundle.opening import open_program
program = open_program({str(bundle.path)!r}, read_manifest({str(bundle.path)!r}), name="llvm")
assert program.name == "llvm"
print(sorted({{"sklearn", "pandas", "scipy", "onnx", "joblib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- files that were made to lead it astray --


def test_a_tree_that_leads_outside_of_its_arrays_is_refused(bundle, engine):
    data = program_file(bundle)
    arrays = arrays_of(data)
    far = np.full_like(arrays["true_at"], 10**6)
    for name, value in {
        "true_at": far,
        "false_at": -far,
        "feature": np.full_like(arrays["feature"], 30),
        "target": np.full_like(arrays["target"], 1),
        "roots": arrays["roots"] - 1,
        "weight": arrays["weight"][:-1],
        "threshold": arrays["threshold"][:-1],
        "missing": arrays["missing"][:-1],
        "columns": np.array([0], np.int32),
    }.items():
        with pytest.raises(Untrusted, match=r"trees\.npz"):
            opened(bundle, changed(data, **{name: value}), engine)


def test_thresholds_in_doubles_that_cannot_be_are_refused(of_doubles, engine):
    _, _, _, bundle = of_doubles
    data = program_file(bundle)
    good = arrays_of(data)["double_threshold"]
    one_is_nan = good.copy()
    one_is_nan[3] = np.nan
    bad_ones = [good[:-1], one_is_nan, good[:, None], good.astype(str), good.astype(int)]
    for bad in bad_ones:
        with pytest.raises(Untrusted, match=r"trees\.npz"):
            opened(bundle, changed(data, double_threshold=bad), engine)
    with pytest.raises(Untrusted, match="two for each test"):
        opened(bundle, changed(data, threshold=good.astype(np.float32)), engine)


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_any_thresholds_in_doubles_are_refused_or_answer_the_same_in_any_company(of_doubles, data):
    _, X, _, bundle = of_doubles
    engine = data.draw(st.sampled_from(ENGINES))
    made = arrays_of(program_file(bundle))["double_threshold"].copy()
    for place in data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=9)):
        made[place] = data.draw(st.floats())
    try:
        program = opened(bundle, changed(program_file(bundle), double_threshold=made), engine)
    except Untrusted:
        return
    many, _ = program.both_ways()
    rows = X[:20]
    alone = many.run({"input": rows[:1]})
    assert are_same_bits(alone, {n: v[:1] for n, v in many.run({"input": rows}).items()})


def test_a_file_without_thresholds_is_refused(bundle, engine):
    arrays = arrays_of(program_file(bundle))
    del arrays["threshold"]
    file = io.BytesIO()
    np.savez(file, **arrays)
    with pytest.raises(Untrusted, match="no thresholds"):
        opened(bundle, file.getvalue(), engine)


def test_a_file_of_doubles_for_very_many_columns_takes_no_memory_for_them(of_doubles, engine):
    """It is refused by the rows, as any is, and not before by the machine."""
    _, _, _, bundle = of_doubles
    data = changed(program_file(bundle), columns=np.array([2**31 - 1], np.int32))
    with pytest.raises((Untrusted, ModelFailed), match=r"trees\.npz|30"):
        opened(bundle, data, engine).both_ways()[0].run({"input": np.zeros((2, 30))})


def test_a_tree_that_comes_back_to_itself_is_refused(bundle, engine):
    data = program_file(bundle)
    arrays = arrays_of(data)
    inner = np.flatnonzero(arrays["true_is_leaf"] == 0)[0]
    true_at = arrays["true_at"].copy()
    true_at[inner] = arrays["roots"][0]
    with pytest.raises(Untrusted, match="grows together"):
        opened(bundle, changed(data, true_at=true_at), engine)


def test_more_features_than_the_graph_makes_are_not_read(bundle, engine):
    """Not even where the file says so: the memory behind the row is nobody's business."""
    data = changed(program_file(bundle), columns=np.array([31], np.int32))
    with pytest.raises(ModelFailed, match="30"):
        opened(bundle, data, engine).both_ways()[0].run({"input": np.zeros((2, 30), np.float32)})


@pytest.mark.parametrize("kind", ["pickled", "compressed", "empty", "text", "cut"])
def test_a_file_of_another_kind_is_refused(bundle, kind, engine):
    data = program_file(bundle)
    if kind == "pickled":
        data = changed(data, threshold=np.array([{"a": 1}], object))
    elif kind == "compressed":
        file = io.BytesIO()
        np.savez_compressed(file, **arrays_of(data))
        data = file.getvalue()
    elif kind == "empty":
        data = b""
    elif kind == "text":
        data = json.dumps([1]).encode()
    else:
        data = data[: len(data) // 2]
    with pytest.raises(Untrusted, match=r"trees\.npz"):
        opened(bundle, data, engine)


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_answers(bundle, data):
    """Never a crash, and nothing but our own refusals."""
    engine = data.draw(st.sampled_from(ENGINES))
    damaged = bytearray(program_file(bundle))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        program = opened(bundle, bytes(damaged), engine)
    except Untrusted:
        return
    for way in program.both_ways():
        way.run({"input": np.zeros((2, 30), np.float32)})


def test_the_manifest_names_all_programs_and_their_digests(bundle):
    manifest = read_manifest(bundle.path)
    assert [(entry.name, entry.kind) for entry in manifest.programs] == [
        ("onnx", "onnx"),
        ("llvm", "llvm"),
    ]
    assert {manifest.program(engine).file for engine in ENGINES} == {"programs/trees.npz"}
    assert "programs/trees.npz" in manifest.files
    required = (bundle.path / "environment.txt").read_text()
    assert "llvmlite==" in required


# -- sums that are the same in any order --


@settings(max_examples=examples(300), deadline=None)
@given(
    weight=st.lists(
        st.floats(-1e30, 1e30).filter(lambda x: x == 0 or abs(x) > 1e-30), min_size=1, max_size=40
    ),
    seed=st.integers(0, 1 << 20),
)
def test_floats_of_any_size_add_up_to_the_same_bits_in_any_order(weight, seed):
    given_weight = np.array(weight)
    made = exactly_summed(given_weight, np.zeros(len(weight), int), len(weight))
    assert (made == made.astype(np.float32)).all()
    order = np.random.default_rng(seed).permutation(len(weight))
    forwards, mixed = 0.0, 0.0
    for value in made:
        forwards += value
    for value in made[order]:
        mixed += value
    assert forwards == mixed == math.fsum(made)
    most = np.abs(given_weight).max()
    assert np.abs(made - given_weight.astype(np.float32)).max() <= most * len(weight) * 2.0**-51


def test_each_target_has_a_unit_of_its_own():
    """Small sums are not rounded by what large ones beside them need."""
    weight = np.array([1e20, 1e20, 3e-9, 5e-9])
    made = exactly_summed(weight, np.array([0, 0, 1, 1]), 2)
    assert made.tolist() == weight.astype(np.float32).astype(float).tolist()


def test_what_follows_a_leaf_that_is_no_float_is_not_taken_apart():
    with pytest.raises(Unconvertible, match="leaves"):
        exactly_summed(np.array([1e300]), np.array([0]), 1)


def test_an_archive_without_the_graph_in_one_piece_is_read_as_before(bundle, cancer, engine):
    arrays = arrays_of(program_file(bundle))
    del arrays["whole"]
    file = io.BytesIO()
    np.savez(file, **arrays)
    rows = {"input": cancer[0][:50].astype(np.float32)}
    old, new = opened(bundle, file.getvalue(), engine), bundle.program(engine)
    assert are_same_bits(old.run(rows), new.run(rows))


def test_a_graph_in_one_piece_that_reads_something_else_is_refused(bundle, engine):
    arrays = arrays_of(program_file(bundle))
    data = changed(program_file(bundle), whole=arrays["after"])
    with pytest.raises(Untrusted, match=r"trees\.npz"):
        opened(bundle, data, engine)


def few_of(bundle, program):
    return program._engine.few_row_trees // len(arrays_of(program_file(bundle))["roots"])


def test_a_row_has_the_same_bits_on_either_side_of_the_size_where_the_way_changes(
    bundle, cancer, engine
):
    program = bundle.program(engine)
    few = few_of(bundle, program)
    rows = np.resize(cancer[0].astype(np.float32), (few + 1, 30))
    below, at = program.run({"input": rows[: few - 1]}), program.run({"input": rows[:few]})
    assert are_same_bits(below, {name: value[: few - 1] for name, value in at.items()})


def test_few_rows_never_enter_the_engine_and_many_do(bundle, engine, monkeypatch):
    program = opened(bundle, program_file(bundle), engine)
    few = few_of(bundle, program)
    entered = []
    sums = program._engine.sums
    monkeypatch.setattr(
        type(program._engine), "sums", lambda self, x: entered.append(len(x)) or sums(x)
    )
    program.run({"input": np.zeros((few - 1, 30), np.float32)})
    assert entered == []
    program.run({"input": np.zeros((few, 30), np.float32)})
    assert entered == [few]


# -- machine code --


def walked(trees, row):
    """The sums of a row, by walking down each tree as the archive says."""
    sums = np.zeros(len(trees.by_target))
    arrays = trees.arrays
    threshold = arrays.get("double_threshold", arrays.get("threshold"))
    for target, own in enumerate(trees.by_target):
        for nodes in own:
            place = 0
            while not nodes[place].is_leaf:
                test = nodes[place].number
                value = row[arrays["feature"][test]]
                holds = (
                    bool(arrays["missing"][test]) if np.isnan(value) else value <= threshold[test]
                )
                (place,) = [
                    at for at, n in enumerate(nodes) if n.parent == place and n.holds == holds
                ]
            sums[target] += arrays["weight"][nodes[place].number]
    return sums


@st.composite
def forests(draw):
    """Trees of any shape: lopsided, of one leaf, of as many as one word holds, and of one more."""
    columns = draw(st.integers(1, 5))
    targets = draw(st.integers(1, 3))
    are_floats = draw(st.booleans())
    kind = np.float32 if are_floats else np.float64
    feature, threshold, missing, weight = [], [], [], []
    by_target = [[] for _ in range(targets)]
    values = st.floats(-4, 4, width=16)
    for _ in range(draw(st.integers(1, 6))):
        nodes = [Node(-1, True, -1, False)]
        for _ in range(draw(st.sampled_from([0, 1, 2, 5, 31, 32, 63, 64, 90]))):
            leaves = [at for at, node in enumerate(nodes) if node.is_leaf]
            at = leaves[draw(st.integers(0, len(leaves) - 1))]
            nodes[at] = replace(nodes[at], number=len(feature), is_leaf=False)
            feature.append(draw(st.integers(0, columns - 1)))
            threshold.append(draw(values))
            missing.append(draw(st.integers(0, 1)))
            nodes += [Node(-1, True, at, True), Node(-1, True, at, False)]
        for at, node in enumerate(nodes):
            if node.is_leaf:
                nodes[at] = replace(node, number=len(weight))
                weight.append(float(len(weight) + 1))
        by_target[draw(st.integers(0, targets - 1))].append(nodes)
    arrays = {
        "feature": np.array(feature, np.int32),
        "threshold": np.array(threshold, np.float32),
        "missing": np.array(missing, np.int32),
        "weight": np.array(weight),
    }
    trees = Trees(arrays, columns, by_target, are_floats, "trees.npz")
    rows = draw(
        st.lists(
            st.lists(values | st.just(np.nan), min_size=columns, max_size=columns),
            min_size=1,
            max_size=35,
        )
    )
    return trees, np.array(rows, kind)


@settings(max_examples=examples(60), deadline=None)
@given(forests())
def test_machine_code_takes_every_row_down_every_tree(made):
    trees, rows = made
    for threads in (1, 3):
        sums = llvm._Llvm(trees, threads).sums(rows)
        assert sums.tolist() == [walked(trees, row).tolist() for row in rows]


def test_threads_share_the_rows_of_a_large_batch(bundle, cancer):
    entry = bundle.manifest.program("llvm")
    one, three = (
        open_kind(entry, program_file(bundle), outputs=bundle.signature.outputs, threads=threads)
        for threads in (1, 3)
    )
    rows = {"input": np.resize(cancer[0].astype(np.float32), (3 * 4_096 + 5, 30))}
    assert are_same_bits(one.run(rows), three.run(rows))


def test_calls_from_many_threads_do_not_meet(bundle, cancer):
    program = bundle.program("llvm").both_ways()[0]
    parts = [cancer[0][start : start + 40].astype(np.float32) for start in range(0, 500, 40)]
    alone = [program.run({"input": part}) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            together = list(pool.map(lambda part: program.run({"input": part}), parts))
            assert all(map(are_same_bits, alone, together))


@pytest.mark.parametrize("leaves", first_of([64, 65, 512, 513, 900]))
def test_trees_with_more_leaves_than_a_word_has_bits_are_cut_and_in_very_large_ones_rows_walk(
    pack, leaves
):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3_000, 6))
    model = DecisionTreeRegressor(max_leaf_nodes=leaves, random_state=0)
    model.fit(X, rng.normal(size=len(X)))
    assert model.get_n_leaves() == leaves
    bundle = pack(model, X)
    found = answers(bundle, {"input": X.astype(bundle_dtype(bundle))})
    np.testing.assert_allclose(found["prediction"], model.predict(X), rtol=1e-6)
    assert bundle.parities["llvm"].passed
    engine = bundle.program("llvm")._engine
    assert (engine._code == "walk.ll") == (leaves > 512)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 8_191, 8_192, 8_193])
@pytest.mark.parametrize("made_of", first_of(["bundle", "classes", "missing"]))
def test_rows_that_walk_are_answered_with_the_same_bits(request, made_of, rows, monkeypatch):
    """Missing values among them, with several targets, and with thresholds in doubles."""
    bundle = request.getfixturevalue(made_of)
    crossed_out = bundle.program("llvm")._engine
    monkeypatch.setattr(llvm, "_cut", lambda nodes: None)
    walks = opened(bundle, program_file(bundle), "llvm")._engine
    assert (crossed_out._code, walks._code) == ("trees.ll", "walk.ll")
    arrays = arrays_of(program_file(bundle))
    random = np.random.default_rng(0)
    tested = arrays.get("threshold", arrays.get("double_threshold"))
    features = random.choice(tested, (rows, int(arrays["columns"][0])))  # on the thresholds
    features += random.choice([0.0, 1e-3, -1e-3, np.inf, -np.inf, np.nan], features.shape)
    assert walks.sums(features).tobytes() == crossed_out.sums(features).tobytes()


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    X, y = load_iris(return_X_y=True)
    model = GradientBoostingClassifier(**SMALL).fit(X, y)
    to = tmp_path_factory.mktemp("classes") / "bundle"
    return bascule.pack(model, name="gb", train=X, to=to, **QUICK)


@pytest.fixture(scope="module")
def missing(tmp_path_factory, cancer):
    X = with_gaps(cancer[0])
    model = HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=15).fit(X, cancer[1])
    to = tmp_path_factory.mktemp("missing") / "bundle"
    return bascule.pack(model, name="hist", train=X, to=to, **QUICK)


def test_in_a_tree_that_is_deeper_than_a_word_has_bits_rows_walk():
    """Seventy tests in a row, each with a leaf beside it."""
    nodes = [Node(0, False, -1, False)]
    for number in range(1, 71):
        above = len(nodes) - 1
        nodes += [Node(number, True, above, True), Node(number, number == 70, above, False)]
    assert llvm._cut(nodes) is None


def test_in_a_tree_that_would_take_many_times_its_memory_in_pieces_rows_walk():
    """Sixty tests in a row, each with a small tree beside it: made by nobody who learns trees."""
    nodes = [Node(0, False, -1, False)]
    spine = 0
    for _ in range(58):
        beside = len(nodes)
        nodes.append(Node(0, False, spine, True))
        for place in range(beside, beside + 7):  # eight leaves
            is_leaf = place >= beside + 3
            nodes += [Node(0, is_leaf, place, True), Node(0, is_leaf, place, False)]
        nodes.append(Node(0, False, spine, False))
        spine = len(nodes) - 1
    nodes += [Node(0, True, spine, True), Node(0, True, spine, False)]
    assert llvm._cut(nodes) is None


def test_llvm_takes_no_memory_for_its_own_code_once_it_has_made_ours(bundle):
    """It is 40 MB in every worker."""
    probe = f"""
import bascule
bascule.load({str(bundle.path)!r}).program("llvm")
taken_kb, is_code = 0, False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        is_code = "libllvmlite" in line and " r-xp " in line
    elif is_code and line.startswith("Rss:"):
        taken_kb += int(line.split()[1])
print(taken_kb)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000


def test_where_no_code_may_be_made_the_other_programs_serve(bundle):
    """LLVM would end the process. The kernel is asked to forbid it, as systemd does."""
    probe = f"""
import ctypes
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    raise SystemExit(77)
import bascule
from bascule.bundle.opening import pinned_program
from bascule.core.errors import MissingExtra
bundle = bascule.load({str(bundle.path)!r})
assert pinned_program(bundle.path, bundle.manifest) == "onnx"
try:
    bundle.program("llvm")
except MissingExtra as refused:
    print(refused.message)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if done.returncode == 77:
        skip("mdwe")
    assert done.returncode == 0, done.stderr
    assert "the system forbids that" in done.stdout


def test_very_many_targets_take_no_memory(bundle, engine):
    """The graph behind the trees says how many there are, and is only believed so far."""
    arrays = arrays_of(program_file(bundle))
    after = onnx.load_from_string(arrays["after"].tobytes())
    after.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 30
    made = np.frombuffer(after.SerializeToString(), np.uint8)
    with pytest.raises(Untrusted, match=r"trees\.npz"):
        opened(bundle, changed(program_file(bundle), after=made), engine)


# -- the graph of trees --

THRESHOLDS = np.array([0.0, -0.0, 0.1, np.float32(0.1), 2**24 + 1, 5e-324, 1e300, np.inf, -np.inf])


def any_tree(random, columns, targets, depth):
    """A tree of any shape; one of depth 0 is a single leaf."""
    nodes = []

    def grow(depth):
        at = len(nodes)
        nodes.append([-1, -1, 0, 0.0, False, random.integers(-9, 9, len(targets))])
        if depth and random.random() < 0.7:
            feature, threshold = random.integers(columns), random.choice(THRESHOLDS)
            left, right = grow(depth - 1), grow(depth - 1)
            nodes[at][:5] = left, right, feature, threshold, random.random() < 0.5
        return at

    grow(depth)
    return Tree(*(np.array(column) for column in zip(*nodes, strict=True)), targets)


def walked_down(tree, row):
    at = 0
    while tree.left[at] >= 0:
        value = row[tree.feature[at]]
        holds = tree.missing_left[at] if np.isnan(value) else value <= tree.threshold[at]
        at = tree.left[at] if holds else tree.right[at]
    return tree.values[at]


@pytest.mark.parametrize("seed", first_of(range(40), 8))
def test_a_graph_adds_up_the_leaves_that_rows_reach_in_trees_of_any_shape(seed):
    """Single leaves among them, in front of other trees and behind, with one target or several."""
    random = np.random.default_rng(seed)
    columns, targets, count = (
        random.integers(1, 5),
        random.integers(1, 4),
        [2, 3, 10, 101][seed % 4],
    )
    own = [tuple(range(targets)) if seed % 2 else (random.integers(targets),) for _ in range(count)]
    made = [any_tree(random, columns, targets, random.integers(4)) for targets in own]
    beside = [np.nextafter(THRESHOLDS, side) for side in (np.inf, -np.inf)]
    rows = random.choice(np.concatenate([THRESHOLDS, *beside, [np.nan]]), (60, columns))
    graph = Graph((Field("x", DType.FP64, (int(columns),)),))
    graph.output(
        sums_in_double(graph, "x", made, int(targets)), Field("sums", DType.FP64, (int(targets),))
    )
    session = open_session(graph.finish(), "the graph")
    expected = np.zeros((len(rows), targets))
    for tree in made:
        expected[:, list(tree.targets)] += [walked_down(tree, row) for row in rows]
    assert session.run(None, {"x": rows})[0].tolist() == expected.tolist()
    assert [session.run(None, {"x": row[None]})[0][0].tolist() for row in rows] == expected.tolist()
