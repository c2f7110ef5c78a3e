"""Rows near edges and beyond: made up by pack, answered by programs as by the originals."""

from __future__ import annotations

from dataclasses import replace

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVR, OneClassSVM
from tests.tiers import first_of

import bascule
from bascule.bundle.statements.parity import Parity
from bascule.core.errors import Invalid, ModelFailed
from bascule.core.fields import DType, Field
from bascule.packing import packing
from bascule.packing.probing import bounded, ordered, unordered
from bascule.packing.statements import adversarial, jumps

X, y = load_diabetes(return_X_y=True)
X = X[:, [0, 2, 3, 4, 5]] * 10 + 3
LARGEST_AS_FLOAT = 3.4028235677973362e38
LARGEST = np.finfo(np.float64).max


def compiled(bundle):
    assert bundle.manifest.serves == "onnx", bundle.parity.reason
    return bundle


def beside(values):
    return np.unique(
        np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])
    )


# -- what was wrong --


@pytest.mark.parametrize("encode", ["ordinal", "onehot", "onehot-dense"])
def test_numbers_beside_the_edges_of_bins_fall_where_scikit_learn_puts_them(pack, encode):
    model = make_pipeline(
        KBinsDiscretizer(5, encode=encode, quantile_method="averaged_inverted_cdf"), Ridge()
    ).fit(X, y)
    bundle = compiled(pack(model, X))
    edges = beside(np.concatenate(model[0].bin_edges_))
    rows = np.tile(X[0], (len(edges) * 5, 1))
    rows[np.arange(len(rows)), np.arange(len(rows)) % 5] = np.repeat(edges, 5)
    np.testing.assert_allclose(bundle.predict(rows)["prediction"], model.predict(rows), rtol=1e-9)
    assert bundle.parity.probed["beside a jump"] > 50


@pytest.mark.parametrize(
    "scaler",
    first_of(
        [MinMaxScaler(), MinMaxScaler(clip=True), StandardScaler(), RobustScaler(), MaxAbsScaler()]
    ),
    ids=repr,
)
def test_floats_are_scaled_as_floats_before_trees(pack, scaler):
    floats = X.astype(np.float32)
    model = make_pipeline(scaler, RandomForestRegressor(20, random_state=0)).fit(floats, y)
    bundle = compiled(pack(model, floats))
    rows = np.random.default_rng(0).uniform(X.min(0), X.max(0), (20_000, 5)).astype(np.float32)
    np.testing.assert_allclose(bundle.predict(rows)["prediction"], model.predict(rows), rtol=1e-6)


@pytest.mark.parametrize("kind", first_of([np.float32, np.float64]))
def test_products_of_columns_are_multiplied_in_the_original_s_order(pack, kind):
    steps = (PolynomialFeatures((2, 3)), RandomForestRegressor(5, random_state=0))
    model = make_pipeline(*steps).fit(X.astype(kind), y)
    assert compiled(pack(model, X.astype(kind))).parity.max_difference == 0


@pytest.mark.parametrize("norm", ["l1", "max"])
def test_rows_too_short_to_be_made_unit_rows_stay_as_they_are(pack, norm):
    model = make_pipeline(Normalizer(norm), Ridge()).fit(X, y)
    bundle = compiled(pack(model, X))
    rows = np.full((1, 5), 1e-17)
    np.testing.assert_allclose(bundle.predict(rows)["prediction"], model.predict(rows), rtol=1e-9)


