"""Finds out by asking: does the model take a missing value here, or a category it never saw?

What an estimator says of itself cannot be trusted through a pipeline; what it does can. A few
rows per column are enough, so it costs one prediction per column.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.tables import are_wide, is_missing, take
from bascule.core.fields import Columns, DType, Field

UNSEEN_TEXT = "\u2400never seen in training"
STRANGE_TEXTS = (
    "",
    "\u0130STANBUL \u212aelvin \u1e9e\u00df \ufb01ne na\u00efve NAI\u0308VE \u00c9cole",
    "\u039f\u0394\u039f\u03a3 \u03a3 \u03a3\u039f\u03a6\u038c\u03a3 \u0416\u0416",
    "\u65e5\u672c\u8a9e \u0661\u0662 \u2167 \u00b2\u00b2 \U0001f600\U0001d400\U0001d401",
    "a\u00ada b\u200db c\u00a0c d\u2019d _e_ f-f\tg\r\n  h\x00h  ",
)
"""Where languages of programming disagree on what a letter, a capital or a space is."""
_PROBE_ROWS = 3
_MAX_INTEGER_CATEGORIES = 1000

Ask = Callable[[Columns], Any]
"""Asks the original; raises what the original raises."""


def probed(fields: tuple[Field, ...], columns: Columns, ask: Ask) -> tuple[Field, ...]:
    """The fields, with `nullable` and `categories` as the model behaves.

    Args:
        fields: As inferred from the types alone.
        columns: The training rows.
        ask: Asks the original about columns in these dtypes.
    """
    few = take(columns, slice(0, _PROBE_ROWS))
    return tuple(_probed(field, columns[field.name], few, ask) for field in fields)


def probe_rows(fields: tuple[Field, ...], columns: Columns) -> Columns:
    """Rows that are like no training row: one with each value missing, or never seen, that may be.

    They are made from the first row, and tell whether a program agrees with the original about
    what the real rows happen not to hold.
    """
    changes: list[tuple[str, Any]] = []
    for field in fields:
        if field.nullable:
            changes.append((field.name, None if field.dtype is DType.BYTES else np.nan))
        if field.dtype is DType.BYTES and field.categories is None:
            first_text = columns[field.name][0] or ""
            strange = (UNSEEN_TEXT, *STRANGE_TEXTS, first_text.upper(), first_text.swapcase())
            changes += [(field.name, text) for text in strange]
    first = take(columns, np.zeros(len(changes), np.int64))
    made = {name: column.copy() for name, column in first.items()}
    for row, (name, value) in enumerate(changes):
        made[name][row] = value
    return made


def _probed(field: Field, values: NDArray[Any], few: Columns, ask: Ask) -> Field:
    nullable = bool(is_missing(values).any())
    # A column that may be missing is read as doubles, which do not hold every whole number.
    if not nullable and field.dtype is not DType.BOOL and not are_wide(values):
        nullable = _accepts(ask, few, field, _missing_in(few[field.name]))
    if nullable and field.dtype.is_integer:
        field = replace(field, dtype=DType.FP64)
    return replace(field, nullable=nullable, categories=_closed(field, values, few, ask))


def _missing_in(values: NDArray[Any]) -> NDArray[Any]:
    made = values.astype(object if values.dtype.kind == "O" else np.result_type(values, np.float32))
    made[:1] = None if values.dtype.kind == "O" else np.nan
    return made


def _closed(
    field: Field, values: NDArray[Any], few: Columns, ask: Ask
) -> tuple[str | int, ...] | None:
    """The values seen in training, sorted, if the model refuses any other one."""
    if field.shape:
        return None
    unseen = few[field.name].copy()
    if field.dtype is DType.BYTES:
        known = sorted({value for value in values.tolist() if value is not None})
        unseen[:1] = UNSEEN_TEXT
    elif values.dtype.kind in "iu":
        distinct = np.unique(values)
        if len(distinct) > _MAX_INTEGER_CATEGORIES:
            return None
        known = [int(value) for value in distinct]
        if int(distinct[-1]) == np.iinfo(values.dtype).max:
            return None
        unseen[:1] = distinct[-1] + 1
    else:
        return None
    return None if _accepts(ask, few, field, unseen) else tuple(known)


def _accepts(ask: Ask, few: Columns, field: Field, values: NDArray[Any]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = np.asarray(ask({**few, field.name: values}))
    except Exception:  # whatever it raises, it does not take it
        return False
    return not (answer.dtype.kind == "f" and np.isnan(answer).any())
