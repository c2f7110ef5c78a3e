from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    SplineTransformer,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from tests.tiers import first_of

import bascule
from bascule.bundle.choosing import Roles
from bascule.bundle.disk.examples import columns_of
from bascule.core import duration_words
from bascule.core.errors import Conflict, Invalid, NotFound, Unconvertible
from bascule.core.fields import DType
from bascule.packing.flavors.sklearn import Sklearn


class Doubling(TransformerMixin, BaseEstimator):
    """A transformer of the user's own."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return np.asarray(X) * 2


# -- the whole way -------------------------------------------------------------------------------


def test_a_packed_model_answers_as_the_fitted_one(pack, boosted, cancer):
    X, y = cancer
    bundle = pack(boosted, X, (X, y), name="gb")

    answer = bascule.load(bundle.path).predict(X)

    assert np.asarray(answer).tolist() == boosted.predict(X).tolist()
    assert np.abs(answer["probabilities"] - boosted.predict_proba(X)).max() < 1e-6
    assert bundle.manifest.programs[0].batch_invariant
    assert bundle.manifest.programs[0].inputs[0].dtype is DType.FP32
    (field,) = bundle.signature.inputs
    assert (field.name, field.dtype, field.shape) == ("input", DType.FP64, (30,))
    assert not field.nullable
    assert [field.name for field in bundle.signature.outputs] == ["label", "probabilities"]


def test_a_bundle_holds_its_held_out_rows_with_their_truth(pack, flights):
    table, late = flights
    model = _flight_model().fit(table, late)
    bundle = pack(model, table, (table.iloc[:50], late[:50]))

    columns, truth = bundle.test_data()

    assert truth.tolist() == late[:50].tolist()
    assert columns["airport"].tolist() == [
        None if pd.isna(value) else value for value in table.airport[:50]
    ]
    np.testing.assert_array_equal(columns["wind"], table.wind[:50])
    assert bundle.predict(columns)["label"].tolist() == model.predict(table[:50]).tolist()


def test_held_out_rows_can_be_left_out(pack, boosted, cancer):
    bundle = pack(boosted, cancer[0], cancer, keep_test=False)
    assert bundle.test_data() is None
    assert bundle.parity.rows - bundle.parity.probes == 569


def test_the_example_is_real_rows_that_the_program_takes(pack, flights):
    table, late = flights
    bundle = pack(_flight_model().fit(table, late), table)
    body = (bundle.path / "data/example.json").read_bytes()
    program = bundle.program()

    answer = program.run(columns_of(body, program.inputs))

    assert len(answer["label"]) == 4
    parts = {part["name"]: part for part in json.loads(body)["inputs"]}
    assert parts["carrier"]["data"] == table.carrier[:4].tolist()


def test_statements_name_the_digest_and_say_what_was_measured(pack, boosted, cancer):
    bundle = pack(
        boosted, cancer, cancer, author="ada", metrics={"auc": np.float64(0.99)}, description="Lump"
    )
    said = {statement.kind: statement for statement in bundle.statements()}
    assert set(said) == {"parity", "provenance", "calibration", "training"}
    assert {statement.subject for statement in said.values()} == {bundle.digest}
    assert {statement.by for statement in said.values()} == {"ada"}
    assert said["provenance"].body["metrics"] == {"auc": 0.99}
    assert said["provenance"].body["train"]["rows"] == 569
    assert said["provenance"].body["model_parameters"]["n_estimators"] == "10"
    card = (bundle.path / "card.md").read_text()
    assert bundle.digest in card
    assert "Lump" in card


def test_progress_tells_the_stages_in_order(pack, boosted, cancer):
    stages: list[str] = []
    pack(boosted, cancer[0], cancer, progress=stages.append)
    assert stages[0] == "read a sklearn classification model of 30 columns"
    assert stages[1] == "compiled to ONNX in float32"
    assert stages[2].startswith("answers differ from the original by at most ")
    assert stages[-1].startswith("sealed as sha256:")


@pytest.mark.serial
def test_a_candidate_is_compiled_once_for_the_graph_and_for_machine_code(
    pack, boosted, cancer, monkeypatch
):
    compiled = []
    compile_all = Sklearn.compilations

    def counted(*asked):
        for one in compile_all(*asked):
            compiled.append(one.precision)
            yield one

    monkeypatch.setattr(Sklearn, "compilations", counted)
    X, y = cancer
    bundle = pack(boosted, X, (X, y))
    assert [entry.name for entry in bundle.manifest.programs] == ["onnx", "llvm"]
    assert compiled == ["float32", "float64"]


def test_cost_is_measured_for_program_and_original_in_a_fresh_process(pack, boosted, cancer):
    bundle = pack(boosted, cancer[0], measure=True)
    measured = bundle.cost
    assert set(measured.latency_us) == {"onnx", "llvm", "original"}
    assert list(measured.latency_us["onnx"]) == [1, 8, 64, 512, 8192, 65536]
    assert measured.latency_us["onnx"][1] < measured.latency_us["original"][1]
    assert 20e6 < measured.peak_memory_bytes < 200e6
    assert measured.size_bytes == bundle.manifest.size_bytes
    card = (bundle.path / "card.md").read_text()
    assert f"| onnx | {duration_words(measured.latency_us['onnx'][1] * 1e-6)} |" in card


def test_without_measuring_there_is_no_cost_and_the_first_program_answers(
    pack, boosted, cancer, say_of_cost
):
    bundle = pack(boosted, cancer[0])
    assert bundle.cost is None
    assert bundle.statements("cost") == []
    assert "## Cost" not in (bundle.path / "card.md").read_text()
    assert bundle.roles() == Roles("onnx", ((1, "onnx"),))
    assert bundle.program().name == "onnx"
    assert bundle.predict(cancer[0]).program == "onnx"

    say_of_cost(bundle, onnx={"1": 9.0}, llvm={"1": 1.0})
    assert bundle.predict(cancer[0]).program == "llvm"


# -- signatures ----------------------------------------------------------------------------------


def _flight_model():
    return make_pipeline(
        ColumnTransformer(
            [
                ("n", SimpleImputer(), ["wind"]),
                ("p", "passthrough", ["gust", "hour", "rain"]),
                ("c", OneHotEncoder(), ["carrier"]),
                ("u", OneHotEncoder(handle_unknown="ignore"), ["airport"]),
            ]
        ),
        LogisticRegression(max_iter=2000),
    )


@pytest.mark.parametrize("kind", first_of(["pandas", "polars", "arrow", "dict"], 2))
def test_every_kind_of_table_gives_the_same_signature(pack, flights, kind):
    table, late = flights
    table = table.drop(columns="plane")
    given = {
        "pandas": lambda: table,
        "polars": lambda: pl.from_pandas(table),
        "arrow": lambda: pa.Table.from_pandas(table),
        "dict": lambda: {name: table[name].to_numpy() for name in table.columns},
    }[kind]()
    fitted_on = given if kind == "polars" else table
    bundle = pack(_flight_model().fit(fitted_on, late), given, (given, late))

    assert bundle.manifest.serves == "onnx"
    assert [(f.name, f.dtype.value, f.nullable, f.categories) for f in bundle.signature.inputs] == [
        ("carrier", "BYTES", False, ("AA", "BB", "CC", "DD")),
        ("airport", "BYTES", True, None),
        ("hour", "INT64", False, None),
        ("wind", "FP64", True, None),
        ("gust", "FP64", False, None),
        ("rain", "BOOL", False, None),
    ]
    assert bundle.predict(given)["label"].tolist() == bundle.predict(table)["label"].tolist()


def test_a_model_fitted_on_numbers_and_packed_with_a_table_knows_the_names(pack, boosted, cancer):
    X, _ = cancer
    table = pd.DataFrame(X, columns=[f"f{i}" for i in range(30)])
    bundle = pack(boosted, table)
    assert bundle.signature.is_matrix
    assert bundle.signature.columns == tuple(table.columns)
    backwards = table[table.columns[::-1]]
    assert bundle.predict(backwards)["label"].tolist() == boosted.predict(X).tolist()


def test_a_table_is_taken_in_the_order_of_fit_whatever_order_it_comes_in(pack, flights):
    table, late = flights
    columns = ["gust", "hour"]
    model = LogisticRegression().fit(table[columns], late)
    bundle = pack(model, table[["hour", "carrier", "gust"]])
    assert [field.name for field in bundle.signature.inputs] == columns


def test_whole_numbers_that_may_be_missing_are_carried_as_doubles(pack, flights):
    table, late = flights
    table = table[["hour"]]
    bundle = pack(make_pipeline(SimpleImputer(), LogisticRegression()).fit(table, late), table)
    (field,) = bundle.signature.inputs
    assert (field.dtype, field.nullable) == (DType.FP64, True)


# -- the original --------------------------------------------------------------------------------


def test_a_step_without_a_converter_is_named_and_nothing_is_written(tmp_path, diabetes):
    X, y = diabetes
    model = make_pipeline(SplineTransformer(), LinearRegression()).fit(X, y)
    with pytest.raises(Unconvertible, match="SplineTransformer has no converter") as raised:
        bascule.pack(model, name="m", train=X, to=tmp_path / "m")
    assert "serve_original=True" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_original_is_served_when_that_is_asked_for(pack, diabetes):
    X, y = diabetes
    model = make_pipeline(SplineTransformer(), LinearRegression()).fit(X, y)
    bundle = pack(model, X, (X, y), serve_original=True)
    assert bundle.manifest.serves == "original"
    assert bundle.manifest.programs == ()
    assert "SplineTransformer" in bundle.parity.reason
    assert np.asarray(bundle.predict(X)).tolist() == model.predict(X).tolist()


def test_a_program_that_differs_too_much_is_not_served_and_the_reason_is_kept(pack, cancer):
    """Held to less than the rounding of doubles, every program fails."""
    X, y = cancer
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    bundle = pack(model, X, (X, y), tolerance=1e-300)
    assert bundle.manifest.serves == "original"
    assert not bundle.parity.passed
    assert "more than 1e-300" in bundle.parity.reason
    np.testing.assert_array_equal(bundle.predict(X)["probabilities"], model.predict_proba(X))


def test_the_original_rebuilds_the_types_that_it_was_trained_on(pack, flights):
    table, late = flights
    model = _flight_model().fit(table, late)
    bundle = pack(model, table, (table, late), tolerance=1e-300)
    answer = bundle.original().run(bundle.test_data()[0])
    np.testing.assert_array_equal(answer["probabilities"], model.predict_proba(table))


# -- refusals ------------------------------------------------------------------------------------


def test_a_transformer_of_the_users_own_is_refused_by_name(tmp_path, cancer):
    X, y = cancer
    model = make_pipeline(Doubling(), DecisionTreeClassifier()).fit(X, y)
    with pytest.raises(Invalid, match="Doubling, which is not scikit-learn's own"):
        bascule.pack(model, name="m", train=X, to=tmp_path / "m")


def test_a_function_is_not_trusted_because_it_lives_in_scikit_learn(tmp_path, cancer):
    from sklearn.datasets import load_svmlight_file

    X, y = cancer
    model = make_pipeline(FunctionTransformer(np.abs), DecisionTreeClassifier()).fit(X, y)
    model.steps[0][1].inverse_func = load_svmlight_file
    with pytest.raises(Invalid, match="load_svmlight_file"):
        bascule.pack(model, name="m", train=X, to=tmp_path / "m")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda X, y: ClassifierChain(DecisionTreeClassifier()).fit(X, np.c_[y, y + y[::-1]]),
            "ClassifierChain predicts 2 outputs, and gives their probabilities as one matrix",
        ),
        (lambda X, y: object(), "builtins.object is not a model that Bascule knows"),
    ],
)
def test_what_cannot_be_packed_is_said_in_one_sentence(tmp_path, cancer, model, message):
    X, y = cancer
    with pytest.raises(Invalid, match=message):
        bascule.pack(model(X, y), name="m", train=X, to=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "../up"}, "model name '../up' is not allowed"),
        ({"tolerance": 0.0}, "tolerance 0.0 is not a number above 0"),
        ({"tolerance": float("nan")}, "tolerance nan"),
        ({"train": np.zeros((3, 29))}, "the rows have 29 columns, and the model was trained on 30"),
        ({"train": np.zeros((0, 30))}, "train has no rows"),
        ({"train": (np.zeros((3, 30)), [1, 0])}, "train has 3 rows in X and 2 in y"),
        ({"train": np.zeros(30)}, "train has 1 dimensions"),
        ({"metrics": {"auc": float("nan")}}, "metrics holds a value that JSON has no word for"),
    ],
)
def test_a_bad_argument_is_named(tmp_path, boosted, cancer, settings, message):
    given = {"name": "m", "train": cancer[0], "to": tmp_path / "m", **settings}
    with pytest.raises(Invalid, match=message):
        bascule.pack(boosted, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_when_that_is_asked_for(tmp_path, boosted, cancer):
    place = tmp_path / "m"
    first = bascule.pack(boosted, name="one", train=cancer[0], to=place, measure=False)
    with pytest.raises(Conflict, match="exists already"):
        bascule.pack(boosted, name="two", train=cancer[0], to=place)
    assert bascule.load(place).digest == first.digest
    bascule.pack(boosted, name="two", train=cancer[0], to=place, overwrite=True, measure=False)
    assert bascule.load(place).name == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_is_not_a_bundle_is_never_overwritten(tmp_path, boosted, cancer):
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(Conflict, match="is not a bundle"):
        bascule.pack(boosted, name="m", train=cancer[0], to=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


def test_a_failure_half_way_leaves_the_old_bundle_and_no_draft(
    tmp_path, boosted, cancer, monkeypatch
):
    place = tmp_path / "m"
    first = bascule.pack(boosted, name="one", train=cancer[0], to=place, measure=False)

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("bascule.bundle.card.render", full)
    with pytest.raises(OSError, match="no space"):
        bascule.pack(boosted, name="two", train=cancer[0], to=place, overwrite=True, measure=False)
    assert bascule.load(place).digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_loading_from_nowhere_says_so(tmp_path):
    for place in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFound, match="there is no bundle at"):
            bascule.load(place)


def test_a_manifest_that_does_not_say_how_its_table_was_held_is_not_believed():
    from bascule.bundle.originals.frames import Frame
    from bascule.core.errors import Untrusted

    with pytest.raises(Untrusted, match="how the training table was held"):
        Frame.from_json({"container": "pandas", "dtype": "", "columns": [{"name": "a"}]})


@pytest.mark.parametrize(
    ("dtype", "values", "is_whole"),
    [
        ("uint8", [0.0, 255.0], True),
        ("uint8", [0.0, 256.0], False),
        ("int8", [-129.0], False),
        ("int64", [2.0**63 - 1024, -(2.0**63)], True),
        ("int64", [2.0**63], False),
        ("bool", [0.0, 1.0], True),
        ("bool", [2.0], False),
        ("int64", [0.5], False),
        ("int64", [np.nan], False),
    ],
)
def test_a_number_beyond_its_whole_type_is_not_wrapped_around(dtype, values, is_whole):
    """As in an author's own table, which holds 256 in a wider type, and not as 0."""
    from bascule.bundle.originals.frames import Frame
    from bascule.bundle.tables import Kind

    column = np.array(values)
    table = Frame("pandas", {"a": Kind(dtype)}).build({"a": column})
    matrix = Frame("numpy", {}, dtype).build({"input": column[:, None]})
    for rebuilt in (table["a"], matrix):
        assert (str(rebuilt.dtype) == dtype) is is_whole
        np.testing.assert_array_equal(np.asarray(rebuilt, float).ravel(), column)


