"""Describes the training rows for a statement; `bundle.statements.training` says how."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing
from bascule.bundle.statements import flat_columns, row_hashes
from bascule.core import Columns, Signature
from bascule.packing.imported import Rows

KEPT_HASHES = 8_192
"""64 KiB. At an overlap of one row in a hundred, the share is known to within a tenth of it."""
MAX_VALUES = 200
"""Distinct texts of a column up to which all of them are kept."""


def describe(rows: Rows, signature: Signature) -> dict[str, Any]:
    """The body of a `training` statement."""
    return {
        "rows": len(rows),
        "columns": {
            name: _column(values) for name, values in flat_columns(rows.columns, signature).items()
        },
        **kept_hashes(rows.columns),
    }


def kept_hashes(columns: Columns) -> dict[str, Any]:
    """How many different rows there are, and the smallest of their hashes, for a statement."""
    hashes = np.unique(row_hashes(columns))
    kept = hashes[:KEPT_HASHES]
    return {
        "distinct_rows": len(hashes),
        "row_hashes": base64.b64encode(kept.astype("<u8").tobytes()).decode(),
    }


def _column(values: NDArray[Any]) -> dict[str, Any]:
    missing = is_missing(values)
    told: dict[str, Any] = {"missing": round(float(missing.mean()), 6)}
    there = values[~missing]
    if values.dtype.kind == "O":
        distinct = sorted({str(value) for value in there.tolist()})
        told["distinct"] = len(distinct)
        if len(distinct) <= MAX_VALUES:
            told["values"] = distinct
        return told
    numbers = there.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers):
        told |= {"min": float(numbers.min()), "max": float(numbers.max())}
        low, middle, high = np.quantile(numbers, (0.05, 0.5, 0.95))
        told |= {"p05": float(low), "median": float(middle), "p95": float(high)}
    return told
