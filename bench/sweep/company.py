"""Models of the sweep that compute over all rows of a call, or answer by chance; own steps; dates.

Of each flavor there are some that look at each row alone, which are packed, and some that do not,
which are refused: where one of those were packed, `judge` would find answers that change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PowerTransformer,
    StandardScaler,
)

import bascule
from bench.sweep.judge import Fitted

Make = Callable[[], Fitted]
_SEED = 7
_COLUMNS = 4


def models() -> Iterator[tuple[str, Make]]:
    """Names and functions, as `bench.sweep.models.models` has them."""
    for name, nodes in _GRAPHS.items():
        yield f"company/onnx/{name}", partial(_graph, nodes)
    for name in _MODULES:
        yield f"company/torch/{name}", partial(_module, name)
    for name in _LAYERS:
        yield f"company/keras/{name}", partial(_layer, name)
    for name in _ANSWERS:
        yield f"company/python/{name}", partial(_python, name)
    for strategy in ("prior", "uniform", "stratified"):
        yield f"company/dummy/{strategy}", partial(_dummy, strategy)
    for name in ("rows", "twice", "kept", "plain", "centred", "ranked", "noisy", "counting"):
        for place in ("only", "first", "between", "last") if name in _PLAIN else ("only",):
            yield f"own/{name}/{place}", partial(_own_step, name, place)
    for name in ("by_name", "of_any"):
        yield f"own/predictor/{name}", partial(_own_predictor, name)
    for step in ("log1p", "sqrt", "box-cox", "yeo-johnson"):
        for dtype in ("int64", "int32", "uint8"):
            for holes in (False, True):
                label = f"counts/{step}/{dtype}" + ("-holes" if holes else "")
                yield label, partial(_counts, step, dtype, holes)
    for kind in ("datetime64", "nanoseconds", "days", "texts", "parts"):
        yield f"dates/{kind}", partial(_dates, kind)


def _numbers(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(_SEED)
    X = random.normal(size=(rows, _COLUMNS))
    return X, (X[:, 0] + X[:, 1] > 0).astype(int)


def _parts(X: Any, y: Any = None) -> tuple[Any, Any, Any]:
    """Training rows, held-out rows and fresh ones."""
    thirds = np.array_split(np.arange(len(X)), 3)
    taken = [X.iloc[at].reset_index(drop=True) if hasattr(X, "iloc") else X[at] for at in thirds]
    if y is None:
        return taken[0], taken[1], taken[2]
    return (taken[0], y[thirds[0]]), (taken[1], y[thirds[1]]), taken[2]


# ONNX graphs, by nodes and constants.

_AXIS = ("axis", np.array([0]))
_GRAPHS: dict[str, tuple[list[tuple[str, str, str, dict[str, Any]]], list[tuple[str, Any]]]] = {
    "each-row": ([("Softmax", "x", "y", {"axis": 1})], []),
    "less-mean": (
        [("ReduceMean", "x axis", "m", {}), ("Sub", "x m", "y", {})], [_AXIS],
    ),
    "softmax-over-rows": ([("Softmax", "x", "y", {"axis": 0})], []),
    "running-sum": ([("CumSum", "x zero", "y", {})], [("zero", np.array(0))]),
    "over-largest": ([("ReduceMax", "x axis", "m", {}), ("Div", "x m", "y", {})], [_AXIS]),
    "quantized": (
        [("DynamicQuantizeLinear", "x", "q s z", {}), ("DequantizeLinear", "q s z", "y", {})], [],
    ),
    "noise": ([("RandomNormalLike", "x", "r", {}), ("Add", "x r", "y", {})], []),
    "drawn": ([("Sigmoid", "x", "s", {}), ("Bernoulli", "s", "y", {})], []),
    "dropout": (
        [("Dropout", "x share on", "y", {})],
        [("share", np.float32(0.5)), ("on", np.array(True))],
    ),
}  # fmt: skip


def _graph(
    made: tuple[list[tuple[str, str, str, dict[str, Any]]], list[tuple[str, Any]]],
) -> Fitted:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = made
    graph = helper.make_graph(
        [helper.make_node(kind, i.split(), o.split(), **more) for kind, i, o, more in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", _COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", _COLUMNS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())

    def ask(_model: Any, rows: Any, names: list[str]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"x": rows.astype(np.float32)}), strict=True))

    train, test, fresh = _parts(_numbers()[0].astype(np.float32))
    return Fitted(model, train, test, fresh, ask, other_types=False)


# Networks.

_MODULES: dict[str, Callable[[Any, Any], Any]] = {
    "each-row": lambda torch, x: torch.softmax(x, 1),
    "less-mean": lambda torch, x: x - torch.mean(x, 0, keepdim=True),
    "softmax-over-rows": lambda torch, x: torch.softmax(x, 0),
    "running-sum": lambda torch, x: torch.cumsum(x, 0),
    "ranks": lambda torch, x: torch.argsort(torch.argsort(x, 0), 0).float(),
    "norm-in-training": lambda torch, x: torch.nn.functional.batch_norm(
        x, None, None, training=True
    ),
    "dropout": lambda torch, x: torch.nn.functional.dropout(x, 0.5, training=True),
    "noise": lambda torch, x: x + torch.randn_like(x),
}


def _module(name: str) -> Fitted:
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(_COLUMNS, _COLUMNS)

        def forward(self, x: Any) -> Any:
            return _MODULES[name](torch, self.inner(x))

    torch.manual_seed(0)
    torch.set_num_threads(1)

    def ask(model: Any, rows: Any, names: list[str]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {names[0]: model(torch.as_tensor(rows)).numpy()}

    train, test, fresh = _parts(_numbers()[0].astype(np.float32))
    return Fitted(Module().eval(), train, test, fresh, ask, other_types=False)


_LAYERS = ("each-row", "softmax-over-rows", "norm", "norm-in-training", "dropout-in-training")


def _layer(name: str) -> Fitted:
    import os

    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((_COLUMNS,))
    hidden = keras.layers.Dense(_COLUMNS)(x)
    y = {
        "each-row": lambda: keras.layers.Softmax()(hidden),
        "softmax-over-rows": lambda: keras.layers.Softmax(axis=0)(hidden),
        "norm": lambda: keras.layers.BatchNormalization()(hidden),
        "norm-in-training": lambda: keras.layers.BatchNormalization()(hidden, training=True),
        "dropout-in-training": lambda: keras.layers.Dropout(0.5)(hidden, training=True),
    }[name]()

    def ask(model: Any, rows: Any, names: list[str]) -> dict[str, np.ndarray]:
        return {names[0]: np.asarray(model.predict(rows, verbose=0))}

    train, test, fresh = _parts(_numbers()[0].astype(np.float32))
    return Fitted(keras.Model(x, y), train, test, fresh, ask, other_types=False)


# Code of the user's.

_ANSWERS = {
    "each-row": "x.sum(axis=1)",
    "less-mean": "x.sum(axis=1) - x.mean()",
    "ranks": "x[:, 0].argsort().argsort().astype(float)",
    "by-count": "x[:, 0] + len(x) % 2",
    "if-any-missing": "np.where(np.isfinite(x).all(), x[:, 0], 0 * x[:, 0])",
    "noise": "x[:, 0] + np.random.normal(size=len(x))",
    "counter": "x[:, 0] + self.calls",
    "clock": "x[:, 0] + time.perf_counter()",
}
_CODE = """
import time
import numpy as np

