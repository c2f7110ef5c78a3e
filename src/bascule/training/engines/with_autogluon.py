"""AutoGluon (Erickson and others 2020): the settings of its single models, without its ensemble.

What it calls medium quality answers with a weighted ensemble of all its models, and prepares columns
in its own code: neither can be compiled. Its trees can, fitted again on the rows of the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from autogluon.tabular import TabularPredictor
from sklearn.base import clone

from bascule.core import Scratch
from bascule.training.engines.port import Problem

_NAMES = {
    "mae": "mean_absolute_error", "mape": "mean_absolute_percentage_error",
    "mse": "mean_squared_error", "rmse": "root_mean_squared_error",
}  # fmt: skip
_KINDS = {
    "LightGBM": "lgbm", "XGBoost": "xgboost", "CatBoost": "catboost", "RandomForest": "rf",
    "ExtraTrees": "extra_tree",
}  # fmt: skip
_OF_TRAINING = ("metric", "num_class", "num_iterations", "objective")


class AutoGluon:
    """See `port.Engine`."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._best: list[tuple[str, Any]] = []

    def search(self) -> None:
        own = self._problem
        task = "regression" if not own.classes else "binary" if own.classes == 2 else "multiclass"
        fit, score = own.halves()
        frame = pd.DataFrame(own.rows).add_prefix("input").assign(target=own.truth)
        kinds = ("GBM", "CAT", "RF", "XT", *(["XGB"] if "xgboost" in own.kinds else []))
        with Scratch("bascule-autogluon-") as folder:
            predictor = TabularPredictor(
                "target", task, _NAMES.get(own.metric, own.metric), path=str(folder), verbosity=0
            ).fit(
                frame.iloc[fit], frame.iloc[score], time_limit=own.budget_s,
                hyperparameters=dict.fromkeys(kinds, {}), fit_weighted_ensemble=False,
            )  # fmt: skip
            for name in predictor.leaderboard().model:  # the best first
                trained = predictor._trainer.load_model(name)
                self._best.append((_KINDS[name], _unfitted(trained, own.classes)))

    def best(self) -> Sequence[tuple[str, Any]]:
        return self._best


def _unfitted(trained: Any, classes: int) -> Any:
    """An estimator with the settings of a fitted model, and as many trees as it kept."""
    model, trees = trained.model, trained.params_trained
    if not hasattr(model, "get_params"):
        import lightgbm

        of = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
        settings = {name: own for name, own in model.params.items() if name not in _OF_TRAINING}
        return of(**settings, n_estimators=trees["num_boost_round"])
    if hasattr(model, "get_booster"):
        trees = {**trees, "base_score": None, "callbacks": None}
    return clone(model).set_params(**trees)
