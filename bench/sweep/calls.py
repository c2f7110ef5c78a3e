"""Models of the sweep of which a claim is easily about something else than what the user calls.

Methods of their author's own, labels that other numbers decide than the probabilities, thresholds,
steep steps behind floats, and whole numbers as categories.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from bench.sweep.judge import Fitted

Split = Callable[..., Fitted]
"""Fits a model on some of the rows: (model, X, y)."""
Make = Callable[[], Fitted]
_OWN = Path(__file__).with_name("overriding.py")
_CATBOOST = {"iterations": 20, "verbose": False, "allow_writing_files": False, "thread_count": 1}
_LIGHTGBM = {"n_estimators": 20, "verbose": -1, "n_jobs": 1}
_XGBOOST = {"n_estimators": 20, "n_jobs": 1}


def models(split: Split) -> Iterator[tuple[str, Make]]:
    """By name."""
    for part in (_overrides, _ties, _thresholds, _steps, _whole_categories):
        yield from part(split)


def _rows(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X, y


def _booster(name: str, **settings: Any) -> Any:
    home = {"XGB": "xgboost", "LGB": "lightgbm", "Cat": "catboost"}[name[:3]]
    known = {"xgboost": _XGBOOST, "lightgbm": _LIGHTGBM, "catboost": _CATBOOST}[home]
    return getattr(import_module(home), name)(**known, **settings)


# Overrides: of every method, in every flavor that has estimators.


def _overrides(split: Split) -> Iterator[tuple[str, Make]]:
    settings = {"XGB": _XGBOOST, "LGBM": _LIGHTGBM, "CatBoost": _CATBOOST}

    def fitted(name: str, wrap: Callable[[Any], Any] | None, data: str, with_code: bool) -> Fitted:
        if str(_OWN.parent) not in sys.path:
            sys.path.append(str(_OWN.parent))
        kind = getattr(import_module(_OWN.stem), name)
        known: dict[str, Any] = next((s for end, s in settings.items() if name.endswith(end)), {})
        if name.endswith("Pipeline"):
            last = Ridge() if data == "diabetes" else LogisticRegression()
            known = {"steps": [("scaled", StandardScaler()), ("last", last)]}
        model = kind(**known)
        X, y = _rows(data)
        is_alone = name in ("ShiftedClusters", "StrictDetector")
        made = split(model if wrap is None else wrap(model), X, None if is_alone else y)
        return replace(made, code=(str(_OWN),) if with_code else ())

    for name in _own_names():
        data = "diabetes" if name.startswith("Doubled") else "breast_cancer"
        wrap = _before_logistic if name.startswith("Zeroed") else None
        yield f"calls/{name}", partial(fitted, name, wrap, data, True)
    for home in settings:
        yield f"calls/Rare{home}/bare", partial(fitted, f"Rare{home}", None, "breast_cancer", False)
        scaled = partial(make_pipeline, StandardScaler())
        place = f"calls/Rare{home}/pipeline"
        yield place, partial(fitted, f"Rare{home}", scaled, "breast_cancer", True)
    for label, wrap in {"member": _among_others, "against-the-rest": OneVsRestClassifier}.items():
        data = "wine" if wrap is OneVsRestClassifier else "breast_cancer"
        yield f"calls/RareLogistic/{label}", partial(fitted, "RareLogistic", wrap, data, True)


def _own_names() -> list[str]:
    from bench.sweep.overriding import NAMES

    return NAMES


def _before_logistic(step: Any) -> Any:
    return make_pipeline(step, LogisticRegression(max_iter=2000))


def _among_others(member: Any) -> Any:
    return VotingClassifier([("own", member), ("tree", DecisionTreeClassifier(max_depth=3))])


# Ties: labels that are decided by other numbers than the probabilities, or evenly.


def _ties(split: Split) -> Iterator[tuple[str, Make]]:
    def fitted(model: Any, data: Callable[[], tuple[Any, Any]]) -> Fitted:
        return split(model, *data())

    def several() -> tuple[np.ndarray, np.ndarray]:
        X, y = _rows("digits")
        return X, np.column_stack([y, y % 3])

    digits = partial(_rows, "digits")
    for loss in ("modified_huber", "log_loss"):
        plain = SGDClassifier(loss=loss, random_state=0)
        yield f"ties/{loss}", partial(fitted, plain, digits)
        yield f"ties/{loss}/scaled", partial(fitted, make_pipeline(StandardScaler(), plain), digits)
        yield f"ties/{loss}/against-the-rest", partial(fitted, OneVsRestClassifier(plain), digits)
        yield f"ties/{loss}/outputs", partial(fitted, MultiOutputClassifier(plain), several)
        yield f"ties/{loss}/two-classes", partial(fitted, plain, partial(_rows, "breast_cancer"))
    even = RandomForestClassifier(4, max_depth=2, random_state=0)
    yield "ties/even-forest", partial(fitted, even, digits)
    few = RandomForestClassifier(6, min_samples_leaf=9, random_state=0)
    yield "ties/impure-forest", partial(fitted, few, partial(_rows, "wine"))
    votes = VotingClassifier(
        [("a", DecisionTreeClassifier(max_depth=2)), ("b", LogisticRegression(max_iter=50))]
    )
    yield "ties/votes", partial(fitted, votes, digits)


# Thresholds of the model's own.


def _thresholds(split: Split) -> Iterator[tuple[str, Make]]:
    cancer = partial(_rows, "breast_cancer")

    def of_catboost(threshold: float, in_pipeline: bool, **settings: Any) -> Fitted:
        model = _booster("CatBoostClassifier", **settings)
        made = split(make_pipeline(StandardScaler(), model) if in_pipeline else model, *cancer())
        last = made.model[-1] if in_pipeline else made.model
        last.set_probability_threshold(threshold)
        return made

    for threshold in (0.05, 0.5001, 0.9):
        for in_pipeline in (False, True):
            yield (
                f"thresholds/CatBoost/{threshold}{'/pipeline' * in_pipeline}",
                partial(of_catboost, threshold, in_pipeline),
            )
    yield (
        "thresholds/CatBoost/weights",
        partial(of_catboost, 0.5, False, auto_class_weights="Balanced"),
    )

    def fitted(model: Any) -> Fitted:
        return split(model, *cancer())

    logistic = LogisticRegression(max_iter=2000)
    scaled = make_pipeline(StandardScaler(), logistic)
    for label, model in {
        "fixed": FixedThresholdClassifier(scaled, threshold=0.9),
        "fixed/first": FixedThresholdClassifier(scaled, threshold=0.2, pos_label=0),
        "fixed/decision": FixedThresholdClassifier(
            scaled, threshold=1.5, response_method="decision_function"
        ),
        "fixed/pipeline": make_pipeline(
            StandardScaler(), FixedThresholdClassifier(logistic, threshold=0.7)
        ),
        "fixed/boosted": FixedThresholdClassifier(_booster("XGBClassifier"), threshold=0.8),
        "tuned": TunedThresholdClassifierCV(scaled, cv=3),
        "tuned/pipeline": make_pipeline(
            StandardScaler(), TunedThresholdClassifierCV(logistic, cv=3)
        ),
    }.items():
        yield f"thresholds/{label}", partial(fitted, model)


# Steep steps.


def _steps(split: Split) -> Iterator[tuple[str, Make]]:
    def fitted(model: Any, dtype: Any) -> Fitted:
        X, y = datasets.make_classification(2400, 12, n_informative=6, flip_y=0.2, random_state=0)
        return split(model, X.astype(dtype), y)

    bases = {
        "XGBoost": _booster("XGBClassifier"),
        "LightGBM": _booster("LGBMClassifier"),
        "CatBoost": _booster("CatBoostClassifier"),
        "logistic": LogisticRegression(),
        "forest": RandomForestClassifier(30, random_state=0),
    }
    for label, base in bases.items():
        for method in ("isotonic", "sigmoid"):
            model = CalibratedClassifierCV(base, method=method, cv=3)
            for dtype in (np.float64, np.float32):
                name = f"steps/{method}/{label}/{np.dtype(dtype).name}"
                yield name, partial(fitted, model, dtype)
        stack = StackingClassifier([("base", base)], DecisionTreeClassifier(max_depth=6), cv=3)
        yield f"steps/tree-behind/{label}", partial(fitted, stack, np.float64)


# Whole numbers as categories.


def _whole_categories(split: Split) -> Iterator[tuple[str, Make]]:
    def fitted(name: str, holes: bool) -> Fitted:
        random = np.random.default_rng(3)
        codes = random.integers(0, 5, 800)
        values = np.array([3, 5, 9, 40, 1000])[codes].astype(object)
        if holes:
            values[random.random(800) < 0.1] = None
        x = random.normal(size=800)
        y = ((codes == 1) | (codes == 3)) ^ (x > 1)
        column = pd.Series(values)
        settings: dict[str, Any] = {}
        fit: dict[str, Any] = {}
        if name.startswith("Cat"):
            column = column.fillna(-1).astype(int) if holes else column.astype(int)
            fit["cat_features"] = ["code"]
        else:
            column = column.astype(pd.CategoricalDtype([3, 5, 9, 40, 1000]))
        if name.startswith("XGB"):
            settings["enable_categorical"] = True
        return split(
            _booster(name, **settings), pd.DataFrame({"code": column, "x": x}), y.astype(int), **fit
        )

    for name in ("XGBClassifier", "LGBMClassifier", "CatBoostClassifier"):
        for holes in (False, True):
            yield f"whole-categories/{name}{'/holes' * holes}", partial(fitted, name, holes)
