"""The models of the sweep: every estimator of scikit-learn, boosted libraries, pipelines, networks.

A model is a name and a function that fits it; names are paths, `sklearn/Ridge`. Data are small, so
that a whole sweep takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

from bench.sweep import calls, company
from bench.sweep.judge import Fitted

Make = Callable[[], Fitted]
_SEED = 7


def models() -> dict[str, Make]:
    """By name."""
    made: dict[str, Make] = {}
    for part in (
        _torch,
        _tables,
        _catboost,
        _lightgbm,
        _xgboost,
        _defaults,
        _transformers,
        _estimators,
        _other_libraries,
        partial(calls.models, _split),
        company.models,
    ):
        made.update(part())
    return made


# Data.


def _split(model: Any, X: Any, y: Any, ask: Any = None, **fit: Any) -> Fitted:
    """Fit on half of the rows; `pack` is given a quarter, and a quarter is kept fresh."""
    order = np.random.default_rng(_SEED).permutation(len(X))
    half, three = len(X) // 2, len(X) * 3 // 4
    places = (order[:half], order[half:three], order[three:][:150])
    xs = [_taken(X, p) for p in places]
    ys = [None if y is None else _taken(y, p) for p in places]
    model.fit(xs[0], ys[0], **fit) if y is not None else model.fit(xs[0], **fit)
    is_detector = y is None
    train = xs[0] if is_detector else (xs[0], ys[0])
    return Fitted(model, train, xs[1] if is_detector else (xs[1], ys[1]), xs[2], ask)


def _taken(values: Any, places: Any) -> Any:
    if isinstance(values, list):
        return [values[place] for place in places]
    if hasattr(values, "iloc"):
        return values.iloc[places].reset_index(drop=True)
    return values[places]


def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X, y


def _positive() -> tuple[np.ndarray, np.ndarray]:
    X, y = _loaded("wine")
    return X.round(1), y


def _counts() -> tuple[np.ndarray, np.ndarray]:
    X, y = _loaded("digits")
    return X[:600, 16:48].astype(np.int64), y[:600] % 3


def _two(name: str = "diabetes") -> tuple[np.ndarray, np.ndarray]:
    X, y = _loaded(name)
    return X[:, 2:], np.column_stack([y, X[:, 0] * 100 + y * 0.1])


def _two_labels() -> tuple[np.ndarray, np.ndarray]:
    X, y = _loaded("wine")
    return X, np.column_stack([y == 0, X[:, 0] > 13]).astype(int)


def mixed(rows: int = 800) -> tuple[pd.DataFrame, np.ndarray]:
    """A table with texts and numbers, and a label that depends on all of them."""
    random = np.random.default_rng(_SEED)
    frame = pd.DataFrame(
        {
            "city": random.choice(["Bern", "Oslo", "Łódź", "São Paulo", "NY"], rows),
            "plan": random.choice(["free", "pro", "team"], rows),
            "age": random.integers(18, 90, rows),
            "income": random.lognormal(10, 1, rows),
            "score": random.normal(size=rows).round(3),
        }
    )
    log_odds = (frame.city == "Oslo") * 2 + (frame.age > 50) - frame.score + (frame.plan == "pro")
    y = (log_odds + random.normal(size=rows) > 0.8).astype(int).to_numpy()
    return frame, y


def _with_holes(frame: pd.DataFrame, missing: Any = None) -> pd.DataFrame:
    random = np.random.default_rng(_SEED + 1)
    made = frame.copy()
    made.loc[random.random(len(made)) < 0.1, "score"] = np.nan
    made.loc[random.random(len(made)) < 0.05, "income"] = np.nan
    cities = made["city"].astype(object)
    cities[random.random(len(made)) < 0.08] = missing
    made["city"] = cities
    return made


def _texts() -> tuple[list[str], np.ndarray]:
    random = np.random.default_rng(_SEED)
    words = np.array(
        [
            "good",
            "bad",
            "Ship",
            "late",
            "refund",
            "great",
            "naïve",
            "ÉCOLE",
            "don't",
            "a",
            "x2",
            "日本",
            "co-op",
        ]
    )
    drawn = random.integers(0, len(words), (400, 8))
    return [" ".join(row) for row in words[drawn]], (drawn < 3).sum(axis=1) > 1


# scikit-learn's own estimators.

_SPECIAL: dict[str, tuple[dict[str, Any], Callable[[], tuple[Any, Any]]]] = {
    "CategoricalNB": ({"min_categories": 20}, _counts),
    "MultinomialNB": ({}, _counts),
    "ComplementNB": ({}, _counts),
    "BernoulliNB": ({"binarize": 8.0}, _counts),
    "ClassifierChain": ({"estimator": LogisticRegression(max_iter=200)}, _two_labels),
    "MultiOutputClassifier": ({"estimator": DecisionTreeClassifier(max_depth=4)}, _two_labels),
    "MultiOutputRegressor": ({"estimator": DecisionTreeRegressor(max_depth=4)}, _two),
    "RegressorChain": ({"estimator": Ridge()}, _two),
    "CCA": ({"n_components": 1}, _two),
    "PLSCanonical": ({"n_components": 1}, _two),
    "RadiusNeighborsClassifier": ({"radius": 1e4}, partial(_loaded, "wine")),
    "RadiusNeighborsRegressor": ({"radius": 0.3}, partial(_loaded, "diabetes")),
    "IsotonicRegression": ({}, lambda: (_loaded("diabetes")[0][:, 2:3], _loaded("diabetes")[1])),
    "GaussianProcessClassifier": ({}, partial(_loaded, "iris")),
    "NuSVC": ({"nu": 0.2}, partial(_loaded, "wine")),
}
_SETTINGS: dict[str, Any] = {
    "random_state": 0, "n_estimators": 30, "max_iter": 300, "n_jobs": None, "verbose": 0,
}  # fmt: skip
_INNER = {
    "classifier": DecisionTreeClassifier(max_depth=4),
    "regressor": DecisionTreeRegressor(max_depth=4),
}


def _build(kind: type[BaseEstimator], task: str, **given: Any) -> Any:
    """An estimator with small settings, and with an inner one where it needs that."""
    import inspect

    known = inspect.signature(kind).parameters
    settings = {name: value for name, value in _SETTINGS.items() if name in known}
    if known.get("max_iter") is not None and isinstance(known["max_iter"].default, int):
        settings["max_iter"] = max(300, known["max_iter"].default)
    if isinstance(known["verbose"].default if "verbose" in known else None, bool):
        settings["verbose"] = False
    if kind.__name__ == "SelfTrainingClassifier":
        settings["estimator"] = LogisticRegression(max_iter=300)
    if kind.__name__.startswith("HistGradient"):
        settings["max_iter"] = 40
    inner = _INNER.get(task, _INNER["classifier"])
    for name in ("estimator", "base_estimator"):
        if name in known and known[name].default is inspect.Parameter.empty:
            settings[name] = LogisticRegression(max_iter=300) if task == "classifier" else Ridge()
    if "estimators" in known:
        linear = LogisticRegression(max_iter=300) if task == "classifier" else Ridge()
        settings["estimators"] = [("tree", inner), ("linear", linear)]
    if "param_grid" in known:
        settings.update(estimator=inner, param_grid={"max_depth": [2, 3]})
    if "param_distributions" in known:
        settings.update(estimator=inner, param_distributions={"max_depth": [2, 3]}, n_iter=2)
    settings.update(given)
    return kind(**settings)


_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "RFE", "RFECV")
"""Estimators of either role, asked as classifiers."""


def _estimators() -> Iterator[tuple[str, Make]]:
    def fitted(
        kind: type[BaseEstimator],
        task: str,
        data: Callable[[], tuple[Any, Any]],
        given: dict[str, Any],
    ) -> Fitted:
        X, y = data()
        return _split(_build(kind, task, **given), X, y)

    def fitted_alone(*args: Any) -> Fitted:
        # Some clusters refuse rows for the type of their array, which is no value.
        return replace(fitted(*args), other_types=False)

    for name, kind in all_estimators():
        if not hasattr(kind, "predict") or name == "Pipeline":
            continue
        roles = _roles(kind)
        task = "regressor" if "RegressorMixin" in roles else "classifier"
        if name in _SPECIAL:
            given, data = _SPECIAL[name]
            yield f"sklearn/{name}", partial(fitted, kind, task, data, given)
        elif task == "regressor":
            data = _two if "MultiTask" in name else partial(_loaded, "diabetes")
            yield f"sklearn/{name}", partial(fitted, kind, task, data, {})
        elif "ClassifierMixin" in roles or name in _SEARCHES:
            for which in ("breast_cancer", "wine"):
                yield (
                    f"sklearn/{name}/{which}",
                    partial(fitted, kind, task, partial(_loaded, which), {}),
                )
        else:
            given = {"novelty": True} if name == "LocalOutlierFactor" else {}

            def alone(which: str = "breast_cancer") -> tuple[Any, Any]:
                return _loaded(which)[0][:, :8], None

            yield f"sklearn/{name}", partial(fitted_alone, kind, task, alone, given)


def _roles(kind: type) -> set[str]:
    return {one.__name__ for one in kind.__mro__}


_TEXT_STEPS = ("CountVectorizer", "HashingVectorizer", "TfidfVectorizer")


def _transformers() -> Iterator[tuple[str, Make]]:
    def fitted(kind: type[BaseEstimator], name: str) -> Fitted:
        X, y = _data_for(name)
        settings: dict[str, Any] = {}
        if name in ("ColumnTransformer",):
            settings = {"transformers": [("first", "passthrough", [0, 1])], "remainder": "drop"}
        elif name == "FeatureUnion":
            from sklearn.decomposition import PCA
            from sklearn.preprocessing import StandardScaler

            settings = {"transformer_list": [("scaled", StandardScaler()), ("parts", PCA(2))]}
        elif name in ("FunctionTransformer",):
            settings = {"func": np.log1p}
        elif name in ("TfidfVectorizer", "CountVectorizer"):
            settings = {"ngram_range": (1, 2)}
        if (
            "n_components" in kind().get_params()
            if name
            not in (
                "ColumnTransformer",
                "FeatureUnion",
                "SparseCoder",
                "StackingClassifier",
                "StackingRegressor",
                "VotingClassifier",
                "VotingRegressor",
                "RFE",
                "RFECV",
                "SelectFromModel",
                "SequentialFeatureSelector",
            )
            else False
        ):
            settings["n_components"] = 3
        model = make_pipeline(
            _build(kind, "classifier", **settings), LogisticRegression(max_iter=500)
        )
        return _split(model, X, y)

    for name, kind in all_estimators():
        if hasattr(kind, "transform") and not hasattr(kind, "predict"):
            yield f"step/{name}", partial(fitted, kind, name)
    for name, kind in all_estimators(type_filter="cluster"):
        if hasattr(kind, "transform") and hasattr(kind, "predict"):
            yield f"step/{name}", partial(fitted, kind, name)


def _data_for(name: str) -> tuple[Any, Any]:
    if name in _TEXT_STEPS:
        return _texts()
    if name in ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder"):
        frame, y = mixed()
        return frame[["city", "plan", "age"]].assign(age=frame.age // 20), y
    X, y = _positive()
    if name in ("SimpleImputer", "IterativeImputer", "KNNImputer", "MissingIndicator"):
        X = X.copy()
        X[np.random.default_rng(_SEED).random(X.shape) < 0.1] = np.nan
    if name in ("MultiLabelBinarizer", "DictVectorizer", "FeatureHasher"):
        return [{"a": float(row[0]), "b": float(row[1])} for row in X], y
    return X, y


# Steps of other libraries, where they are installed; they are no dependencies of the project.


def _other_libraries() -> Iterator[tuple[str, Make]]:
    def fitted(places: tuple[str, ...], texts: bool) -> Fitted:
        X, y = mixed()
        steps = [getattr(import_module(p.partition(":")[0]), p.partition(":")[2])() for p in places]
        rows = X if texts else X[["age", "income", "score"]]
        make = (
            import_module("imblearn.pipeline").make_pipeline if _samples(steps) else make_pipeline
        )
        return _split(make(*steps, LogisticRegression(max_iter=500)), rows, y)

    for library, name, texts in (
        ("imblearn.over_sampling", "SMOTE", False),
        ("imblearn.under_sampling", "RandomUnderSampler", False),
        ("category_encoders", "TargetEncoder", True),
        ("category_encoders", "WOEEncoder", True),
        ("category_encoders", "CountEncoder", True),
        ("feature_engine.encoding", "OneHotEncoder", True),
        ("feature_engine.outliers", "Winsorizer", False),
    ):
        if find_spec(library.partition(".")[0]) is not None:
            places = (
                () if texts or name == "Winsorizer" else ("sklearn.preprocessing:StandardScaler",)
            )
            yield f"other/{name}", partial(fitted, (*places, f"{library}:{name}"), texts)


def _samples(steps: list[Any]) -> bool:
    return any(hasattr(step, "fit_resample") for step in steps)


# Defaults on ten data sets: none may fall back.


def _ten() -> dict[str, Callable[[], tuple[Any, Any]]]:
    made: dict[str, Callable[[], tuple[Any, Any]]] = {
        name: partial(_loaded, name)
        for name in ("iris", "wine", "breast_cancer", "digits", "diabetes")
    }
    for name, settings in {
        "made-2": {"n_classes": 2}, "made-4": {"n_classes": 4, "n_informative": 6},
    }.items():  # fmt: skip
        made[name] = partial(
            datasets.make_classification, 600, 12, random_state=_SEED, **settings, return_X_y=True
        )
    made["moons"] = partial(datasets.make_moons, 600, noise=0.3, random_state=_SEED)
    made["friedman"] = partial(datasets.make_friedman1, 600, random_state=_SEED)
    made["holes"] = _holes
    return made


def _holes() -> tuple[np.ndarray, np.ndarray]:
    X, y = _loaded("breast_cancer")
    X = X.copy()
    X[np.random.default_rng(_SEED).random(X.shape) < 0.1] = np.nan
    return X, y


_NUMBERS = ("diabetes", "friedman")


def _defaults() -> Iterator[tuple[str, Make]]:
    def fitted(name: str, data: Callable[[], tuple[Any, Any]]) -> Fitted:
        X, y = data()
        return _split(_booster(name), X, y)

    for which, data in _ten().items():
        task = "Regressor" if which in _NUMBERS else "Classifier"
        for name in (f"XGB{task}", f"LGBM{task}", f"HistGradientBoosting{task}"):
            yield f"default/{name}/{which}", partial(fitted, name, data)
    for which in ("iris", "wine", "breast_cancer", "made-2", "made-4", "moons", "holes"):
        yield (
            f"default/HistGradientBoostingClassifier-200/{which}",
            partial(_of_200_rounds, _ten()[which]),
        )


def _of_200_rounds(data: Callable[[], tuple[Any, Any]]) -> Fitted:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _split(HistGradientBoostingClassifier(max_iter=200), *data())


def _booster(name: str, **settings: Any) -> Any:
    home = (
        "xgboost"
        if name.startswith("XGB")
        else "lightgbm"
        if name.startswith("LGBM")
        else "sklearn.ensemble"
    )
    if home == "lightgbm":
        settings = {"verbose": -1, "n_jobs": 1, **settings}
    if home == "xgboost":
        settings = {"n_jobs": 1, **settings}
    return getattr(import_module(home), name)(**settings)


# Boosted libraries with their options.


def _categories(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(city=frame.city.astype("category"), plan=frame.plan.astype("category"))


def _with_options(
    library: str,
    name: str,
    data: Callable[[], tuple[Any, Any]],
    parts: tuple[str, ...] = (),
    **settings: Any,
) -> Fitted:
    """`parts`: what the numbers of a row are called, where they are of one truth."""
    X, y = data()
    ask = partial(_ask_parts, parts) if parts else None
    if library != "catboost":
        return _split(_booster(name, n_estimators=30, **settings), X, y, ask)
    import catboost

    fit = {key: settings.pop(key) for key in ("cat_features", "text_features") if key in settings}
    model = getattr(catboost, name)(
        iterations=30,
        verbose=False,
        allow_writing_files=False,
        thread_count=1,
        random_seed=0,
        **settings,
    )
    return _split(model, X, y, ask, **fit)


def _ask_parts(
    parts: tuple[str, ...], model: Any, rows: Any, names: list[str]
) -> dict[str, np.ndarray]:
    numbers = np.asarray(model.predict(rows)).reshape(len(rows), -1)
    return {name: numbers[:, parts.index(name)] for name in names}


_QUANTILES = ("lower_quantile", "prediction", "upper_quantile")


def _times() -> tuple[Any, Any]:
    """Times of which some are censored: below 0, as XGBoost and CatBoost have them."""
    X, y = _loaded("diabetes")
    return X, np.where(np.arange(len(y)) % 3, y, -y)


def _of_count(data: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    X, y = data()
    return X, np.abs(y).round()


def _as(dtype: Any, name: str) -> tuple[Any, Any]:
    X, y = _loaded(name)
    return (X * 10).astype(dtype), y


def _table_of(change: Callable[[pd.DataFrame], pd.DataFrame]) -> tuple[Any, Any]:
    frame, y = mixed()
    return change(frame), y


def _large_integers() -> tuple[Any, Any]:
    """Whole numbers beyond 2**53, of which neighbours are one double."""
    random = np.random.default_rng(_SEED)
    X = 2**60 + random.integers(0, 40, (500, 3))
    return X, (X.sum(axis=1) % 40 > 20).astype(int)


def _xgboost() -> Iterator[tuple[str, Make]]:
    numbers, two, three = (partial(_loaded, name) for name in ("diabetes", "breast_cancer", "wine"))
    counts = partial(_of_count, numbers)

    def make(
        label: str, name: str, data: Any, parts: tuple[str, ...] = (), **settings: Any
    ) -> tuple[str, Make]:
        return f"xgboost/{label}", partial(_with_options, "xgboost", name, data, parts, **settings)

    for objective in (
        "squarederror",
        "squaredlogerror",
        "absoluteerror",
        "pseudohubererror",
        "quantileerror",
        "logistic",
        "gamma",
        "tweedie",
    ):
        data: Callable[[], tuple[Any, Any]] = _unit if objective == "logistic" else numbers
        settings: dict[str, Any] = {"objective": f"reg:{objective}"}
        if objective == "quantileerror":
            settings["quantile_alpha"] = 0.8
        yield make(f"reg:{objective}", "XGBRegressor", data, **settings)
    yield make("count:poisson", "XGBRegressor", counts, objective="count:poisson")
    for objective in ("logistic", "hinge", "logitraw"):
        yield make(f"binary:{objective}", "XGBClassifier", two, objective=f"binary:{objective}")
    for objective in ("softprob", "softmax"):
        yield make(f"multi:{objective}", "XGBClassifier", three, objective=f"multi:{objective}")
    for booster in ("dart", "gblinear"):
        yield make(booster, "XGBClassifier", three, booster=booster)
        yield make(f"{booster}-regression", "XGBRegressor", numbers, booster=booster)
    yield make("dart-dropped", "XGBClassifier", two, booster="dart", rate_drop=0.5)
    yield make("forest", "XGBRFClassifier", three)
    yield make("forest-regression", "XGBRFRegressor", numbers)
    yield make("parallel-trees", "XGBClassifier", two, num_parallel_tree=3, subsample=0.5)
    yield make("multi-output", "XGBRegressor", _two)
    yield make("multi-output-tree", "XGBRegressor", _two, multi_strategy="multi_output_tree")
    yield make("multi-label", "XGBClassifier", _two_labels)
    yield make(
        "quantiles", "XGBRegressor", numbers, _QUANTILES,
        objective="reg:quantileerror", quantile_alpha=[0.1, 0.5, 0.9],
    )  # fmt: skip
    yield make("survival:cox", "XGBRegressor", _times, ("risk",), objective="survival:cox")
    yield make("missing", "XGBClassifier", _holes)
    yield make("missing-value", "XGBClassifier", two, missing=0.0)
    yield make("float32", "XGBClassifier", partial(_as, np.float32, "wine"))
    yield make("int64", "XGBClassifier", partial(_as, np.int64, "wine"))
    yield make("int64-large", "XGBClassifier", _large_integers)
    yield make("stumps", "XGBClassifier", two, max_depth=1)
    yield make("exact", "XGBClassifier", two, tree_method="exact")
    yield make("leaves", "XGBClassifier", two, grow_policy="lossguide", max_leaves=8)
    yield make("monotone", "XGBRegressor", numbers, monotone_constraints=(1, 0, 1) + (0,) * 7)
    yield make("base-score", "XGBRegressor", numbers, base_score=150.0)
    yield make("early", "XGBRegressor", numbers, gamma=1e9)
    for label, change in (
        ("categories", _categories),
        ("categories-holes", lambda f: _categories(_with_holes(f))),
    ):
        yield make(label, "XGBClassifier", partial(_table_of, change), enable_categorical=True)
        yield make(
            f"{label}-one-hot",
            "XGBClassifier",
            partial(_table_of, change),
            enable_categorical=True,
            max_cat_to_onehot=1,
        )
    yield "xgboost/booster", partial(_xgboost_booster)


def _unit() -> tuple[Any, Any]:
    X, y = _loaded("diabetes")
    return X, y / y.max()


def _xgboost_booster() -> Fitted:
    import xgboost

    X, y = _loaded("breast_cancer")
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X[:300], y[:300]), 20)

    def ask(model: Any, rows: Any, names: list[str]) -> dict[str, np.ndarray]:
        second = model.predict(xgboost.DMatrix(rows))
        shares = np.column_stack([1 - second, second])
        known = {"prediction": second, "probabilities": shares, "label": shares.argmax(axis=1)}
        return {name: known[name] for name in names}

    return Fitted(booster, (X[:300], y[:300]), (X[300:430], y[300:430]), X[430:], ask)


def _lightgbm() -> Iterator[tuple[str, Make]]:
    numbers, two, three = (partial(_loaded, name) for name in ("diabetes", "breast_cancer", "wine"))

    def make(label: str, name: str, data: Any, **settings: Any) -> tuple[str, Make]:
        return f"lightgbm/{label}", partial(_with_options, "lightgbm", name, data, **settings)

    for objective in ("regression", "regression_l1", "huber", "fair", "quantile", "mape"):
        yield make(objective, "LGBMRegressor", numbers, objective=objective)
    for objective in ("poisson", "gamma", "tweedie"):
        yield make(objective, "LGBMRegressor", partial(_of_count, numbers), objective=objective)
    yield make("cross_entropy", "LGBMRegressor", _unit, objective="cross_entropy")
    yield make("cross_entropy_lambda", "LGBMRegressor", _unit, objective="cross_entropy_lambda")
    yield make("binary", "LGBMClassifier", two)
    yield make("multiclass", "LGBMClassifier", three)
    yield make("multiclassova", "LGBMClassifier", three, objective="multiclassova")
    for boosting in ("dart", "rf"):
        bagging = {"subsample": 0.7, "subsample_freq": 1} if boosting == "rf" else {}
        yield make(boosting, "LGBMClassifier", two, boosting_type=boosting, **bagging)
        yield make(
            f"{boosting}-regression", "LGBMRegressor", numbers, boosting_type=boosting, **bagging
        )
    yield make("goss", "LGBMClassifier", two, data_sample_strategy="goss")
    yield make("linear-tree", "LGBMRegressor", numbers, linear_tree=True)
    yield make("linear-tree-classifier", "LGBMClassifier", two, linear_tree=True)
    yield make("int64", "LGBMClassifier", partial(_as, np.int64, "wine"))
    yield make("int64-large", "LGBMClassifier", _large_integers)
    yield make("float32", "LGBMClassifier", partial(_as, np.float32, "wine"))
    yield make("missing", "LGBMClassifier", _holes)
    yield make("missing-zero", "LGBMClassifier", two, zero_as_missing=True)
    yield make("missing-off", "LGBMClassifier", two, use_missing=False)
    yield make("unbalanced", "LGBMClassifier", two, is_unbalance=True)
    yield make("extra-trees", "LGBMClassifier", three, extra_trees=True)
    yield make("stumps", "LGBMClassifier", two, num_leaves=2)
    yield make("categories", "LGBMClassifier", partial(_table_of, _categories))
    yield make(
        "categories-holes",
        "LGBMClassifier",
        partial(_table_of, lambda f: _categories(_with_holes(f))),
    )
    yield make(
        "categories-onehot", "LGBMClassifier", partial(_table_of, _categories), max_cat_to_onehot=50
    )


def _catboost() -> Iterator[tuple[str, Make]]:
    numbers, two, three = (partial(_loaded, name) for name in ("diabetes", "breast_cancer", "wine"))

    def make(
        label: str, name: str, data: Any, parts: tuple[str, ...] = (), **settings: Any
    ) -> tuple[str, Make]:
        fitted = partial(_with_options, "catboost", name, data, parts, **settings)
        return f"catboost/{label}", fitted

    for loss in (
        "RMSE",
        "MAE",
        "Quantile:alpha=0.8",
        "LogCosh",
        "Lq:q=3",
        "Huber:delta=1.0",
        "MAPE",
        "Expectile:alpha=0.3",
    ):
        yield make(loss, "CatBoostRegressor", numbers, loss_function=loss)
    for loss in ("Poisson", "Tweedie:variance_power=1.5"):
        yield make(loss, "CatBoostRegressor", partial(_of_count, numbers), loss_function=loss)
    yield make(
        "RMSEWithUncertainty", "CatBoostRegressor", numbers, ("prediction", "variance"),
        loss_function="RMSEWithUncertainty",
    )  # fmt: skip
    quantiles = "MultiQuantile:alpha=0.1,0.5,0.9"
    yield make("MultiQuantile", "CatBoostRegressor", numbers, _QUANTILES, loss_function=quantiles)
    yield make("Cox", "CatBoostRegressor", _times, ("risk",), loss_function="Cox")
    yield make("MultiRMSE", "CatBoostRegressor", _two, loss_function="MultiRMSE")
    yield make("Logloss", "CatBoostClassifier", two)
    yield make("CrossEntropy", "CatBoostClassifier", two, loss_function="CrossEntropy")
    yield make("MultiClass", "CatBoostClassifier", three)
    yield make(
        "MultiClassOneVsAll", "CatBoostClassifier", three, loss_function="MultiClassOneVsAll"
    )
    yield make("MultiLogloss", "CatBoostClassifier", _two_labels, loss_function="MultiLogloss")
    for policy in ("Depthwise", "Lossguide"):
        yield make(policy, "CatBoostClassifier", two, grow_policy=policy)
    yield make("missing", "CatBoostClassifier", _holes)
    yield make("missing-max", "CatBoostClassifier", _holes, nan_mode="Max")
    yield make("float32", "CatBoostClassifier", partial(_as, np.float32, "wine"))
    yield make("int64", "CatBoostClassifier", partial(_as, np.int64, "wine"))
    yield make("categories", "CatBoostClassifier", mixed, cat_features=["city", "plan"])
    yield make(
        "categories-onehot",
        "CatBoostClassifier",
        mixed,
        cat_features=["city", "plan"],
        one_hot_max_size=10,
    )
    yield make(
        "categories-integers", "CatBoostClassifier", mixed, cat_features=["city", "plan", "age"]
    )
    yield make("texts", "CatBoostClassifier", _table_with_texts, text_features=["words"])
    yield make(
        "texts-categories",
        "CatBoostClassifier",
        _table_with_texts_too,
        text_features=["words"],
        cat_features=["plan"],
    )


def _table_with_texts() -> tuple[Any, Any]:
    texts, y = _texts()
    return pd.DataFrame({"words": texts, "size": np.arange(len(texts), dtype=float)}), y.astype(int)


def _table_with_texts_too() -> tuple[Any, Any]:
    frame, y = _table_with_texts()
    return frame.assign(plan=np.where(np.arange(len(frame)) % 3, "free", "pro")), y


# Pipelines over mixed tables.


def _tables() -> Iterator[tuple[str, Make]]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import KNNImputer, SimpleImputer
    from sklearn.preprocessing import (
        KBinsDiscretizer,
        MinMaxScaler,
        OneHotEncoder,
        OrdinalEncoder,
        PolynomialFeatures,
        PowerTransformer,
        QuantileTransformer,
        RobustScaler,
        SplineTransformer,
        StandardScaler,
        TargetEncoder,
    )  # fmt: skip

    texts, numbers = ["city", "plan"], ["age", "income", "score"]
    finals = {
        "logistic": LogisticRegression(max_iter=500),
        "forest": RandomForestClassifier(30, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=30, random_state=0),
    }
    encoders = {
        "onehot": OneHotEncoder(handle_unknown="ignore"),
        "onehot-error": OneHotEncoder(),
        "onehot-rare": OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.19),
        "onehot-drop": OneHotEncoder(drop="first", handle_unknown="ignore"),
        "ordinal": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        "ordinal-missing": OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
        ),
        "target": TargetEncoder(random_state=0),
        "filled": make_pipeline(
            SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
        ),
        "constant": make_pipeline(
            SimpleImputer(strategy="constant", fill_value="?"),
            OneHotEncoder(handle_unknown="ignore"),
        ),
    }
    scalers = {
        "standard": make_pipeline(SimpleImputer(), StandardScaler()),
        "minmax": make_pipeline(SimpleImputer(strategy="median"), MinMaxScaler()),
        "minmax-clip": make_pipeline(SimpleImputer(), MinMaxScaler(clip=True)),
        "robust": make_pipeline(SimpleImputer(add_indicator=True), RobustScaler()),
        "bins": make_pipeline(
            SimpleImputer(), KBinsDiscretizer(6, quantile_method="averaged_inverted_cdf")
        ),
        "bins-ordinal": make_pipeline(
            SimpleImputer(), KBinsDiscretizer(6, encode="ordinal", strategy="uniform")
        ),
        "power": make_pipeline(SimpleImputer(), PowerTransformer()),
        "quantile": make_pipeline(SimpleImputer(), QuantileTransformer(n_quantiles=50)),
        "spline": make_pipeline(SimpleImputer(), SplineTransformer()),
        "neighbours": make_pipeline(KNNImputer(), PolynomialFeatures(2), StandardScaler()),
    }
    missing = {"none": None, "nan": np.nan}

    def fitted(encoder: str, scaler: str, final: str, kind: str) -> Fitted:
        frame, y = mixed()
        if kind in missing:
            frame = _with_holes(frame, missing[kind])
        elif kind == "mixed":  # None and NaN in one column
            frame = _with_holes(_with_holes(frame, None).assign(), None)
            cities = frame.city.to_numpy(object).copy()
            holes = [at for at, value in enumerate(cities) if value is None]
            cities[holes[::2]] = np.nan
            frame["city"] = pd.Series(cities, dtype=object)
        elif kind == "nullable":
            frame = _with_holes(frame)
            frame = frame.convert_dtypes(convert_string=False)
        elif kind == "float32":
            frame = frame.astype({"income": np.float32, "score": np.float32, "age": np.float32})
        elif kind == "category":
            frame = _categories(frame)
        elif kind == "large":
            frame = frame.assign(age=2**60 + frame.age, city=frame.city)
        steps = make_column_transformer((encoders[encoder], texts), (scalers[scaler], numbers))
        return _split(make_pipeline(steps, finals[final]), frame, y)

    for place, encoder in enumerate(encoders):
        for kind in ("plain", "none", "nan"):
            final = list(finals)[place % 3]
            yield f"table/{encoder}/{kind}", partial(fitted, encoder, "standard", final, kind)
    for scaler in scalers:
        for final in finals:
            yield f"table/{scaler}/{final}", partial(fitted, "onehot", scaler, final, "nan")
    for kind in ("mixed", "nullable", "float32", "category", "large"):
        for encoder in ("onehot", "ordinal"):
            yield f"table/{encoder}/{kind}", partial(fitted, encoder, "standard", "forest", kind)
        yield f"table/minmax/{kind}", partial(fitted, "onehot", "minmax", "forest", kind)

    def integers(encoder: Any, base: int) -> Fitted:
        random = np.random.default_rng(_SEED)
        keys = base + random.integers(0, 12, (600, 2))
        y = (keys.sum(axis=1) % 5 > 2).astype(int)
        frame = pd.DataFrame(keys, columns=["key", "group"])
        return _split(make_pipeline(encoder, LogisticRegression()), frame, y)

    for label, base in (("small", 0), ("large", 2**60)):
        yield (
            f"table/integers-onehot/{label}",
            partial(integers, OneHotEncoder(handle_unknown="ignore"), base),
        )
        yield (
            f"table/integers-ordinal/{label}",
            partial(
                integers, OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), base
            ),
        )

    def with_text(vectorizer: Any) -> Fitted:
        frame, y = _table_with_texts()
        steps = make_column_transformer((vectorizer, "words"), (StandardScaler(), ["size"]))
        return _split(make_pipeline(steps, LogisticRegression()), frame, y)

    yield "table/texts/words", partial(with_text, TfidfVectorizer())
    yield (
        "table/texts/characters",
        partial(with_text, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3))),
    )
    yield (
        "table/texts/stop-words",
        partial(with_text, TfidfVectorizer(stop_words="english", sublinear_tf=True)),
    )


# Networks.


def _torch() -> Iterator[tuple[str, Make]]:
    def fitted(
        build: Callable[[Any], Any], rows: Callable[[np.random.Generator], np.ndarray]
    ) -> Fitted:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        network = build(torch).eval()
        random = np.random.default_rng(_SEED)

        def ask(model: Any, data: Any, names: list[str]) -> dict[str, np.ndarray]:
            with torch.no_grad():
                return {names[0]: model(torch.as_tensor(data)).numpy()}

        return Fitted(
            network, rows(random), rows(random), rows(random)[:40], ask, other_types=False
        )

    def vectors(random: np.random.Generator) -> np.ndarray:
        return random.normal(size=(80, 6)).astype(np.float32)

    def images(random: np.random.Generator) -> np.ndarray:
        return random.normal(size=(40, 1, 8, 8)).astype(np.float32)

    def places(random: np.random.Generator) -> np.ndarray:
        return random.integers(0, 20, (80, 5))

    yield (
        "torch/dense",
        partial(
            fitted,
            lambda t: t.nn.Sequential(
                t.nn.Linear(6, 16), t.nn.ReLU(), t.nn.Linear(16, 3), t.nn.Softmax(1)
            ),
            vectors,
        ),
    )
    yield (
        "torch/norms",
        partial(
            fitted,
            lambda t: t.nn.Sequential(
                t.nn.Linear(6, 16),
                t.nn.BatchNorm1d(16),
                t.nn.GELU(),
                t.nn.LayerNorm(16),
                t.nn.Linear(16, 1),
            ),
            vectors,
        ),
    )
    yield (
        "torch/images",
        partial(
            fitted,
            lambda t: t.nn.Sequential(
                t.nn.Conv2d(1, 4, 3),
                t.nn.ReLU(),
                t.nn.MaxPool2d(2),
                t.nn.Flatten(),
                t.nn.Linear(36, 4),
            ),
            images,
        ),
    )
    yield (
        "torch/embedding",
        partial(
            fitted,
            lambda t: t.nn.Sequential(t.nn.Embedding(20, 4), t.nn.Flatten(), t.nn.Linear(20, 2)),
            places,
        ),
    )
    yield (
        "torch/embedding-padded",
        partial(
            fitted,
            lambda t: t.nn.Sequential(
                t.nn.Embedding(20, 4, padding_idx=0), t.nn.Flatten(), t.nn.Linear(20, 2)
            ),
            places,
        ),
    )
    yield (
        "torch/embedding-bag",
        partial(
            fitted, lambda t: t.nn.Sequential(t.nn.EmbeddingBag(20, 4), t.nn.Linear(4, 2)), places
        ),
    )
