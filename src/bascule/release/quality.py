"""The figures for a bundle's card: usual metrics on its held-out rows, overall and by slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.bundle.disk import CLASSIFICATIONS, OUTLIERS, RANKING, REGRESSIONS, SURVIVAL
from bascule.bundle.statements import flat_columns
from bascule.core import BasculeError
from bascule.release.conditional import texts_of
from bascule.release.leakage import overlap
from bascule.release.measure import answers_of, score_of, scores_by_target

if TYPE_CHECKING:
    from bascule.bundle import Bundle

KIND = "quality"
_METRICS = {
    "classification": ("accuracy", "balanced_accuracy", "auc", "log_loss"),
    "regression": ("r2", "mae", "rmse"),
    OUTLIERS: ("balanced_accuracy", "auc"),
    CLASSIFICATIONS: ("accuracy", "balanced_accuracy", "auc", "log_loss"),
    REGRESSIONS: ("r2", "mae", "rmse"),
    RANKING: ("ndcg_5", "ndcg_10"),
    SURVIVAL: ("concordance",),
}
MAX_SLICES = 12
"""Values of a column up to which it is a grouping that a card shows."""
MAX_COLUMNS = 8


def measure_quality(bundle: Bundle) -> dict[str, Any] | None:
    """The body of a `quality` statement; None where there is nothing to measure it on.

    Sliced by the columns that hold texts, flags or whole numbers, and few of them; those with the
    fewest values first. A metric that has no value for a slice is None there. Of several outputs,
    the figures are those of the worst one, and `targets` has each.
    """
    metrics = _METRICS.get(bundle.task)
    held_out = bundle.test_data()
    if metrics is None or held_out is None:
        return None
    columns, truth = held_out
    if truth is None:
        return None
    answers = answers_of(bundle, columns)
    known: NDArray[Any] = truth

    def scores(rows: Any) -> dict[str, float | None]:
        found = {
            name: score_of(bundle, name, take(answers, rows), known[rows]).value for name in metrics
        }
        return {name: _rounded(value) for name, value in found.items()}

    slices: dict[str, dict[str, Any]] = {}
    for column, texts in _groupings(bundle, columns).items():
        values, inverse = np.unique(texts, return_inverse=True)
        slices[column] = {
            value: {
                "rows": int((inverse == index).sum()),
                "metrics": scores(np.flatnonzero(inverse == index)),
            }
            for index, value in enumerate(values.tolist())
        }
    try:
        shared = overlap(bundle, columns).value
    except BasculeError:
        shared = None
    by_target = {
        metric: scores_by_target(bundle, metric, answers, known)
        for metric in metrics
        if bundle.targets
    }
    made = {
        "rows": len(truth),
        "overall": scores(slice(None)),
        "slices": slices,
        "train_test_overlap": shared,
    }
    if bundle.targets:
        made["targets"] = {
            target.name: {
                metric: _rounded(found[target.name].value) for metric, found in by_target.items()
            }
            for target in bundle.targets
        }
    return made


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 6)


def _groupings(bundle: Bundle, columns: Any) -> dict[str, Any]:
    found = {}
    for name, values in flat_columns(columns, bundle.signature).items():
        if values.dtype.kind == "f":
            numbers = values[~np.isnan(values)]
            if not np.array_equal(numbers, np.round(numbers)):
                continue
        texts = texts_of(values)
        if 2 <= len(np.unique(texts)) <= MAX_SLICES:
            found[name] = texts
    chosen = sorted(found, key=lambda name: (len(np.unique(found[name])), name))[:MAX_COLUMNS]
    return {name: found[name] for name in chosen}
