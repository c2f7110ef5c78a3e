"""FLAML (Wang, Wu, Weimer and Zhu 2021): cheap settings first."""

from __future__ import annotations

import os
from typing import Any

from flaml import AutoML

from bascule.training.engines.port import Problem

_NAMES = {"average_precision": "ap", "f1_macro": "macro_f1"}


def search(problem: Problem, best: dict[str, Any]) -> None:
    """See `port.Engine`."""
    engine, split = AutoML(), "time" if problem.is_in_time else "auto"
    if problem.groups is not None:
        split = "group"
    try:
        engine.fit(
            problem.rows, problem.truth, metric=_NAMES.get(problem.metric, problem.metric),
            task="classification" if problem.classes else "regression", split_type=split,
            groups=problem.groups, time_budget=problem.budget_s, estimator_list=problem.kinds,
            n_jobs=os.cpu_count(), seed=0, verbose=0, log_file_name="", retrain_full=False,
        )  # fmt: skip
    finally:
        losses = getattr(engine, "best_loss_per_estimator", {})  # before it has begun: none
        for kind in sorted(losses, key=lambda kind: losses[kind]):
            if (model := engine.best_model_for_estimator(kind)) is not None:
                best[kind] = model.estimator_class(**model.params)
