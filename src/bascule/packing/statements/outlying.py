"""Fits the scorer of outliers on training rows, and calibrates it on others, while packing."""

from __future__ import annotations

import numpy as np

from bascule.bundle.disk import OUTLIER_SCORER
from bascule.bundle.statements import row_hashes
from bascule.core import Columns, canonical_json
from bascule.packing.imported import ImportedModel, Rows
from bascule.stats import fit_outliers, worth_projecting

_FEWEST_ROWS = 8


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
        others = _taken(train, np.sort(order[:apart]))
        train = _taken(train, np.sort(order[apart:]))
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


def _taken(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _are_trained_on(rows: Rows, train: Rows) -> bool:
    """Whether most of them are training rows, which rarely repeat among themselves."""
    trained = row_hashes(train.columns)
    distinct = np.unique(trained)
    share = float(np.isin(row_hashes(rows.columns), distinct).mean())
    return share > 0.5 and len(distinct) > 0.9 * len(trained)
