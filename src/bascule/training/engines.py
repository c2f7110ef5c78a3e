"""Engines that search for a model of a table: FLAML, and Optuna."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import MissingExtra, load_named

if TYPE_CHECKING:
    import optuna

SEARCHED = (
    "accuracy", "average_precision", "f1", "f1_macro", "log_loss", "mae", "mape", "mse", "r2",
    "rmse", "roc_auc", "roc_auc_ovr",
)  # fmt: skip
"""The metrics that every engine can search by."""
_FLAML_METRICS = {"average_precision": "ap", "f1_macro": "macro_f1"}
_CLASSES = {
    "lgbm": "lightgbm:LGBM", "xgboost": "xgboost:XGB", "rf": "sklearn.ensemble:RandomForest",
    "extra_tree": "sklearn.ensemble:ExtraTrees",
}  # fmt: skip
"""Of each kind of trees, what begins the names of its classifier and its regressor."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows to search on, and for how long.

    Attributes:
        rows: Numbers without missing values. Shape (rows, inputs).
        classes: Of the truth; 0 where it is a number.
        metric: One of `SEARCHED`.
        groups: Equal where rows must not be separated; None where each row is its own.
        is_in_time: Whether later rows are newer.
    """

    rows: NDArray[np.float64]
    truth: NDArray[Any]
    classes: int
    metric: str
    groups: NDArray[Any] | None
    is_in_time: bool
    budget_s: float

    @property
    def kinds(self) -> list[str]:
        """Kinds of trees whose libraries are installed, and that take the labels as they are."""
        takes_all = not self.classes or set(self.truth) == set(range(self.classes))
        kinds = [kind for kind, place in _CLASSES.items() if find_spec(place.partition(":")[0])]
        return [kind for kind in kinds if takes_all or kind != "xgboost"]


Engine = Callable[[Problem, dict[str, Any]], None]
"""Fills a mapping from kinds to their best estimators, not fitted, the best kind first.

It is stopped by an exception where it takes longer, and keeps what it has found then.
"""


def _by_flaml(problem: Problem, best: dict[str, Any]) -> None:
    """FLAML (Wang, Wu, Weimer and Zhu 2021): cheap settings first."""
    from flaml import AutoML

    engine, split = AutoML(), "time" if problem.is_in_time else "auto"
    try:
        engine.fit(
            problem.rows, problem.truth, metric=_FLAML_METRICS.get(problem.metric, problem.metric),
            task="classification" if problem.classes else "regression",
            split_type=split if problem.groups is None else "group", groups=problem.groups,
            time_budget=problem.budget_s, estimator_list=problem.kinds, n_jobs=os.cpu_count(),
            seed=0, verbose=0, log_file_name="", retrain_full=False,
        )  # fmt: skip
    finally:
        losses = getattr(engine, "best_loss_per_estimator", {})  # before it has begun: none
        for kind in sorted(losses, key=lambda kind: losses[kind]):
            if (model := engine.best_model_for_estimator(kind)) is not None:
                best[kind] = model.estimator_class(**model.params)


def _by_optuna(problem: Problem, best: dict[str, Any]) -> None:
    """Optuna (Akiba and others 2019): a tree-structured Parzen estimator over all kinds of trees.

    Settings are scored once, on a fifth of the rows.
    """
    import optuna
    from sklearn.base import clone
    from sklearn.metrics import get_scorer

    from bascule.metrics import METRICS

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (fit, held_out), scorer = _halves(problem), get_scorer(METRICS[problem.metric].scorer)
    scores: dict[str, float] = {}
    models: dict[str, Any] = {}

    def score(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", problem.kinds)
        model = _drawn(kind, trial, is_number=not problem.classes)
        fitted = clone(model).fit(problem.rows[fit], problem.truth[fit])
        value = float(scorer(fitted, problem.rows[held_out], problem.truth[held_out]))
        if value > scores.get(kind, -np.inf):
            scores[kind], models[kind] = value, model
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    for kind in problem.kinds:  # first what is soon done
        study.enqueue_trial({"kind": kind, f"{kind} trees": 32, f"{kind} leaves": 16})
    try:
        study.optimize(score, timeout=problem.budget_s, catch=(ValueError,))
    finally:
        best |= {kind: models[kind] for kind in sorted(scores, key=lambda kind: -scores[kind])}


def _halves(problem: Problem) -> Any:
    """Rows to fit on, and a fifth to score: the newest, of other groups, or by chance."""
    from sklearn import model_selection as cuts

    order = np.arange(len(problem.truth))
    if problem.is_in_time:
        return np.split(order, [len(order) * 4 // 5])
    chance = cuts.StratifiedShuffleSplit if problem.classes else cuts.ShuffleSplit
    cut = chance if problem.groups is None else cuts.GroupShuffleSplit
    splits = cut(1, test_size=0.2, random_state=0)
    return next(splits.split(order, problem.truth, problem.groups))


def _drawn(kind: str, trial: optuna.Trial, *, is_number: bool) -> Any:
    leaves = {"lgbm": "num_leaves", "xgboost": "max_leaves"}.get(kind, "max_leaf_nodes")
    settings: dict[str, Any] = {
        "n_estimators": trial.suggest_int(f"{kind} trees", 16, 512, log=True),
        leaves: trial.suggest_int(f"{kind} leaves", 4, 256, log=True),
        "n_jobs": os.cpu_count(), "random_state": 0,
    }  # fmt: skip
    if leaves == "max_leaf_nodes":
        settings["max_features"] = trial.suggest_float(f"{kind} share", 0.2, 1.0)
    else:
        settings["verbosity"] = -1 if kind == "lgbm" else 0
        settings["learning_rate"] = trial.suggest_float(f"{kind} rate", 0.02, 0.3, log=True)
    return load_named(_CLASSES[kind] + ("Regressor" if is_number else "Classifier"))(**settings)


ENGINES = {
    "flaml": (_by_flaml, "flaml:AutoML", "bascule[automl]"),
    "optuna": (_by_optuna, "optuna:create_study", "bascule[automl,optimise]"),
}
"""By name: what searches, what it needs, and what `pip install` brings that."""


def engine_named(name: str) -> Engine:
    """A key of `ENGINES`. Raises `MissingExtra` where it is not installed."""
    engine, needed, extra = ENGINES[name]
    try:
        load_named(needed)
    except (ImportError, AttributeError):  # the latter: FLAML without what its AutoML needs
        raise MissingExtra(f"{name} is missing", hint=f"pip install '{extra}'") from None
    return engine
