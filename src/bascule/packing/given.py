"""Checks of what a caller hands to `pack`, before and after its flavor has read it.

A mistake is refused where the bundle would be wrong, and warned of where it only knows less.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing
from bascule.bundle.disk import CLASSIFICATIONS, SURVIVAL, TRUTHS
from bascule.core import BasculeError, BasculeWarning, Invalid
from bascule.packing.imported import ImportedModel, Rows
from bascule.packing.statements import calibrating

_FEW = 5


def check_explain(explain: Any) -> None:
    """Raise `Invalid` where it says neither whether to explain nor over how many rows."""
    if not isinstance(explain, int) or explain < 0:
        raise Invalid(
            f"explain: {explain!r} is not true, false or a number of rows",
            hint="explain=100 takes 100 training rows as background",
        )


def check_tolerance(tolerance: Any) -> None:
    """Raise `Invalid` unless it is a number above 0."""
    is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not (is_number and math.isfinite(tolerance) and tolerance > 0):
        raise Invalid(
            f"tolerance {tolerance!r} is not a number above 0", hint="pass tolerance=1e-5"
        )


def check_model(model: Any, **sets: Any) -> None:
    """Raise `Invalid` for a class in place of its instance, and for tables with equal names.

    Args:
        model: What is packed.
        sets: The rows, by the name of their argument: X or (X, y).
    """
    if inspect.isclass(model):
        raise Invalid(
            f"{model.__name__} is a class, not a model",
            hint=f"pass the fitted instance: model = {model.__name__}(...).fit(X, y)",
        )
    for what, given in sets.items():
        if isinstance(given, list) and len(given) == 2 and hasattr(given[0], "shape"):
            raise Invalid(f"{what} is a list of two", hint=f"pass a tuple: {what}=(X, y)")
        rows = given[0] if isinstance(given, tuple) and given else given
        names = [*getattr(rows, "columns", ())] if hasattr(rows, "iloc") else []
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise Invalid(
                f"{what} has two columns called {twice[0]!r}",
                hint="rename one of them, train the model again, and pack it",
                field=str(twice[0]),
            )


def check_rows(subject: ImportedModel, calibration: Rows | None = None) -> None:
    """Raise `Invalid` for a truth that cannot be one; warn of rows that tell little.

    Raises:
        Invalid: The truth has missing values, or holds none of the classes.
    """
    for what, rows in (
        ("train", subject.train),
        ("test", subject.test),
        ("calibration", calibration),
    ):
        if rows is not None and rows.truth is not None:
            _check_truth(what, rows.truth, subject)
    if subject.train is not None and len(subject.train) == 1 and not subject.is_network:
        _warn("train has one row: types, ranges and the baseline are those of that row")
    if subject.test is not None and subject.test.truth is None and subject.task != "other":
        names = TRUTHS.get(subject.task)
        pair = f", y with the columns {' and '.join(names)}" if names else ""
        _warn(
            "test has no truth: neither quality nor calibration can be measured; "
            f"pass test=(X_test, y_test){pair}"
        )


def check_answers(answers: calibrating.Answers, subject: ImportedModel) -> None:
    """Raise `Invalid` where an answer to the model's own rows is NaN or infinite.

    Of many training rows some are asked, evenly spread. Rows that the program refuses are none.
    """
    for what, rows in (("test", subject.test), ("train", subject.train)):
        if rows is None or not len(rows):
            continue
        try:
            given = answers(rows) if what == "test" else answers.sampled(rows)
        except BasculeError:
            continue
        for name, column in given.items():
            if column.dtype.kind != "f":
                continue
            is_bad = ~np.isfinite(column.reshape(len(column), -1)).all(axis=1)
            if is_bad.any():
                raise Invalid(
                    f"the model answers NaN or an infinite number in {name!r} to "
                    f"{int(is_bad.sum()):,} of {len(column):,} rows of {what}",
                    hint="mend the model; or, if such answers have a meaning, pass "
                    "allow_non_finite=True (--allow-non-finite)",
                    output=name,
                )


def _check_truth(what: str, truth: NDArray[Any], subject: ImportedModel) -> None:
    if subject.task == "other":
        return
    rows = truth.reshape(len(truth), -1)
    missing = np.asarray(is_missing(rows).any(axis=1))
    if truth.dtype.kind == "O":  # a NaN among objects is missing as well
        missing = missing | np.array([any(one != one for one in row) for row in rows], bool)
    if missing.any():
        raise Invalid(
            f"{what}: {int(missing.sum()):,} of {len(truth):,} values of y are missing, the first "
            f"in row {int(missing.argmax())}",
            hint="drop these rows: keep = y.notna(); X[keep], y[keep]",
        )
    if subject.task == SURVIVAL and not {*truth[:, 1].tolist()} <= {0, 1}:
        raise Invalid(
            f"{what}: the second column of y holds other values than 0 and 1",
            hint="pass y with the columns time and event: event is 1, or 0 where it is censored",
        )
    if subject.classes is not None:
        _check_labels(what, truth.reshape(-1).tolist(), subject.classes)
    elif subject.task == CLASSIFICATIONS and truth.ndim == 2:
        for place, target in enumerate(subject.targets):
            _check_labels(f"{what}, output {target.name}", truth[:, place].tolist(), target.classes)


def _check_labels(what: str, truth: list[Any], classes: Sequence[Any] | None) -> None:
    found = dict.fromkeys(truth)
    if classes and found.keys().isdisjoint(classes):
        raise Invalid(
            f"{what}: y holds {_some(list(found))}, and the classes of the model are "
            f"{_some(classes)}",
            hint=f"pass y as it was passed to fit, such as {classes[0]!r}",
        )


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(repr, values[:_FEW])) + (", ..." if len(values) > _FEW else "")


def _warn(message: str) -> None:
    warnings.warn(message, BasculeWarning, stacklevel=6)
