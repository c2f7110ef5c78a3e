"""A claim is about what the user calls: the methods that the model resolves, overridden or not."""

from __future__ import annotations

import sys
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoost, CatBoostClassifier, CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from tests.tiers import first_of
from xgboost import Booster, DMatrix, XGBClassifier, XGBRegressor, train as train_xgboost
from xgboost.callback import EarlyStopping

from bascule.bundle.originals.frames import Frame
from bascule.bundle.originals.overrides import own_methods
from bascule.bundle.originals.sklearn import SklearnOriginal
from bascule.core import DType, Field, Invalid, Signature, Unconvertible
from bascule.packing.compilers import compilations

_MADE_UP = ("missing or new", "near a row", "extreme", "combined", "beside a jump")
_QUIET = {"verbose": False, "allow_writing_files": False, "thread_count": 1, "random_seed": 0}


def _cautious(model, X):
    return (model.predict_proba(X)[:, 1] > 0.9).astype(int)


class CautiousXGB(XGBClassifier):
    def predict(self, X, **_):
        return _cautious(self, X)


class CautiousLGBM(LGBMClassifier):
    def predict(self, X, **_):
        return _cautious(self, X)


class CautiousCatBoost(CatBoostClassifier):
    def predict(self, X, **_):
        return _cautious(self, X)


class RareXGB(XGBClassifier):
    """Answers otherwise about rows that no sample is likely to hold."""

    def predict_proba(self, X, **_):
        return np.where(np.asarray(X)[:, :1] > 1e4, 0.5, super().predict_proba(X))


class DoublingXGB(XGBRegressor):
    def predict(self, X, **_):
        return 2 * super().predict(X)


class DoublingLGBM(LGBMRegressor):
    def predict(self, X, **_):
        return 2 * super().predict(X)


class DoublingCatBoost(CatBoostRegressor):
    def predict(self, X, **_):
        return 2 * super().predict(X)


class HalvingBooster(Booster):
    def predict(self, data, **_):
        return super().predict(data) / 2


