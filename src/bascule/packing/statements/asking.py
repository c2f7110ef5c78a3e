"""Asks the model itself about the rows as the caller holds them, before anything reads them.

Parity compares a program with what the model answers to its author. A bundle reads rows into the
types of its signature first; where that loses something which the model tells apart (two kinds of
missing text, whole numbers beyond 2**53), no program and no rebuilt original can be right.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from bascule.bundle import FIRST_SHARED, Kind, are_wide, is_missing, read_table, take, take_rows
from bascule.core import BasculeError, Columns, Invalid, ModelFailed
from bascule.packing.imported import ImportedModel, Rows
from bascule.packing.statements import company, parity

_ONE_KIND = "keep one kind: df[c].astype(object).where(df[c].notna(), None), in training as well"
_HINTS = {
    "more": _ONE_KIND,
    "another": _ONE_KIND,
    "whole": "turn them into text before the model is trained: df[c].astype(str)",
}
"""By the first word of what was lost."""
_MATRIX = Kind("float64")
_TRAINING_ROWS = 4096


def compared(subject: ImportedModel, rows: Rows, *, tolerance: float) -> tuple[Columns, Columns]:
    """The real rows that programs are compared on, and the answers that they have to give.

    Training rows are among them: what was learned from rows, the thresholds of trees or the steps
    of an isotonic calibration, is steepest beside those rows, and multiplies there what rounding
    is between floats and doubles.

    Args:
        subject: The model.
        rows: The held-out rows, or else the training rows.
        tolerance: The largest difference allowed between the model and what is rebuilt of it.

    Returns:
        At most `parity.MAX_ROWS` rows in the signature's dtypes, with a part of the training rows
        after them; and the model's answers.

    Raises:
        Invalid: The model answers otherwise about the rows as they were given than about the rows
            as the bundle reads them: the training rows, or those that are compared.
    """
    real, expected = _answered(subject, rows, tolerance)
    if subject.train is None or rows is subject.train:
        return real, expected
    if rows.given is not None and rows.given is subject.train.given:
        return real, expected  # a caller may hold nothing out
    trained, answered = _answered(subject, subject.train, tolerance, limit=_TRAINING_ROWS)
    return _joined(real, trained), _joined(expected, answered)


def _answered(
    subject: ImportedModel, rows: Rows, tolerance: float, limit: int = parity.MAX_ROWS
) -> tuple[Columns, Columns]:
    """At most `limit` of the rows, and the model's answers; all are held against what is saved."""
    own = _own(subject, rows)
    sampled = parity.sample(rows.columns)
    try:
        if own is None and subject.ask is not None and subject.reopened is not None:
            own = parity.answers(subject.original, sampled)
        if own is not None:
            _check(subject, rows, own, sampled, tolerance)
        return _some(subject, sampled, own or {}, limit)
    except ModelFailed as problem:
        raise _loss(subject, rows, problem.message) from None


def _some(
    subject: ImportedModel, sampled: Columns, own: Columns, limit: int
) -> tuple[Columns, Columns]:
    """At most `limit` of the rows, with the answers that are known, or else with the original's."""
    places = parity.sample({"": np.arange(len(next(iter(sampled.values()))))}, limit)[""]
    chosen = take(sampled, places)
    known = take(own, places)
    if all(output.name in own for output in subject.original.outputs):
        return chosen, known
    return chosen, {**parity.answers(subject.original, chosen), **known}


def _joined(first: Columns, second: Columns) -> Columns:
    return {name: np.concatenate([values, second[name]]) for name, values in first.items()}


def _own(subject: ImportedModel, rows: Rows) -> Columns | None:
    """The model's own answers to as many rows as parity takes; None where nothing can be lost.

    And where the model does not take the container: a dict of columns is for a bundle alone.
    """
    if subject.ask is None or rows.given is None:
        return None
    if subject.saved_format == "skops" and any(one is rows.given for one in rows.columns.values()):
        return None
    chosen = parity.sample({"": np.arange(len(rows))})[""]
    try:
        with warnings.catch_warnings(action="ignore"):
            whole = len(chosen) == len(rows)
            answered = subject.ask(rows.given if whole else take_rows(rows.given, chosen))
    except Exception:  # its author has to call it in another way too
        return None
    return answered if all(len(values) == len(chosen) for values in answered.values()) else None


def _check(
    subject: ImportedModel, rows: Rows, own: Columns, columns: Columns, tolerance: float
) -> None:
    """Hold the model's own answers against those of what a bundle keeps of it."""
    judged = parity.compare(
        own,
        parity.answers(subject.reopened or subject.original, columns),
        tolerance=tolerance,
        program="original",
    )
    if judged.passed:
        return
    company.check_repeated(subject.original, columns)
    labels = f" and {judged.label_differences} other labels" * bool(judged.label_differences)
    apart = f"by up to {judged.max_difference:.2g}{labels}"
    if subject.reopened is not None and not any(_lost(subject, rows)):
        raise Invalid(
            f"the model answers otherwise than what {subject.saved_format} keeps of it, {apart}",
            hint="train it without the parameter that changes how it predicts; or pass code=, so "
            "that the bundle keeps the model whole",
        )
    raise _loss(
        subject,
        rows,
        "the model answers otherwise about the rows as they are than about the rows as a "
        f"bundle reads them, {apart}",
    )


def _loss(subject: ImportedModel, rows: Rows, problem: str) -> Invalid:
    for name, what in _lost(subject, rows):
        hint = _HINTS[what.partition(" ")[0]]
        return Invalid(f"column {name!r} holds {what}: {problem}", hint=hint, field=name)
    return Invalid(problem, hint="pass the rows in the types that they had in training")


def _lost(subject: ImportedModel, rows: Rows) -> Iterator[tuple[str, str]]:
    """The columns that lost something when they were read, and what that was."""
    try:
        table = read_table(rows.given)
    except BasculeError:
        return
    trained = {column["name"]: column["missing"] for column in subject.frame.get("columns") or ()}
    for name, values in table.columns.items():
        kind, read = table.kinds.get(name, _MATRIX), rows.columns.get(name, values)
        was_whole = are_wide(values) or not kind.dtype.lower().startswith(("float", "double"))
        if kind.is_mixed:
            yield name, "more than one of None, NaN and NA, which a bundle reads as one"
        elif read.dtype.kind == "f" and was_whole and np.nanmax(np.abs(read)) >= FIRST_SHARED:
            yield name, "whole numbers beyond 2**53, and a bundle reads doubles there"
        elif is_missing(values).any() and kind.missing != trained.get(name, kind.missing):
            yield name, f"another kind of missing value than the training rows ({kind.missing})"
