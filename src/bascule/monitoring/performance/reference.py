"""What a bundle records of its quality: the held-out rows, or else the statement of quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bascule.bundle import Bundle, is_missing
from bascule.bundle.statements import flat_columns
from bascule.core import BasculeError, Columns, Invalid
from bascule.metrics import OUTLIERS, Estimate, Labelled, estimate
from bascule.monitoring.performance.estimating import NO_SKLEARN, Estimator, estimator_of
from bascule.monitoring.performance.rows import Masks, places_of_labels

_QUALITY = "quality"
"""The kind of the statement that `bascule card` adds."""
DEFAULTS = {
    "classification": ("accuracy", "auc", "log_loss"),
    "regression": ("mae", "rmse", "r2"),
    OUTLIERS: ("balanced_accuracy", "precision", "recall"),
}
"""The metrics that are measured if none is named; those that need probabilities only with them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A slice: rows whose column has one value, or is in one bin.

    Attributes:
        column: Its name.
        value: The name of the slice.
        masks: The rows of each slice of the column.
    """

    column: str
    value: str
    masks: Masks


@dataclass
class Reference:
    """A bundle as the reference of its own performance.

    Attributes:
        bundle: The version.
        notes: What is missing, and why.
    """

    bundle: Bundle
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.bundle.task not in DEFAULTS:
            raise Invalid(
                f"{self.bundle.name}: the performance of a model for {self.bundle.task} is not "
                "measured",
                hint="models with one output of classes or numbers are; others are checked on rows "
                "with their truth: bascule check --test",
            )

    @property
    def task(self) -> str:
        """A detector is a classifier of the classes -1, an outlier, and 1."""
        return "classification" if self.bundle.task == OUTLIERS else self.bundle.task

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels; empty for numbers."""
        return (-1, 1) if self.bundle.task == OUTLIERS else self.bundle.classes or ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured if nothing is asked."""
        names = {one.name for one in self.bundle.signature.outputs}
        usual = DEFAULTS[self.bundle.task]
        is_without = self.bundle.task == "classification" and "probabilities" not in names
        return usual[:1] if is_without else usual

    def labelled(self, truth: Any, answers: Columns) -> Labelled:
        """Outputs of the model beside the truth; a missing truth is class -1, or NaN."""
        values = np.asarray(truth)
        if self.task == "regression":
            name = next(iter(answers))
            numbers = np.asarray(answers.get("prediction", answers[name]), np.float64)
            return Labelled(self.task, values.astype(np.float64), numbers.reshape(len(values)))
        said = places_of_labels(answers["label"].tolist(), self.classes)
        chances = answers.get("probabilities")
        if chances is not None:  # a caller may have asked for probabilities alone
            said = np.where(said < 0, np.nan_to_num(chances).argmax(axis=1), said)
        truths = places_of_labels(values.tolist(), self.classes)
        return Labelled(self.task, truths, said, self.classes, chances)

    @cached_property
    def held_out(self) -> tuple[Labelled, Columns] | None:
        """The held-out rows, answered, and what they ask; None where there are none."""
        found = self.bundle.test_data()
        if found is None or found[1] is None:
            return None
        columns, truth = found
        try:
            answers = dict(self.bundle.predict(columns))
        except BasculeError as problem:  # what it answered before is still measured
            self.notes.append(f"not compared with its held-out rows: {problem.message}")
            return None
        return self.labelled(truth, answers), flat_columns(columns, self.bundle.signature)

    @cached_property
    def estimator(self) -> Estimator | None:
        """What estimates without truth; None where the bundle does not allow it."""
        if self.held_out is None:
            return None
        try:
            return estimator_of(*self.held_out)
        except ImportError:
            self.notes.append(NO_SKLEARN)
            return None

    def recorded(self, name: str, part: Part | None = None) -> Estimate:
        """The value of a metric on the held-out rows, or a part of them, with its error."""
        if self.held_out is not None:
            labelled, inputs = self.held_out
            if part is None:
                return estimate(name, labelled)
            if part.column in inputs:
                masks = part.masks(inputs[part.column])
                return estimate(name, labelled.take(masks.get(part.value, slice(0))))
        if part is not None:
            return Estimate(None, note=f"the held-out rows have no {part.column}")
        said = self.bundle.statements(_QUALITY)
        body = said[-1].body if said else {}
        value = body.get("overall", {}).get(name)
        if value is None:
            return Estimate(None, note="the bundle has no held-out rows with their truth")
        rows = int(body["rows"])
        if name == "accuracy":
            return Estimate(value, rows=rows, fewest=rows, successes=round(value * rows))
        return Estimate(value, rows=rows, fewest=rows)


def is_known(truth: Any, task: str) -> Any:
    """Where a truth is there."""
    values = np.asarray(truth)
    if task == "regression":
        return ~np.isnan(values.astype(np.float64))
    return ~is_missing(values) if values.dtype.kind in "fO" else np.ones(len(values), bool)
