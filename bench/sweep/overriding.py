"""Estimators whose author overrides one method of a library's, made in every combination.

Imported as a module of its own, so that `code=` can name the file. All but the `Cautious` and
`Doubled` ones answer otherwise only where the first number is in a narrow band, which few rows are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from catboost import CatBoostClassifier, CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier, XGBRegressor

Method = Callable[..., Any]


def _in_band(X: Any) -> np.ndarray:
    first = np.asarray(X, dtype=object)[:, 0].astype(np.float64)
    return (first > 14.0) & (first < 14.2)


def _cautious(_: Any) -> Method:
    def predict(self: Any, X: Any, **_: Any) -> Any:
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.9).astype(int)]

    return predict


def _rare(base: Any) -> Method:
    def predict(self: Any, X: Any, **_: Any) -> Any:
        return np.where(_in_band(X), self.classes_[0], np.ravel(base.predict(self, X)))

    return predict


def _softened(base: Any) -> Method:
    def predict_proba(self: Any, X: Any, **_: Any) -> Any:
        shares = base.predict_proba(self, X)
        return np.where(_in_band(X)[:, None], 1 / shares.shape[1], shares)

    return predict_proba


def _doubled(base: Any) -> Method:
    def predict(self: Any, X: Any, **_: Any) -> Any:
        return np.asarray(base.predict(self, X)) * 2

    return predict


def _shifted(base: Any) -> Method:
    def predict(self: Any, X: Any) -> Any:
        return (base.predict(self, X) + _in_band(X)) % self.n_clusters

    return predict


def _strict(base: Any) -> Method:
    def decision_function(self: Any, X: Any) -> Any:
        return base.decision_function(self, X) - 0.05

    return decision_function


def _zeroed(base: Any) -> Method:
    def transform(self: Any, X: Any) -> Any:
        return np.where(_in_band(X)[:, None], 0.0, base.transform(self, X))

    return transform


_CLASSIFIERS = {
    "XGB": XGBClassifier,
    "LGBM": LGBMClassifier,
    "CatBoost": CatBoostClassifier,
    "Logistic": LogisticRegression,
    "Forest": RandomForestClassifier,
    "Pipeline": Pipeline,
}
_REGRESSORS = {
    "XGB": XGBRegressor,
    "LGBM": LGBMRegressor,
    "CatBoost": CatBoostRegressor,
    "Ridge": Ridge,
    "Pipeline": Pipeline,
}
_WAYS = [
    ("Cautious", _cautious, _CLASSIFIERS),
    ("Rare", _rare, _CLASSIFIERS),
    ("Softened", _softened, _CLASSIFIERS),
    ("Doubled", _doubled, _REGRESSORS),
    ("Shifted", _shifted, {"Clusters": KMeans}),
    ("Strict", _strict, {"Detector": IsolationForest}),
    ("Zeroed", _zeroed, {"Scaler": StandardScaler, "Selection": SelectKBest}),
]
NAMES = [f"{way}{name}" for way, _, bases in _WAYS for name in bases]
for way, override, bases in _WAYS:
    for name, base in bases.items():
        method = override(base)
        kind = type(f"{way}{name}", (base,), {"__module__": __name__, method.__name__: method})
        globals()[kind.__name__] = kind
