"""The example request of a bundle: a few real rows as an Open Inference Protocol body.

The server warms up with it, and people copy it. A missing value is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk.limits import MAX_EXAMPLE_BYTES
from bascule.bundle.disk.manifest import EXAMPLE
from bascule.bundle.disk.reading import parse, reading
from bascule.core import Columns, DType, Field, Untrusted, canonical_json

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
    """The columns of an example that was written here, in the dtypes of `inputs`.

    Raises:
        Untrusted: It is none.
    """
    if len(body) > MAX_EXAMPLE_BYTES:
        raise Untrusted(f"{EXAMPLE} has more than {MAX_EXAMPLE_BYTES:,} bytes", file=EXAMPLE)
    what = "a request that the model takes"
    value = parse(body, EXAMPLE, what=what)
    with reading(EXAMPLE, what=what):
        parts = {part["name"]: part for part in value["inputs"]}
        made = {field.name: _column(parts[field.name], field) for field in inputs}
        if len({len(column) for column in made.values()}) > 1:
            raise ValueError("its columns have different lengths")
    return made


def _column(part: Mapping[str, Any], field: Field) -> NDArray[Any]:
    data = part["data"]
    if field.dtype is DType.BYTES:
        if not all(value is None or isinstance(value, str) for value in data):
            raise ValueError(f"{field.name} holds what is no text")
    else:
        data = [np.nan if value is None else value for value in data]
    values = np.array(data, dtype=field.dtype.numpy).reshape(part["shape"])
    if values.ndim != 1 + len(field.shape) or not len(values):
        raise ValueError(f"{field.name} has the shape {list(values.shape)}")
    return values


def _is_finite(columns: Columns, row: int) -> bool:
    return not any(
        column.dtype.kind == "f" and bool(np.isinf(column[row]).any())
        for column in columns.values()
    )


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
