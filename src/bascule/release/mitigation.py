"""Mitigation of unfairness: the model of a bundle, trained again on reweighed rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bascule.batch import as_trained
from bascule.core import Invalid
from bascule.packing import pack, read_model
from bascule.release.conditional import texts_of
from bascule.release.fairness import FAIRNESS_KIND

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
    bundle: Bundle,
    train: tuple[Any, Any],
    attribute: str,
    *,
    measure: Callable[[Bundle], dict[str, Any]],
    **options: Any,
) -> Bundle:
    """The model fitted again with weights, packed, with what became fairer and what it cost.

    Args:
        bundle: Its original is an estimator of scikit-learn.
        train: An Arrow table with the attribute, and the truth of its rows.
        attribute: The name of a column.
        measure: The fairness of a bundle, on the same rows before and after.
        options: Of `packing.pack`: `to`; of the statements: `now`, `by`.

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

    table, truth = train
    if attribute not in table.column_names:
        raise Invalid(f"the training rows have no column {attribute!r}", hint="add it")
    now, by = options.pop("now"), options.pop("by")
    model = read_model(Path(bundle.path, original.file), allow_pickle=False)
    rows = as_trained(model, table)
    groups = texts_of(table.column(attribute).to_numpy(zero_copy_only=False))
    model, weights = clone(model), reweighing(groups, truth)
    step = f"{model.steps[-1][0]}__" if hasattr(model, "steps") else ""
    try:
        model.fit(rows, truth, **{f"{step}sample_weight": weights})
    except (TypeError, ValueError) as problem:
        raise Invalid(
            f"{bundle.name} cannot be fitted with weights: {problem}",
            hint="its last step has to take sample_weight",
        ) from None
    known = {"method": "reweighing", "attribute": attribute, "of": bundle.digest}
    held_out = bundle.test_data()
    made = pack(
        model, name=bundle.name, train=(rows, truth), parameters={"mitigation": known},
        test=None if held_out is None else (_as_given(rows, held_out[0]), held_out[1]), **options,
    )  # fmt: skip
    before, after = measure(bundle), measure(made)
    parts = {
        when: body["attributes"][attribute]["disparities"]
        for when, body in (("before", before), ("after", after))
    }
    made.add_statement(FAIRNESS_KIND, after, at=now, by=by)
    made.add_statement(MITIGATION_KIND, {**known, **parts}, at=now, by=by)
    return made


def _as_given(train: Any, columns: Any) -> Any:
    """Held-out rows in the container of the training rows: a data frame, or a matrix."""
    return type(train)(columns) if hasattr(train, "columns") else next(iter(columns.values()))
