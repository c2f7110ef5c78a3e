"""Optuna (Akiba and others 2019): a tree-structured Parzen estimator over all kinds of trees."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import optuna
from sklearn import model_selection as cuts
from sklearn.metrics import get_scorer

from bascule.core import load_named
from bascule.metrics import METRICS
from bascule.training.engines.port import Problem

_CLASSES = {
    "lgbm": "lightgbm:LGBM", "xgboost": "xgboost:XGB", "rf": "sklearn.ensemble:RandomForest",
    "extra_tree": "sklearn.ensemble:ExtraTrees",
}  # fmt: skip


def search(problem: Problem, best: dict[str, Any]) -> None:
    """See `port.Engine`. Settings are scored once, on a fifth of the rows."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (fit, held_out), scorer = _halves(problem), get_scorer(METRICS[problem.metric].scorer)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    for kind in problem.kinds:  # first what is soon done
        study.enqueue_trial({"kind": kind, f"{kind} trees": 32, f"{kind} leaves": 16})

    def model_of(trial: Any) -> Any:
        suffix = "Classifier" if problem.classes else "Regressor"
        return load_named(_CLASSES[trial.params["kind"]] + suffix)(**trial.user_attrs["settings"])

    def value(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", problem.kinds)
        trial.set_user_attr("settings", _settings(kind, trial))
        model = model_of(trial).fit(problem.rows[fit], problem.truth[fit])
        return float(scorer(model, problem.rows[held_out], problem.truth[held_out]))

    try:
        study.optimize(value, timeout=problem.budget_s, catch=(ValueError,))
    finally:
        done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        for trial in sorted(done, key=lambda own: own.value or 0.0, reverse=True):
            best.setdefault(trial.params["kind"], model_of(trial))


def _halves(problem: Problem) -> Any:
    """Rows to fit on, and a fifth to score: the newest, of other groups, or by chance."""
    order = np.arange(len(problem.truth))
    if problem.is_in_time:
        return np.split(order, [len(order) * 4 // 5])
    chance = cuts.StratifiedShuffleSplit if problem.classes else cuts.ShuffleSplit
    cut = chance if problem.groups is None else cuts.GroupShuffleSplit
    splits = cut(1, test_size=0.2, random_state=0)
    return next(splits.split(order, problem.truth, problem.groups))


def _settings(kind: str, trial: optuna.Trial) -> dict[str, Any]:
    leaves = {"lgbm": "num_leaves", "xgboost": "max_leaves"}.get(kind, "max_leaf_nodes")
    settings = {
        "n_estimators": trial.suggest_int(f"{kind} trees", 16, 512, log=True),
        leaves: trial.suggest_int(f"{kind} leaves", 4, 256, log=True),
        "n_jobs": os.cpu_count(), "random_state": 0,
    }  # fmt: skip
    if leaves == "max_leaf_nodes":
        return settings | {"max_features": trial.suggest_float(f"{kind} share", 0.2, 1.0)}
    return settings | {
        "verbosity": -1 if kind == "lgbm" else 0,
        "learning_rate": trial.suggest_float(f"{kind} rate", 0.02, 0.3, log=True),
        "min_child_weight": trial.suggest_float(f"{kind} weight", 1e-3, 30.0, log=True),
    }
