"""The held-out rows of a bundle, with their truth, as Parquet."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.manifest import TRUTH
from bascule.bundle.subject import Rows
from bascule.bundle.tables import as_dtype, read_table
from bascule.core.errors import Invalid, Untrusted
from bascule.core.fields import Columns, DType, Field, Signature


def to_parquet(rows: Rows, signature: Signature) -> bytes:
    """The rows as a Parquet file; the same rows give the same bytes."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {}
    for field in signature.inputs:
        values = rows.columns[field.name]
        if len(field.shape) > 1:
            raise Invalid(
                f"held-out rows of {field.name} have {1 + len(field.shape)} dimensions, and a "
                "table has two",
                hint="pass keep_test=False (--no-keep-test)",
                field=field.name,
            )
        if field.shape:
            for i, name in enumerate(_matrix_names(field, signature, values.shape[1])):
                columns[name] = pyarrow.array(values[:, i])
        else:
            columns[field.name] = _arrow(values, field)
    if rows.truth is not None:
        if TRUTH in columns:
            raise Invalid(f"a column is called {TRUTH}, which is kept for the truth", field=TRUTH)
        columns[TRUTH] = pyarrow.array(rows.truth.tolist())
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes, signature: Signature) -> tuple[Columns, NDArray[Any] | None]:
    """The rows in the signature's dtypes, and their truth.

    Raises:
        Untrusted: The file does not hold the columns of the signature.
    """
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        read = read_table(table)
        columns: Columns = {}
        for field in signature.inputs:
            if field.shape:
                width = len(read.columns) - (TRUTH in read.columns)
                names = _matrix_names(field, signature, width)
                values = np.column_stack([read.columns[name] for name in names])
            else:
                values = read.columns[field.name]
            if field.dtype is DType.BYTES and values.dtype.kind == "f":
                values = np.full(len(values), None, object)
            columns[field.name] = as_dtype(values, field.dtype)
    except (Invalid, KeyError, OSError, ValueError) as problem:
        raise Untrusted(f"the held-out rows cannot be read: {problem}") from None
    return columns, read.columns.get(TRUTH)


def _matrix_names(field: Field, signature: Signature, width: int) -> tuple[str, ...]:
    if signature.columns:
        return signature.columns
    if len(signature.inputs) == 1:
        return tuple(f"c{i}" for i in range(width))
    return tuple(f"{field.name}.{i}" for i in range(max(field.shape[0], 0) or width))


def _arrow(values: NDArray[Any], field: Field) -> Any:
    import pyarrow

    if field.dtype is DType.BYTES:
        return pyarrow.array(values.tolist(), pyarrow.string())
    return pyarrow.array(values)
