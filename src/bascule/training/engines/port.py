"""What a search asks of an engine; a file and a line of `ENGINES` add an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.core import Invalid, MissingExtra, load_named

ENGINES = {
    "autogluon": ("bascule.training.engines.with_autogluon:AutoGluon", "autogluon.tabular"),
    "flaml": ("bascule.training.engines.with_flaml:Flaml", "bascule[automl]"),
    "optuna": ("bascule.training.engines.with_optuna:Optuna", "bascule[automl,optimise]"),
}
"""By name: the class, and what `pip install` brings it."""
METRICS = (
    "accuracy", "average_precision", "f1", "f1_macro", "log_loss", "mae", "mape", "mse", "r2",
    "rmse", "roc_auc", "roc_auc_ovr",
)  # fmt: skip
"""What every engine can search by."""
_HELD_OUT = 0.2


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows to search on.

    Attributes:
        rows: Numbers without missing values. Shape (rows, inputs).
        truth: Labels, or numbers. Shape (rows,).
        classes: Of the truth; 0 where it is a number.
        metric: One of `METRICS`.
        groups: By row, equal where rows must not be separated; None where each row is its own.
        is_in_time: Whether later rows are newer.
        budget_s: For the search. What it has after 1.1 times that is taken.
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
        """The kinds of trees whose libraries are installed, and that take the labels as they are."""
        kinds = [kind for kind in ("lgbm", "xgboost") if find_spec(_LIBRARY[kind])]
        if self.classes and sorted(set(self.truth)) != list(range(self.classes)):
            kinds = [kind for kind in kinds if kind != "xgboost"]
        return [*kinds, "rf", "extra_tree"]

    def halves(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows to fit on, and a fifth to score: the newest, of other groups, or by chance."""
        from sklearn.model_selection import (
            GroupShuffleSplit,
            ShuffleSplit,
            StratifiedShuffleSplit,
        )

        if self.is_in_time:
            fit, score = np.split(np.arange(len(self.rows)), [round(len(self.rows) * 0.8)])
            return fit, score
        cut = GroupShuffleSplit if self.groups is not None else ShuffleSplit
        if self.groups is None and self.classes:
            cut = StratifiedShuffleSplit
        splits = cut(1, test_size=_HELD_OUT, random_state=0)
        return next(splits.split(self.rows, self.truth, self.groups))  # type: ignore[no-any-return]


_LIBRARY = {"lgbm": "lightgbm", "xgboost": "xgboost"}


class Engine(Protocol):
    """A search, which may be stopped at any time by an exception."""

    def __init__(self, problem: Problem) -> None: ...

    def search(self) -> None:
        """Search for `Problem.budget_s`."""

    def best(self) -> Sequence[tuple[str, Any]]:
        """Kinds and their best estimators so far, not fitted; the best first."""


def engine_named(name: str) -> type[Engine]:
    """An engine. Raises `Invalid`, and `MissingExtra` where it is not installed."""
    if name not in ENGINES:
        raise Invalid(f"there is no engine {name!r}", hint=f"engines are {', '.join(ENGINES)}")
    place, package = ENGINES[name]
    try:
        engine: type[Engine] = load_named(place)
    except ImportError as problem:
        hint = f"pip install '{package}'"
        raise MissingExtra(f"{problem.name} is missing", hint=hint) from None
    return engine