class Model:
    calls = 0

    def predict(self, columns):
        self.calls += 1
        x = columns["input"]
        return {answer}
"""


def _python(name: str) -> Fitted:
    Path("own_model.py").write_text(_CODE.replace("{answer}", _ANSWERS[name]))
    sys.path.insert(0, "")
    made = import_module("own_model").Model()

    def ask(_model: Any, rows: Any, names: list[str]) -> dict[str, np.ndarray]:
        return {names[0]: made.predict({"input": rows})}

    train, test, fresh = _parts(_numbers()[0])
    model = bascule.PythonModel("own_model:Model", code="own_model.py")
    return Fitted(model, train, test, fresh, ask, other_types=False)


def _dummy(strategy: str) -> Fitted:
    X, y = _numbers()
    train, test, fresh = _parts(X, y)
    return Fitted(DummyClassifier(strategy=strategy).fit(*train), train, test, fresh)


# Steps of the user's, in every place of a pipeline.

_PLAIN = ("twice", "kept", "plain")
_STEPS = """
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin


class Step(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self._means = np.mean(X, axis=0)
        self._calls = 0
        return self

    def transform(self, X):
        return self.of(np.asarray(X, float))


class Rows(Step):
    def of(self, X):
        return np.sqrt(np.abs(X))


class Twice(Step):
    def of(self, X):
        return X * 2


class Kept(Step):
    def of(self, X):
        return X - self._means


class Plain:
    def fit(self, X, y=None):
        return self

    def fit_transform(self, X, y=None):
        return self.transform(X)

    def transform(self, X):
        return np.asarray(X, float) * 2


class Centred(Step):
    def of(self, X):
        return X - X.mean(axis=0)


class Ranked(Step):
    def of(self, X):
        return X.argsort(axis=0).argsort(axis=0).astype(float)


class Noisy(Step):
    def of(self, X):
        return X + np.random.normal(size=X.shape)


class Counting(Step):
    def of(self, X):
        self._calls += 1
        return X + self._calls


class ByName(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return X["a"].to_numpy() * 2


class OfAny(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return np.asarray(X, float)[:, 0] * 2
"""


def _own(name: str) -> Any:
    Path("own_steps.py").write_text(_STEPS)
    sys.path.insert(0, "")
    own_steps = import_module("own_steps")
    return getattr(own_steps, "".join(word.capitalize() for word in name.split("_")))()


def _own_step(name: str, place: str) -> Fitted:
    own, scaler = _own(name), StandardScaler()
    steps = {
        "only": [own],
        "first": [own, scaler],
        "between": [scaler, own, StandardScaler()],
        "last": [scaler, own],
    }[place]
    train, test, fresh = _parts(*_numbers())
    model = make_pipeline(*steps, LogisticRegression()).fit(*train)
    return Fitted(model, train, test, fresh, other_types=False)


def _own_predictor(name: str) -> Fitted:
    X, y = _numbers()
    train, test, fresh = _parts(pd.DataFrame(X, columns=list("abcd")), y.astype(float))
    return Fitted(_own(name).fit(*train), train, test, fresh)


# Counts and dates.


def _counts(step: str, dtype: str, holes: bool) -> Fitted:
    random = np.random.default_rng(_SEED)
    counts = random.integers(1, 250, (300, 2))
    y = (counts.sum(axis=1) > 250).astype(int)
    table = pd.DataFrame(counts.astype(dtype), columns=["seats", "stops"])
    if holes:
        table.loc[random.random(len(table)) < 0.1, "stops"] = np.nan
    steps: dict[str, Any] = {
        "log1p": FunctionTransformer(np.log1p),
        "sqrt": FunctionTransformer(np.sqrt),
        "box-cox": PowerTransformer("box-cox"),
        "yeo-johnson": PowerTransformer(),
    }
    train, test, fresh = _parts(table, y)
    model = make_pipeline(SimpleImputer(), steps[step], LogisticRegression()).fit(*train)
    return Fitted(model, train, test, fresh)


def _dates(kind: str) -> Fitted:
    random = np.random.default_rng(_SEED)
    days = pd.Series(
        pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 700, 300), "D")
    )
    y = (days.dt.month > 6).astype(int).to_numpy()
    columns: dict[str, Any] = {
        "datetime64": {"day": days},
        "nanoseconds": {"day": days.astype("datetime64[ns]").astype(np.int64)},
        "days": {"day": days.astype("datetime64[s]").astype(np.int64) // 86_400},
        "texts": {"day": days.dt.strftime("%Y-%m")},
        "parts": {"year": days.dt.year, "month": days.dt.month, "weekday": days.dt.day_name()},
    }[kind]
    encoders = {
        "texts": OneHotEncoder(handle_unknown="ignore"),
        "parts": OneHotEncoder(handle_unknown="ignore"),
    }
    train, test, fresh = _parts(pd.DataFrame(columns), y)
    step = encoders.get(kind, StandardScaler())
    model = make_pipeline(step, LogisticRegression(max_iter=500)).fit(*train)
    return Fitted(model, train, test, fresh)
