"""Calibrates what will be served on held-out rows, while a model is packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bascule.bundle import conform
from bascule.bundle.disk import CALIBRATION, CLASSIFICATIONS, OUTLIERS, REGRESSIONS, TRUTHS
from bascule.core import BasculeError, Columns, Invalid, Program, canonical_json
from bascule.packing.imported import ImportedModel, Rows
from bascule.packing.statements import parity
from bascule.packing.statements.training import kept_hashes
from bascule.stats import Calibration, calibrate as calibrate_scores, methods_for


class Answers:
    """What the program that is served answers, asked once for the same rows."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._known: tuple[Rows, Columns] | None = None

    def __call__(self, rows: Rows) -> Columns:
        if self._known is None or self._known[0] is not rows:
            self._known = rows, parity.answers(self.program, rows.columns)
        return self._known[1]

    def sampled(self, rows: Rows) -> Columns:
        """The answers to some of many rows, evenly spread."""
        return parity.answers(self.program, parity.sample(rows.columns))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What became of the calibration.

    Attributes:
        told: One sentence: what it was made from, or why there is none.
        files: What goes into the bundle.
        rows: That were used; None where none were.
    """

    told: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    rows: Rows | None = None

    def statement(self) -> dict[str, Any]:
        """The body of the `calibration` statement."""
        if self.rows is None:
            return {"told": self.told}
        return {"told": self.told, **kept_hashes(self.rows.columns)}


def read_rows(calibration: Any, subject: ImportedModel) -> Rows | None:
    """The rows that the caller gave for the calibration alone.

    Raises:
        Invalid: It is not a table and as many truths, or does not fit the model.
    """
    if calibration is None:
        return None
    if not isinstance(calibration, tuple) or len(calibration) != 2:
        raise Invalid(
            "calibration is not a pair (X, y)", hint="pass calibration=(X_held_out, y_held_out)"
        )
    reason = _why_not(subject.task)
    if reason:
        raise Invalid(reason, hint="leave calibration out")
    rows = Rows(conform(calibration[0], subject.signature), np.asarray(calibration[1]))
    if rows.truth is not None and rows.truth.shape != (len(rows),):
        raise Invalid(
            f"calibration has {len(rows)} rows in X, and y has the shape {rows.truth.shape}",
            hint="pass calibration=(X, y) of the same rows",
        )
    return rows


def calibrate(answers: Answers, subject: ImportedModel, own: Rows | None) -> Calibrated:
    """Calibrate the program that is served.

    Args:
        answers: Of the program that is served.
        subject: The model; its test rows are used where there are none of its own.
        own: From `read_rows`.

    Raises:
        Invalid: There are rows of its own, and they cannot be used.
    """
    rows = own or subject.test
    if rows is None or rows.truth is None:
        return Calibrated("no calibration: there are no held-out rows with their truth")
    reason = _why_not(subject.task)
    if reason:
        return Calibrated(f"no calibration: {reason}")
    methods = methods_for(subject.task, answers.program.outputs, subject.classes)
    try:
        if not methods:
            raise Invalid(
                "the model answers neither probabilities nor a single number",
                hint="leave calibration out",
            )
        made = calibrate_scores(
            methods,
            answers(rows),
            rows.truth,
            classes=subject.classes,
            source="calibration" if own else "test",
        )
    except BasculeError as problem:
        if own is not None:
            raise
        return Calibrated(f"no calibration: {problem.message}")
    return Calibrated(describe(made), {CALIBRATION: canonical_json(made.to_json())}, rows)


def _why_not(task: str) -> str:
    """Why models of this kind are not calibrated; empty for those that may be."""
    if task == OUTLIERS:
        return "a detector of outliers answers a score, of which there is no truth to compare with"
    if task in TRUTHS:
        return f"a model for {task} answers an order, and its truths say nothing of an interval"
    if task in (CLASSIFICATIONS, REGRESSIONS):
        return "the model has several outputs, and a set for each would say nothing of the row"
    return ""


def describe(calibration: Calibration) -> str:
    """One sentence on where it comes from and what it can give."""
    kind = "prediction sets" if calibration.is_of_classes else "intervals"
    whose = (
        "rows of their own"
        if calibration.source == "calibration"
        else "the test rows, which also judge quality"
    )
    return (
        f"{kind} ({', '.join(calibration.methods)}) calibrated on {calibration.rows:,} rows: "
        f"{whose}; a confidence up to {calibration.largest_confidence:.4g} can be asked for"
    )
