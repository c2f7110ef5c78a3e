"""Signs that the truth leaked: rows that were trained on, and columns that give the answer away."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing
from bascule.bundle.statements import TRAINING_KIND, Training, flat_columns
from bascule.core import Columns, Untrusted
from bascule.release.gates import Measured

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_MOST_ROWS = 20_000
_FOLDS = 3
_LEAVES = 32
_NO_TRAINING = "the bundle says nothing of its training rows; pack it again with train"


def training_of(bundle: Bundle) -> Training | None:
    """What is kept of the training rows, where anything is."""
    said = bundle.statements(TRAINING_KIND)
    return Training.from_json(said[-1].body) if said else None


def overlap(bundle: Bundle, columns: Columns) -> Measured:
    """The share of the held-out rows that the model was trained on."""
    training = training_of(bundle)
    if training is None:
        return Measured(None, _NO_TRAINING)
    try:
        share, asked = training.overlap(columns)
    except Untrusted as problem:
        return Measured(None, problem.message)
    count = len(next(iter(columns.values())))
    exact = "" if asked == count else f", a sample of {count:,}"
    return Measured(share, f"{round(share * asked):,} of {asked:,} rows{exact}")


def coverage(bundle: Bundle, columns: Columns) -> Measured:
    """The share of the held-out rows that lie inside what the model was trained on."""
    training = training_of(bundle)
    if training is None:
        return Measured(None, _NO_TRAINING)
    inside = training.is_inside(flat_columns(columns, bundle.signature))
    return Measured(float(inside.mean()), f"{int(inside.sum()):,} of {len(inside):,} rows")


def target_in_features(bundle: Bundle, columns: Columns, truth: NDArray[Any]) -> Measured:
    """How well the one column that knows most of the target predicts it by itself.

    A small tree is grown on each column alone and asked about rows that it did not see. The value
    is its ROC AUC (one against the rest) or its R2. Near 1, the column *is* the target, under
    another name or from after the fact.
    """
    scores = _scores_of_columns(bundle, flat_columns(columns, bundle.signature), truth)
    best = max(scores, key=lambda name: scores[name])
    return Measured(scores[best], f"column {best!r} by itself")


def _scores_of_columns(
    bundle: Bundle, columns: Mapping[str, NDArray[Any]], truth: NDArray[Any]
) -> dict[str, float]:
    """By column; of several targets, for the one that it knows most of."""
    targets = bundle.targets
    if not targets and truth.ndim > 1:  # relevances, or times
        return single_scores(columns, truth[:, 0].astype(np.float64), numbers=True)
    if not targets:
        return single_scores(columns, truth, numbers=bundle.task == "regression")
    each = [
        single_scores(columns, np.asarray(truth[:, place].tolist()), numbers=target.classes is None)
        for place, target in enumerate(targets)
    ]
    return {name: max(scores[name] for scores in each) for name in each[0]}


def single_scores(
    columns: Mapping[str, NDArray[Any]], truth: NDArray[Any], *, numbers: bool
) -> dict[str, float]:
    """How well each column predicts the truth by itself: ROC AUC, or R2 of numbers, on unseen rows.

    Columns and truth have the shape (rows,). Raises `ValueError` where a class has under 3 rows.
    """
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    rows = np.arange(len(truth))
    if len(rows) > _MOST_ROWS:
        rows = np.unique(np.linspace(0, len(truth) - 1, _MOST_ROWS).astype(np.int64))
    maker = DecisionTreeRegressor if numbers else DecisionTreeClassifier
    answers = truth[rows]
    scorer = "r2" if numbers else "roc_auc"
    if not numbers:
        kinds, counts = np.unique(answers, return_counts=True)
        if len(kinds) < 2 or counts.min() < _FOLDS:
            raise ValueError("the held-out rows have too few of one class")
        scorer = "roc_auc" if len(kinds) == 2 else "roc_auc_ovr"
    splitter = KFold if numbers else StratifiedKFold
    folds = splitter(_FOLDS, shuffle=True, random_state=0)
    made = {}
    for name, values in columns.items():
        tree = maker(max_leaf_nodes=_LEAVES, min_samples_leaf=2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = cross_val_score(
                tree, _as_numbers(values[rows]), answers, cv=folds, scoring=scorer
            )
        made[name] = float(np.mean(found))
    return made


def _as_numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """One column for a tree: texts by their order, missing ones apart."""
    if values.dtype.kind == "O":
        missing = is_missing(values)
        texts = np.array([str(value) for value in values.tolist()], object)
        _, codes = np.unique(texts.astype(str), return_inverse=True)
        return np.where(missing, -1.0, codes.astype(np.float64)).reshape(-1, 1)
    return values.astype(np.float64).reshape(-1, 1)