@pytest.mark.parametrize(
    "model", first_of([SVR(gamma="auto", C=100.0), OneClassSVM(gamma="auto")]), ids=repr
)
def test_kernels_keep_their_digits_near_training_rows_that_are_not_scaled(pack, model):
    random = np.random.default_rng(0)
    wide = random.normal(size=(150, 4)) * [1e6, 1e4, 1.0, 1e2] + [5e6, 0.0, 3.0, 1e3]
    wide[75:] = wide[:75] + random.normal(size=(75, 4)) * 0.5  # neighbours, so kernels are not 0
    model.fit(wide, wide[:, 2])
    bundle = compiled(pack(model, wide))
    near = np.repeat(wide, 4, axis=0) + random.normal(size=(600, 4)) * 0.3
    for rows in (wide, near):
        if isinstance(model, SVR):
            found, expected = bundle.predict(rows)["prediction"], model.predict(rows)
        else:
            found, expected = bundle.predict(rows)["score"], model.decision_function(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_lightgbm_trained_on_whole_numbers_compares_other_numbers_as_doubles(pack):
    random = np.random.default_rng(0)
    whole = random.integers(-50, 50, (400, 3)) * [1, 1, 10**7]
    truth = whole @ [2.0, -1.0, 1e-7]
    model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(whole, truth)
    bundle = compiled(pack(model, whole))
    splits = model.booster_.trees_to_dataframe().dropna(subset="threshold")
    rows = np.repeat(whole[:1].astype(float), 2 * len(splits), axis=0)
    for place, (name, threshold) in enumerate(
        zip(splits.split_feature, splits.threshold.astype(float), strict=True)
    ):
        column = int(name.removeprefix("Column_"))
        rows[2 * place, column] = np.nextafter(threshold, np.inf)
        rows[2 * place + 1, column] = np.nextafter(threshold, -np.inf)
    for asked in (rows, whole):
        found = bundle.predict(asked)["prediction"]
        np.testing.assert_allclose(found, model.predict(asked), rtol=1e-5, atol=1e-5)


# -- what the original refuses --


class Embedding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(12, 3)

    def forward(self, word):
        return self.table(word).sum(-1)


@pytest.mark.slow
def test_indexes_that_an_embedding_does_not_have_are_refused(pack):
    words = np.arange(10).repeat(3)
    bundle = compiled(pack(Embedding(), {"word": words}))
    assert bundle.signature.inputs[0].bounds == (0, 11)
    assert bundle.predict({"word": [0, 11]})["output"].shape == (2,)
    for word in (-1, 12):
        with pytest.raises(Invalid, match="that the model refuses: it takes 0 to 11"):
            bundle.predict({"word": [0, word]})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("model", "bounds"),
    [
        (RandomForestRegressor(2), (-LARGEST_AS_FLOAT, LARGEST_AS_FLOAT)),
        (LinearRegression(), (-LARGEST, LARGEST)),
        (HistGradientBoostingRegressor(max_iter=2), None),
        (
            make_pipeline(FunctionTransformer(np.log1p), LinearRegression()),
            (np.nextafter(-1.0, 0.0), LARGEST),
        ),
    ],
    ids=["floats", "doubles", "any", "logarithm"],
)
def test_numbers_that_the_original_refuses_are_refused(pack, model, bounds):
    model.fit(X, y)
    bundle = compiled(pack(model, X))
    assert bundle.signature.inputs[0].bounds == bounds
    rows = np.repeat(X[:1], 2, axis=0)
    for number in (np.inf, -np.inf, 1e39, 1e300, -1.0, *(bounds or ())):
        rows[1, 3] = number
        try:
            expected = model.predict(rows)
        except ValueError:
            with pytest.raises(Invalid, match="in row 1 that the model refuses"):
                bundle.predict(rows)
            continue
        np.testing.assert_allclose(bundle.predict(rows)["prediction"], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", first_of([np.int64, np.int32]))
@pytest.mark.parametrize(
    ("step", "low"),
    first_of(
        [
            (FunctionTransformer(np.log1p), np.nextafter(-1.0, 0.0)),
            (FunctionTransformer(np.sqrt), 0.0),
            (PowerTransformer("box-cox"), 5e-324),
        ]
    ),
    ids=["log1p", "sqrt", "box-cox"],
)
def test_counts_behind_an_imputer_have_the_ends_of_doubles(pack, step, low, dtype):
    """A count that may be missing is a double: the largest is none of the whole type's numbers."""
    counts = np.random.default_rng(0).integers(1, 2_000, (200, 2)).astype(dtype)
    model = make_pipeline(SimpleImputer(), step, LinearRegression())
    table = pd.DataFrame(counts, columns=["seats", "stops"])
    bundle = compiled(pack(model.fit(table, counts[:, 0]), table))
    assert {field.bounds for field in bundle.signature.inputs} == {(low, LARGEST)}
    np.testing.assert_allclose(bundle.predict(table)["prediction"], model.predict(table))


def test_bounds_of_columns_are_those_of_each():
    """One column is dropped by the model, so it may hold anything; one must be in [2, 7]."""

    def ask(columns):
        if not np.isfinite(columns["a"]).all():
            raise ValueError("infinite")
        if not ((columns["c"] >= 2) & (columns["c"] <= 7)).all():
            raise ValueError("no such category")
        return columns["a"]

    columns = {"a": np.arange(5.0), "b": np.arange(5.0), "c": np.array([3, 4, 3, 5, 4])}
    fields = (Field("a", DType.FP64), Field("b", DType.FP64), Field("c", DType.INT64))
    found = [field.bounds for field in bounded(fields, columns, ask)]
    assert found == [(-LARGEST, LARGEST), None, (2, 7)]


def test_bounds_survive_the_manifest_and_an_older_manifest_has_none(pack):
    bundle = pack(LinearRegression().fit(X, y), X)
    assert bascule.load(bundle.path).signature.inputs[0].bounds == (-LARGEST, LARGEST)
    assert "bounds" not in Field("x", DType.FP64).to_json()


# -- what is made up --


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_in_order_are_neighbours_where_their_places_differ_by_one(kind):
    values = np.array([-np.inf, -1.5, -1e-7, -0.0, 0.0, 1e-7, 2.0, np.inf], kind)
    places = ordered(values)
    assert (np.diff(places) >= 0).all()
    assert unordered(places, np.dtype(kind)).tolist() == values.tolist()
    above = ordered(np.nextafter(values[1:-1], kind(np.inf)))
    assert (above - places[1:-1]).tolist() == [1] * 6


class Steps:
    """A program and an original in one: a number is compared with a few thresholds."""

    name = "steps"
    inputs = (Field("x", DType.FP64),)
    outputs = (Field("prediction", DType.FP64),)

    def __init__(self, thresholds, side="right"):
        self.thresholds, self.side = thresholds, side

    def run(self, columns, outputs=None):
        if not (np.abs(columns["x"]) < 1e200).all():
            raise ModelFailed("too large")
        return {"prediction": 1.0 + np.searchsorted(self.thresholds, columns["x"], self.side)}


THRESHOLDS = np.array([0.1, 0.25, 0.7, 1 / 3])
THRESHOLDS.sort()
ROWS = {"x": np.random.default_rng(0).random(100)}


def test_jumps_are_found_to_the_last_bit():
    found = jumps.find(Steps(THRESHOLDS), Steps.inputs, ROWS)
    assert sorted(unordered(found.high, np.dtype(float))) == THRESHOLDS.tolist()
    assert (found.high - found.low).tolist() == [1] * 4
    sides = set(found.beside().columns["x"])
    assert {*THRESHOLDS, *np.nextafter(THRESHOLDS, -1), *np.nextafter(THRESHOLDS, 2)} <= sides


def test_a_line_has_no_jumps():
    class Line(Steps):
        def run(self, columns, outputs=None):
            return {"prediction": columns["x"] * 3 + 1}

    assert jumps.find(Line(()), Steps.inputs, ROWS) is None


def judged(program, original):
    """The parity of one program of steps with another, by all that pack does."""
    request = packing.Request("m", 1e-5, True, True, False)
    real = adversarial.ComparedRows(ROWS, original.run(ROWS))
    on = real.joined(original, adversarial.made_up(Steps.inputs, ROWS, huge=True))
    found = jumps.find(program, Steps.inputs, ROWS)
    on = on.joined(original, found.beside())
    made, _ = packing._judged(original, program, on, "float64", request)
    return found.judged(original, made) if made.passed else made


def test_thresholds_that_are_all_off_by_one_number_are_no_rounding():
    made = judged(Steps(THRESHOLDS, "left"), Steps(THRESHOLDS, "right"))
    assert not made.passed
    assert "compares x otherwise than the original: at 4 thresholds" in made.reason


@pytest.mark.parametrize(("off", "passed"), [(1e-12, True), (1e-8, False)])
def test_a_threshold_that_is_off_by_rounding_is_a_tie_and_one_further_off_is_not(off, passed):
    moved = THRESHOLDS + np.array([off, 0, -off, 0])
    made = judged(Steps(moved), Steps(THRESHOLDS))
    assert made.passed is passed
    assert ("tied by rounding" in made.probed) is passed


def test_what_the_original_refuses_is_counted_and_left_out():
    made = judged(Steps(THRESHOLDS), Steps(THRESHOLDS))
    assert made.passed
    assert made.probed["refused"] >= 4
    assert made.rows == 100 + made.probes
    assert made.probes == sum(made.probed.values()) - made.probed["refused"]


def test_made_up_rows_are_the_same_every_time_and_within_bounds():
    fields = (Field("x", DType.FP64, bounds=(-5.0, 5.0)), Field("k", DType.INT32, bounds=(0, 9)))
    rows = {**ROWS, "k": np.arange(100, dtype=np.int32) % 10}
    one, other = (adversarial.made_up(fields, rows, huge=True) for _ in range(2))
    for name in rows:
        assert one.columns[name].tobytes() == other.columns[name].tobytes()
        assert one.columns[name].dtype == rows[name].dtype
    assert np.abs(one.columns["x"]).max() == 5.0
    assert (one.columns["k"].min(), one.columns["k"].max()) == (0, 9)
    assert {5e-324, 0.0, 5.0, -5.0} <= set(one.columns["x"])
    free = adversarial.made_up((replace(fields[0], bounds=None),), ROWS, huge=True).columns["x"]
    assert {1e300, -1e39, np.inf, 2.0**24 + 1} <= set(free)


def test_a_statement_counts_what_was_made_up_and_one_without_counts_is_read(pack):
    bundle = pack(LinearRegression().fit(X, y), X)
    body = bundle.parity.to_json()
    assert set(body["probed"]) >= {"near a row", "extreme", "combined"}
    assert Parity.from_json(body) == bundle.parity
    del body["probed"]
    assert Parity.from_json(body).probed == {}
