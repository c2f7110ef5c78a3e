"""Mitigation of unfairness: weights of training rows, or thresholds by group."""

from __future__ import annotations

import sys
from datetime import datetime
from importlib.util import module_from_spec, spec_from_file_location
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
METHODS = ("reweigh", "threshold")
_THRESHOLDED = Path(__file__).with_name("thresholded.py")


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


def mitigated(
    bundle: Bundle, table: Any, truth: Any, attribute: str, *, method: str, positive: Any = None,
    to: Path, now: datetime, by: str,
) -> Bundle:  # fmt: skip
    """The model of a bundle made fairer, packed, with what became fairer and what it cost.

    Args:
        bundle: Its original is an estimator of scikit-learn.
        table: Training rows with the attribute: an Arrow table.
        truth: Of its rows.
        attribute: The name of a column.
        method: `reweigh` fits the model again on weighed rows; `threshold` keeps it, and gives each
            group a threshold of its own.
        positive: The class that is selected; see `metrics.group_rows`.
        to: The folder of the new bundle.
        now: For the statements.
        by: See `now`.

    Raises:
        Invalid: The method is not for the model, or there is no such column.
    """
    original = bundle.manifest.original
    if not original.file.endswith(".skops"):
        raise Invalid(
            f"{bundle.name} is no estimator of scikit-learn that can be trained again",
            hint="train it with the weights of bascule.release.reweighing, and pack it",
        )
    if attribute not in table.column_names:
        raise Invalid(f"the training rows have no column {attribute!r}", hint="add it")
    model = read_model(Path(bundle.path, original.file), allow_pickle=False)
    rows = as_trained(model, table)
    options: dict[str, Any] = {}
    if method == "threshold":
        model = _thresholded(model, rows, truth, attribute)
        options = {"code": [_THRESHOLDED, "fairlearn"], "serve_original": True}
    else:
        groups = texts_of(table.column(attribute).to_numpy(zero_copy_only=False))
        model = _reweighed(model, rows, truth, reweighing(groups, truth))
    step_record = {"method": method, "attribute": attribute, "of": bundle.digest}
    test: Any = bundle.test_data()
    if test is not None:  # in the container of the training rows: a data frame, or a matrix
        columns, known = test
        is_frame = hasattr(rows, "columns")
        test = type(rows)(columns) if is_frame else next(iter(columns.values())), known
    fairer = pack(
        model, name=bundle.name, train=(rows, truth), test=test, to=to,
        parameters={"mitigation": step_record}, **options,
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


def _reweighed(model: Any, rows: Any, truth: Any, weights: NDArray[np.float64]) -> Any:
    from sklearn.base import clone

    model = clone(model)
    step = f"{model.steps[-1][0]}__" if hasattr(model, "steps") else ""
    try:
        return model.fit(rows, truth, **{f"{step}sample_weight": weights})
    except (TypeError, ValueError) as problem:
        raise Invalid(
            f"the model cannot be fitted with weights: {problem}",
            hint="its last step has to take sample_weight",
        ) from None


def _thresholded(model: Any, rows: Any, truth: Any, attribute: str) -> Any:
    if attribute not in getattr(rows, "columns", ()):
        raise Invalid(f"the model does not take {attribute!r}", hint="thresholds follow an input")
    if len(getattr(model, "classes_", ())) != 2 or not hasattr(model, "predict_proba"):
        raise Invalid(
            "thresholds are for classifiers of two classes with probabilities", hint="use reweigh"
        )
    # As the bundle will import it: a module of its own, by the name of its file.
    spec = spec_from_file_location(_THRESHOLDED.stem, _THRESHOLDED)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[_THRESHOLDED.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        raise Invalid("thresholds need fairlearn", hint="pip install 'bascule[fairness]'") from None
    return module.ThresholdedClassifier(model, attribute).fit(rows, truth)
