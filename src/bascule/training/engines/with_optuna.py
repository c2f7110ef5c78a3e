"""Optuna (Akiba and others 2019): a tree-structured Parzen estimator over each kind of trees."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.metrics import get_scorer

from bascule.metrics import METRICS
from bascule.training.engines.port import Problem


class Optuna:
    """See `port.Engine`. A setting is scored on a fifth of the rows, once."""

    def __init__(self, problem: Problem) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._problem = problem
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, group=True,
                                                                     multivariate=True)
        )  # fmt: skip

    def search(self) -> None:
        own = self._problem
        (fit, score), scorer = own.halves(), get_scorer(METRICS[own.metric].scorer)

        def value(trial: optuna.Trial) -> float:
            kind = trial.suggest_categorical("kind", own.kinds)
            model = _model(kind, own.classes, _settings(kind, trial))
            trial.set_user_attr("model", model.get_params())
            model.fit(own.rows[fit], own.truth[fit])
            return float(scorer(model, own.rows[score], own.truth[score]))

        for kind in own.kinds:
            self._study.enqueue_trial({"kind": kind})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.optimize(value, timeout=own.budget_s, catch=(ValueError,))

    def best(self) -> Sequence[tuple[str, Any]]:
        best: dict[str, Any] = {}
        done = [own for own in self._study.trials if not math.isnan(own.value or math.nan)]
        for trial in sorted(done, key=lambda own: -own.value):
            best.setdefault(trial.params["kind"], trial.user_attrs["model"])
        return [(kind, _model(kind, self._problem.classes, best[kind])) for kind in best]


def _settings(kind: str, trial: optuna.Trial) -> dict[str, Any]:
    number = trial.suggest_float
    if kind in ("rf", "extra_tree"):
        return {
            "n_estimators": trial.suggest_int(f"{kind}_trees", 16, 256, log=True),
            "max_leaf_nodes": trial.suggest_int(f"{kind}_leaves", 16, 1_024, log=True),
            "max_features": number(f"{kind}_features", 0.1, 1.0),
        }
    leaves = "num_leaves" if kind == "lgbm" else "max_leaves"
    return {
        "n_estimators": trial.suggest_int(f"{kind}_trees", 16, 512, log=True),
        leaves: trial.suggest_int(f"{kind}_leaves", 4, 256, log=True),
        "learning_rate": number(f"{kind}_rate", 0.02, 0.3, log=True),
        "min_child_weight": number(f"{kind}_weight", 1e-3, 30.0, log=True),
        "colsample_bytree": number(f"{kind}_features", 0.4, 1.0),
        "reg_lambda": number(f"{kind}_lambda", 1e-3, 10.0, log=True),
    }


def _model(kind: str, classes: int, settings: dict[str, Any]) -> Any:
    shared = {"n_jobs": os.cpu_count(), "random_state": 0, **settings}
    if kind == "lgbm":
        import lightgbm

        of = lightgbm.LGBMClassifier if classes else lightgbm.LGBMRegressor
        return of(**{"verbose": -1, **shared})
    if kind == "xgboost":
        import xgboost

        of = xgboost.XGBClassifier if classes else xgboost.XGBRegressor
        return of(**{"grow_policy": "lossguide", **shared})
    if kind == "rf":
        return (RandomForestClassifier if classes else RandomForestRegressor)(**shared)
    return (ExtraTreesClassifier if classes else ExtraTreesRegressor)(**shared)
