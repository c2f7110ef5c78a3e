"""The example request of a bundle: a few real rows as an Open Inference Protocol body.

The server warms up with it, and people copy it. A missing value is null.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from bascule.core.digests import canonical_json
from bascule.core.fields import Columns, DType, Field

ROWS = 4


def example_body(columns: Columns, inputs: tuple[Field, ...]) -> bytes:
    """A request for up to four rows, none of them with infinite numbers."""
    count = len(next(iter(columns.values())))
    usable = [row for row in range(min(count, 200)) if _is_finite(columns, row)][:ROWS] or [0]
    made = []
    for field in inputs:
        values = columns[field.name][usable]
        flat = [_json(value) for value in values.ravel().tolist()]
        made.append(
            {
                "name": field.name,
                "datatype": field.dtype.value,
                "shape": list(values.shape),
                "data": flat,
            }
        )
    return canonical_json({"inputs": made})


def columns_of(body: bytes, inputs: tuple[Field, ...]) -> Columns:
    """The columns of an example that was written here, in the dtypes of `inputs`."""
    parts = {part["name"]: part for part in json.loads(body)["inputs"]}
    made: Columns = {}
    for field in inputs:
        part = parts[field.name]
        data = part["data"]
        if field.dtype is not DType.BYTES:
            data = [np.nan if value is None else value for value in data]
        values = np.array(data, dtype=field.dtype.numpy)
        made[field.name] = values.reshape(part["shape"])
    return made


def _is_finite(columns: Columns, row: int) -> bool:
    return not any(
        column.dtype.kind == "f" and bool(np.isinf(column[row]).any())
        for column in columns.values()
    )


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
