"""Fits the scorer of outliers on training rows, and calibrates it on others, while packing."""

from __future__ import annotations

import math
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.bundle.disk import OUTLIER_SCORER
from bascule.bundle.statements import row_hashes
from bascule.core import Columns, canonical_json
from bascule.packing.imported import ImportedModel, Rows
from bascule.stats import (
    DEPTH,
    TREE_ROWS,
    OutlierScorer,
    scales_of,
    split,
    usual_depth,
    worth_projecting,
)

_FEWEST_ROWS = 8
_TREES, _MOST_COLUMNS = 100, 64
_NEAR_ROWS = 1_000
_MOST_FIT, _MOST_HELD_OUT = 50_000, 5_000
_MOST_VALUES, _FEWEST_OF_WIDE = 1 << 25, 1_000


def score_outliers(subject: ImportedModel, own: Rows | None) -> tuple[str, dict[str, bytes]]:
    """The scorer of a model: one sentence about it, and what goes into the bundle.

    `own` rows calibrate it, or else the test rows; without any, or where these are training rows
    again, a third of the training rows that it is not fitted on.
    """
    fields = [field for field in subject.signature.inputs if field.dates is None]
    if subject.train is None or len(subject.train) < _FEWEST_ROWS or not fields:
        return "no scorer of outliers: there are too few training rows", {}
    train = {field.name: subject.train.columns[field.name] for field in fields}
    source, held_out = ("calibration", own) if own is not None else ("test", subject.test)
    if held_out is not None and len(held_out) and not _are_trained_on(held_out, subject.train):
        others = {field.name: held_out.columns[field.name] for field in fields}
    else:
        source, order = "train", np.random.default_rng(0).permutation(len(subject.train))
        apart = len(order) // 3
        others, train = take(train, np.sort(order[:apart])), take(train, np.sort(order[apart:]))
    projected = tuple(
        field.name
        for field in fields
        if any(length < 0 for length in field.shape)
        or worth_projecting(train[field.name], subject.signature.columns)
    )
    scorer = fit_outliers(train, others, projected, source)
    rows = {"train": "training rows that it was not fitted on"}.get(source, f"{source} rows")
    return (
        f"scores outliers, calibrated on {scorer.rows:,} {rows}; no p-value is below "
        f"{scorer.smallest_p:.2g}",
        {OUTLIER_SCORER: canonical_json(scorer.to_json())},
    )


def fit_outliers(
    train: Columns, held_out: Columns, projected: Collection[str], source: str
) -> OutlierScorer:
    """A scorer of rows like `train`, calibrated on rows that are none of them.

    Without scikit-learn, tables are scored by the nearest rows too.

    Args:
        train: By field; not empty. At most `_MOST_FIT` rows are read.
        held_out: The same fields; not empty. At most `_MOST_HELD_OUT`, drawn uniformly, calibrate.
        projected: The fields to read as projections: free texts, images, arrays of any length.
        source: See `OutlierScorer`.
    """
    random = np.random.default_rng(0)
    train, held_out = _drawn(train, _MOST_FIT, random), _drawn(held_out, _MOST_HELD_OUT, random)
    scales = scales_of(train, projected)
    arrays, levels = dict(scales.arrays), scales.levels
    encoded, _ = scales.encoded(*split(train, projected))
    if set(train) <= set(projected) or find_spec("sklearn") is None:
        arrays["near"] = encoded[random.permutation(len(encoded))[:_NEAR_ROWS]]
    else:
        arrays |= _forest(encoded)
    scores = OutlierScorer(tuple(projected), levels, arrays).scores(held_out)
    return OutlierScorer(tuple(projected), levels, arrays | {"held_out": np.sort(scores)}, source)


def _forest(encoded: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Trees by level: a leaf that is not at the bottom sends its rows left, to itself."""
    from sklearn.ensemble import IsolationForest

    rows, width = encoded.shape
    forest = IsolationForest(
        n_estimators=_TREES, max_samples=min(TREE_ROWS, rows),
        max_features=min(_MOST_COLUMNS, width), random_state=0,
    ).fit(encoded)  # fmt: skip
    features, thresholds, leaves = [], [], []
    for estimator, columns in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree, nodes, depth = estimator.tree_, np.zeros(1, np.int64), np.zeros(1)
        for _ in range(DEPTH):
            is_split = tree.children_left[nodes] >= 0
            features.append(columns[np.where(is_split, tree.feature[nodes], 0)])
            thresholds.append(np.where(is_split, tree.threshold[nodes], np.inf))
            children = np.stack([tree.children_left[nodes], tree.children_right[nodes]], axis=1)
            nodes = np.where(is_split[:, None], children, nodes[:, None]).ravel()
            depth = np.repeat(depth + is_split, 2)
        counts = tree.n_node_samples[nodes].tolist()
        leaves.append(depth + [usual_depth(count) for count in counts])
    return {
        "feature": np.concatenate(features).reshape(_TREES, -1).astype(np.int32),
        "threshold": np.concatenate(thresholds).reshape(_TREES, -1).astype(np.float32),
        "leaf": np.array(leaves, np.float32),
    }


def _drawn(columns: Columns, rows: int, random: np.random.Generator) -> Columns:
    """So many of the rows, drawn uniformly, or fewer of very wide ones; all if they are no more."""
    count = len(next(iter(columns.values())))
    width = sum(math.prod(values.shape[1:]) for values in columns.values())
    rows = min(rows, max(_FEWEST_OF_WIDE, _MOST_VALUES // width))
    return columns if count <= rows else take(columns, np.sort(random.permutation(count)[:rows]))


def _are_trained_on(rows: Rows, train: Rows) -> bool:
    """Whether most of them are training rows, which rarely repeat among themselves."""
    trained = row_hashes(train.columns)
    distinct = np.unique(trained)
    share = float(np.isin(row_hashes(rows.columns), distinct).mean())
    return share > 0.5 and len(distinct) > 0.9 * len(trained)
