"""What a search asks of an engine; a file and a line of `ENGINES` add an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.core import MissingExtra, load_named

ENGINES = {"flaml": "bascule[automl]", "optuna": "bascule[automl,optimise]"}
"""By name, what `pip install` brings it."""
SEARCHED = (
    "accuracy", "average_precision", "f1", "f1_macro", "log_loss", "mae", "mape", "mse", "r2",
    "rmse", "roc_auc", "roc_auc_ovr",
)  # fmt: skip
"""The metrics that every engine can search by."""
_LIBRARIES = {
    "lgbm": "lightgbm", "xgboost": "xgboost", "rf": "sklearn", "extra_tree": "sklearn",
}  # fmt: skip


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
        kinds = [kind for kind, library in _LIBRARIES.items() if find_spec(library)]
        return [kind for kind in kinds if takes_all or kind != "xgboost"]


Engine = Callable[[Problem, dict[str, Any]], None]
"""Fills a mapping from kinds to their best estimators, not fitted, the best kind first.

It is stopped by an exception where it takes longer, and keeps what it has found then.
"""


def engine_named(name: str) -> Engine:
    """A key of `ENGINES`. Raises `MissingExtra` where it is not installed."""
    try:
        engine: Engine = load_named(f"bascule.training.engines.by_{name}:search")
    except ImportError as problem:
        hint = f"pip install '{ENGINES[name]}'"
        raise MissingExtra(f"{problem.name} is missing", hint=hint) from None
    return engine
