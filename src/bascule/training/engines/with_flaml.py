"""FLAML (Wang, Wu, Weimer and Zhu 2021): cheap settings first."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from flaml import AutoML

from bascule.training.engines.port import Problem

_NAMES = {"average_precision": "ap", "f1_macro": "macro_f1"}


class Flaml:
    """See `port.Engine`."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._engine = problem, AutoML()

    def search(self) -> None:
        own = self._problem
        split: dict[str, Any] = {"split_type": "time"} if own.is_in_time else {}
        if own.groups is not None:
            split = {"split_type": "group", "groups": own.groups}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._engine.fit(
                own.rows, own.truth, metric=_NAMES.get(own.metric, own.metric),
                task="classification" if own.classes else "regression",
                time_budget=own.budget_s, estimator_list=own.kinds, n_jobs=os.cpu_count(), seed=0,
                verbose=0, log_file_name="", retrain_full=False, **split,
            )  # fmt: skip

    def best(self) -> Sequence[tuple[str, Any]]:
        losses = self._engine.best_loss_per_estimator
        models = [
            (kind, self._engine.best_model_for_estimator(kind))
            for kind in sorted(losses, key=losses.get)
        ]
        return [
            (kind, model.estimator_class(**model.params)) for kind, model in models if model
        ]