class OtherTraining(XGBClassifier):
    def fit(self, X, y, **_):
        return super().fit(X, 1 - y)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (CautiousXGB(n_estimators=5), "predict"),
        (CautiousLGBM(n_estimators=5, verbose=-1), "predict"),
        (CautiousCatBoost(iterations=5, **_QUIET), "predict"),
        (RareXGB(n_estimators=5), "predict_proba"),
        (DoublingXGB(n_estimators=5), "predict"),
        (DoublingLGBM(n_estimators=5, verbose=-1), "predict"),
        (DoublingCatBoost(iterations=5, **_QUIET), "predict"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize(
    "container", first_of([None, np.asarray, pd.DataFrame]), ids=["dict", "array", "df"]
)
def test_a_method_of_the_author_s_is_refused_in_what_the_library_saves(
    pack, cancer, model, method, container
):
    X, y = cancer
    rows = X[:300] if container is None else container(X[:300])
    model.fit(pd.DataFrame(rows, columns=[f"c{i}" for i in range(30)]) if container is None else
              rows, y[:300])  # fmt: skip
    if container is None:
        rows = {f"c{i}": X[:300, i] for i in range(30)}

    with pytest.raises(Invalid, match=f"{type(model).__name__} has its own {method}") as refused:
        pack(model, (rows, y[:300]))

    assert "code=" in refused.value.hint


def test_a_method_that_is_set_on_the_object_is_refused(pack, cancer):
    model = XGBClassifier(n_estimators=5).fit(*cancer)
    model.predict = lambda X: np.zeros(len(X), int)

    with pytest.raises(Invalid, match="XGBClassifier has its own predict"):
        pack(model, cancer)


def test_a_function_that_is_put_into_the_library_s_class_is_its_author_s(monkeypatch):
    assert own_methods(XGBClassifier(), ("xgboost", "sklearn")) == []
    monkeypatch.setattr(XGBClassifier, "predict", lambda _, X: np.zeros(len(X), int))
    assert own_methods(XGBClassifier(), ("xgboost", "sklearn")) == ["predict"]


def test_a_native_booster_with_its_own_predict_is_refused(pack, cancer):
    X, y = cancer
    plain = train_xgboost({"objective": "binary:logistic"}, DMatrix(X, y), 5)
    model = HalvingBooster()
    model.load_model(plain.save_raw())

    with pytest.raises(Invalid, match="HalvingBooster has its own predict"):
        pack(model, cancer)


def test_what_only_trains_otherwise_is_the_library_s(pack, cancer):
    X, y = cancer
    model = OtherTraining(n_estimators=5).fit(X, y)

    bundle = pack(model, (X, y))

    assert own_methods(model, ("xgboost", "sklearn")) == []
    assert (bundle.predict(X)["label"] == model.predict(X)).all()
    assert bundle.manifest.serves == "onnx"


@pytest.mark.parametrize("threshold", first_of([0.9, 0.05, 0.50001]))
@pytest.mark.parametrize("labels", first_of([np.array(["ham", "spam"]), np.array([0, 1])]))
def test_the_threshold_of_catboost_is_the_bundle_s(pack, cancer, threshold, labels):
    X, y = cancer
    model = CatBoostClassifier(iterations=5, **_QUIET).fit(X[:300], labels[y[:300]])
    model.set_probability_threshold(threshold)

    bundle = pack(model, (X[:300], labels[y[:300]]))

    assert bundle.predict(X)["label"].tolist() == model.predict(X).tolist()
    assert bundle.manifest.serves == "onnx"
    own = bundle.program("original").run({"input": X.astype(np.float32)})
    assert own["label"].tolist() == model.predict(X).tolist()


def test_the_threshold_of_catboost_holds_in_its_base_class(pack, cancer):
    X, y = cancer
    model = CatBoostClassifier(iterations=5, **_QUIET).fit(X, y)
    model.set_probability_threshold(0.8)
    data = model._serialize_model()
    base = CatBoost().load_model(blob=data)

    bundle = pack(base, (X, y))

    assert (bundle.predict(X)["label"] == base.predict(X, prediction_type="Class")).all()
    assert (bundle.predict(X)["label"] == model.predict(X)).all()


@pytest.mark.parametrize(
    "way", first_of(["parameter", "unset afterwards", "callback", "attribute"], 2)
)
def test_the_rounds_of_xgboost_are_those_that_predict_uses(pack, cancer, way):
    X, y = cancer
    settings = {"n_estimators": 60}
    if way in ("parameter", "unset afterwards"):
        settings["early_stopping_rounds"] = 2
    elif way == "callback":
        settings["callbacks"] = [EarlyStopping(rounds=2)]
    model = XGBClassifier(**settings)
    model.fit(X[:200], y[:200], eval_set=[(X[200:400], y[200:400])], verbose=False)
    if way == "attribute":
        model.get_booster().set_attr(best_iteration="3")
    if way == "unset afterwards":
        model.set_params(early_stopping_rounds=None)

    bundle = pack(model, (X[:200], y[:200]), (X[200:], y[200:]))

    found, expected = bundle.predict(X)["probabilities"], model.predict_proba(X)
    assert np.abs(found - expected).max() < 1e-6
    assert bundle.manifest.serves == "onnx"


@pytest.mark.parametrize("container", [dict, pd.DataFrame])
def test_a_parameter_that_changes_how_lightgbm_predicts_is_refused(pack, cancer, container):
    """Also where the rows come in a container that the model does not take."""
    X, y = cancer
    rows = container({f"c{i}": X[:, i] for i in range(30)})
    model = LGBMClassifier(
        n_estimators=30,
        verbose=-1,
        pred_early_stop=True,
        pred_early_stop_freq=1,
        pred_early_stop_margin=0.5,
    ).fit(pd.DataFrame(rows), y)

    with pytest.raises(Invalid, match="answers otherwise than what lightgbm-text keeps of it"):
        pack(model, (rows, y))


@pytest.mark.parametrize("count", [2, 3])
def test_a_native_booster_that_answers_labels_is_compared_by_its_labels(pack, iris, count):
    X, y = iris[0][iris[1] < count], iris[1][iris[1] < count]
    model = train_xgboost({"objective": "multi:softmax", "num_class": count}, DMatrix(X, y), 5)

    bundle = pack(model, (X, y))

    assert (bundle.predict(X)["label"] == model.predict(DMatrix(X))).all()
    assert bundle.manifest.serves == "onnx"


@pytest.mark.parametrize("missing", [False, True])
def test_a_whole_category_that_xgboost_never_saw_is_refused(pack, missing):
    """XGBoost 3.2 takes a number between two listed ones for the next one, and refuses others."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 3, 300)
    known = pd.CategoricalDtype([3, 5, 9])
    values = [3, 5, 9]
    column = pd.Series([None if missing and i % 7 == 0 else values[c] for i, c in enumerate(codes)])
    table = pd.DataFrame({"c": column.astype(known), "x": random.normal(size=300)})
    model = XGBClassifier(n_estimators=5, enable_categorical=True).fit(table, codes == 1)

    bundle = pack(model, (table, (codes == 1).astype(int)))

    found = bundle.predict(table)["probabilities"]
    assert np.abs(found - model.predict_proba(table)).max() < 1e-6
    for strange in (7, 4000, -1):
        rows = pd.DataFrame({"c": pd.Categorical([strange]), "x": [0.0]})
        for form in (rows, {"c": [strange], "x": [0.0]}):
            with pytest.raises(Invalid, match="none of the 3 categories"):
                bundle.predict(form)
    assert len(bundle.predict({"c": [np.nan, 9], "x": [0.0, 0.0]})["label"]) == 2


_STEPS = """
import numpy as np
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline


class RarePipeline(Pipeline):
    def predict(self, X):
        return np.where(np.asarray(X)[:, 0] == 1234.5, 0, super().predict(X))


class RareLogistic(LogisticRegression):
    def predict(self, X):
        return np.where(np.asarray(X)[:, 0] == 1234.5, 0, super().predict(X))


class RareSelection(SelectKBest):
    def transform(self, X):
        return np.where(np.asarray(X)[:, :1] == 1234.5, 0.0, super().transform(X))
"""


@pytest.fixture
def rare(tmp_path, monkeypatch):
    """A module with estimators that answer otherwise about rows that no sample holds."""
    name = f"rare_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(_STEPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module(name), tmp_path / f"{name}.py"
    sys.modules.pop(name)


@pytest.mark.parametrize(
    "build",
    first_of(
        [
            lambda rare: rare.RarePipeline([("s", StandardScaler()), ("m", LogisticRegression())]),
            lambda rare: make_pipeline(MinMaxScaler((1234, 1235)), rare.RareLogistic()),
            lambda rare: make_pipeline(rare.RareSelection(k=3), LogisticRegression(max_iter=5000)),
            lambda rare: VotingClassifier([("a", rare.RareLogistic(max_iter=5000))]),
        ]
    ),
    ids=["pipeline", "last step", "selection", "member"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_method_of_the_author_s_inside_a_pipeline_answers_for_itself(pack, cancer, rare, build):
    module, file = rare
    X, y = cancer
    model = build(module).fit(X, y)

    bundle = pack(model, (X, y), code=[file], serve_original=True)

    rows = X[:50].copy()
    rows[::2, 0] = 1234.5
    assert bundle.predict(rows)["label"].tolist() == model.predict(rows).tolist()


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_function_that_is_set_on_a_model_is_what_parity_asks(cancer, method):
    """Forests are spared one of the two calls, and pipelines are taken apart, but not these."""
    X, y = cancer
    signature = Signature(
        (Field("input", DType.FP64, (30,)),),
        (Field("label", DType.INT64), Field("probabilities", DType.FP64, (2,))),
    )
    own = {"predict": np.full(5, 7), "predict_proba": np.full((5, 2), 0.25)}
    for model in (RandomForestClassifier(5), make_pipeline(StandardScaler(), GaussianNB())):
        model.fit(X, y)
        setattr(model, method, lambda _: own[method])

        answered = SklearnOriginal(model, Frame("numpy", {}, "float64"), signature).ask(X[:5])

        name = {"predict": "label", "predict_proba": "probabilities"}[method]
        assert (answered[name] == own[method]).all()
        with pytest.raises(Unconvertible, match=f"has its own {method}"):
            next(compilations(model, signature))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "dtype"),
    [(XGBClassifier(n_estimators=20), np.float64), (LogisticRegression(), np.float32)],
)
def test_steps_that_multiply_the_rounding_of_floats_are_left_to_the_original(pack, base, dtype):
    X, y = make_classification(3000, 12, n_informative=6, flip_y=0.2, random_state=0)
    X = X.astype(dtype)
    model = CalibratedClassifierCV(base, method="isotonic", cv=3).fit(X[:2000], y[:2000])

    bundle = pack(model, (X[:2000], y[:2000]), (X[2000:2200], y[2000:2200]))

    assert bundle.manifest.serves == "original"
    assert "isotonic calibration is so steep" in bundle.parity.reason
    found, expected = bundle.predict(X)["probabilities"], model.predict_proba(X)
    assert np.abs(found - expected).max() <= 1e-7


def test_steps_of_doubles_are_compiled(pack):
    X, y = make_classification(600, 12, n_informative=6, flip_y=0.2, random_state=0)
    model = CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=3).fit(X, y)
    assert pack(model, (X, y)).manifest.serves == "onnx"


def test_training_rows_are_compared_beside_the_held_out_ones(pack, cancer):
    X, y = cancer
    model = LogisticRegression(max_iter=5000).fit(X[:400], y[:400])

    parity = pack(model, (X[:400], y[:400]), (X[400:], y[400:])).parity

    made_up = sum(n for kind, n in parity.probed.items() if kind in _MADE_UP)
    assert parity.rows - made_up == len(X)