def test_a_boolean_that_may_be_missing_is_optional_though_training_has_each(pack):
    table = pd.DataFrame({"flag": pd.array([True, False] * 30, "boolean"), "x": np.arange(60.0)})
    encoder = ColumnTransformer(
        [("flag", OneHotEncoder(handle_unknown="ignore"), ["flag"])], remainder="passthrough"
    )
    model = make_pipeline(encoder, Ridge()).fit(table, table.x)
    bundle = pack(model, table)
    field = bundle.signature.inputs[0]
    assert (field.dtype, field.nullable, field.booleans) == (DType.FP64, True, True)
    asked = pd.DataFrame({"flag": pd.array([True, None], "boolean"), "x": [1.0, 2.0]})
    np.testing.assert_allclose(bundle.predict(asked)["prediction"], model.predict(asked))


@pytest.mark.parametrize("dtype", first_of([object, "boolean"]))
def test_booleans_of_which_some_are_missing_stay_booleans_to_the_model_and_over_json(pack, dtype):
    from bascule.serving.protocols import Decoder

    flags = [True, None, False, True, None, False] * 10
    table = pd.DataFrame({"flag": pd.Series(flags, dtype=dtype), "x": np.arange(60.0)})
    y = np.arange(60.0) + np.array([{True: 5, False: -5, None: 0}[flag] for flag in flags])
    encoder = ColumnTransformer([("flag", OneHotEncoder(), ["flag"])], remainder="passthrough")
    model = make_pipeline(encoder, Ridge(alpha=0.01)).fit(table, y)
    bundle = pack(model, table)
    field = bundle.signature.inputs[0]
    assert (field.dtype, field.nullable, field.booleans) == (DType.FP64, True, True)
    assert bascule.load(bundle.path).signature.inputs[0] == field

    inputs, outputs = bundle.signature.inputs, bundle.signature.outputs
    decode = Decoder().for_fields(inputs, bundle.manifest.served.inputs, outputs, 100)
    for datatype in ("BOOL", "FP64"):
        tensors = [
            {"name": "flag", "datatype": datatype, "shape": [3], "data": [True, None, False]},
            {"name": "x", "datatype": "FP64", "shape": [3], "data": [0.0, 1.0, 2.0]},
        ]
        _, call, _ = decode(json.dumps({"inputs": tensors}).encode())
        answer = bundle.predict(call.columns)["prediction"]
        np.testing.assert_allclose(answer, model.predict(table[:3]))

    from bascule.bundle.originals.frames import Frame

    rebuilt = Frame.from_json(bundle.manifest.original.frame).build(call.columns)["flag"]
    assert str(rebuilt.dtype) == str(table["flag"].dtype)
    assert [value if value is not pd.NA else None for value in rebuilt] == [True, None, False]
    assert type(rebuilt[0]) in (bool, np.bool_)
