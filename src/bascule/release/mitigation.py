"""Mitigation of unfairness: the model of a bundle, trained again on reweighed rows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.batch import as_trained
from bascule.core import Invalid
from bascule.packing import pack, read_model
from bascule.release.conditional import texts_of
from bascule.release.fairness import FAIRNESS_KIND, held_out_fairness

if TYPE_CHECKING:
    from bascule.bundle import Bundle

MITIGATION_KIND = "mitigation"


def reweighing(groups: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """The weight of each row: as often as group and truth would meet if they were independent.

    P(group) P(truth) / P(group, truth): Kamiran and Calders 2012, section 4.4. The weights of all
    rows add up to their number.
    """
    _, group, of_group = np.unique(groups, return_inverse=True, return_counts=True)
    _, label, of_label = np.unique(texts_of(truth), return_inverse=True, return_counts=True)
    _, cell, of_cell = np.unique(
        group * (label.max() + 1) + label, return_inverse=True, return_counts=True
    )
    weights: NDArray[np.float64] = of_group[group] * of_label[label] / of_cell[cell] / len(truth)
    return weights


def retrained(
    bundle: Bundle, table: Any, truth: Any, attribute: str, *, positive: Any = None,
    to: Path, now: datetime, by: str,
) -> Bundle:  # fmt: skip
    """The model fitted again with weights, packed, with what became fairer and what it cost.

    Args:
        bundle: Its original is an estimator of scikit-learn.
        table: The training rows with the attribute: an Arrow table.
        truth: Of its rows.
        attribute: The name of a column.
        positive: The class that is selected; see `metrics.group_rows`.
        to: The folder of the new bundle.
        now: For the statements.
        by: See `now`.

    Raises:
        Invalid: The model is none that can be fitted with weights, or there is no such column.
    """
    original = bundle.manifest.original
    if not original.file.endswith(".skops"):
        raise Invalid(
            f"{bundle.name} is no estimator of scikit-learn that can be trained again",
            hint="train it with the weights of bascule.release.reweighing, and pack it",
        )
    from sklearn.base import clone

    if attribute not in table.column_names:
        raise Invalid(f"the training rows have no column {attribute!r}", hint="add it")
    model = read_model(Path(bundle.path, original.file), allow_pickle=False)
    rows = as_trained(model, table)
    groups = texts_of(table.column(attribute).to_numpy(zero_copy_only=False))
    model = clone(model)
    step = f"{model.steps[-1][0]}__" if hasattr(model, "steps") else ""
    try:
        model.fit(rows, truth, **{f"{step}sample_weight": reweighing(groups, truth)})
    except (TypeError, ValueError) as problem:
        raise Invalid(
            f"{bundle.name} cannot be fitted with weights: {problem}",
            hint="its last step has to take sample_weight",
        ) from None
    step_record = {"method": "reweighing", "attribute": attribute, "of": bundle.digest}
    test: Any = bundle.test_data()
    if test is not None:  # in the container of the training rows: a data frame, or a matrix
        columns, known = test
        is_frame = hasattr(rows, "columns")
        test = type(rows)(columns) if is_frame else next(iter(columns.values())), known
    fairer = pack(
        model, name=bundle.name, train=(rows, truth), test=test, to=to,
        parameters={"mitigation": step_record},
    )  # fmt: skip
    before, after = (
        held_out_fairness(either, [attribute], positive=positive) for either in (bundle, fairer)
    )
    fairer.add_statement(FAIRNESS_KIND, after, at=now, by=by)
    step_record |= {
        "before": before["attributes"][attribute]["disparities"],
        "after": after["attributes"][attribute]["disparities"],
    }
    fairer.add_statement(MITIGATION_KIND, step_record, at=now, by=by)
    return fairer
