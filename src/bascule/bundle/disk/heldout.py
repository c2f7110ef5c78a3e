"""The held-out rows of a bundle, with their truth, as Parquet."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk.limits import MAX_TABLE_BYTES, MAX_TABLE_CELLS
from bascule.bundle.disk.manifest import TEST_DATA, TRUTH
from bascule.bundle.disk.reading import reading
from bascule.bundle.tables import as_dtype, read_table, read_truth
from bascule.core import Columns, DType, Field, Invalid, Signature, Untrusted

_ROWS_AT_ONCE = 65_536


def to_parquet(rows: Columns, truth: NDArray[Any] | None, signature: Signature) -> bytes:
    """The rows and their truth as a Parquet file; the same rows give the same bytes."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {}
    for field in signature.inputs:
        values = rows[field.name]
        if len(field.shape) > 1:
            columns[field.name] = _tensors(values, field.name)
        elif field.shape:
            for i, name in enumerate(_matrix_names(field, signature, values.shape[1])):
                columns[name] = pyarrow.array(values[:, i])
        else:
            columns[field.name] = _arrow(values, field)
    if truth is not None:
        if TRUTH in columns:
            raise Invalid(f"a column is called {TRUTH}, which is kept for the truth", field=TRUTH)
        if truth.ndim == 1:
            columns[TRUTH] = pyarrow.array(truth.tolist())
        elif truth.ndim > 2:
            columns[TRUTH] = _tensors(truth, TRUTH)
        else:
            for place, values in enumerate(truth.T):
                columns[f"{TRUTH}.{place}"] = pyarrow.array(values.tolist())
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes, signature: Signature) -> tuple[Columns, NDArray[Any] | None]:
    """The rows in the signature's dtypes, and their truth.

    Raises:
        Untrusted: The file does not hold the columns of the signature, or would fill the memory.
    """
    # OSError is pyarrow's word for a damaged page.
    with reading(TEST_DATA, what="the held-out rows", also=(Invalid, OSError)):
        table = read_bounded(data, TEST_DATA)
        tensors = _arrays(table)
        read = (
            read_table(table.drop_columns(list(tensors)))
            if len(tensors) < table.num_columns
            else None
        )
        flat: Columns = {} if read is None else dict(read.columns)
        columns: Columns = {}
        for field in signature.inputs:
            if len(field.shape) > 1:
                values = _fitting(tensors[field.name], field)
            elif field.shape:
                width = len([name for name in flat if not name.startswith(TRUTH)])
                names = _matrix_names(field, signature, width)
                values = np.column_stack([flat[name] for name in names])
            else:
                values = flat[field.name]
            if field.dtype is DType.BYTES and values.dtype.kind == "f":
                values = np.full(len(values), None, object)
            columns[field.name] = as_dtype(values, field.dtype)
        truth = tensors.get(TRUTH, _truth_of(flat))
    return columns, truth


def _tensors(values: NDArray[Any], name: str) -> Any:
    """Rows of any rank as a column of Arrow's fixed-shape tensors."""
    import pyarrow

    if values.dtype.kind not in "biuf":
        raise Invalid(
            f"held-out rows of {name} are texts in {values.ndim} dimensions, and a table holds "
            "texts in one",
            hint="pass keep_test=False (--no-keep-test)",
            field=name,
        )
    if values.dtype.kind == "b":  # Arrow packs flags into bits, and its tensors do not
        values = values.view(np.uint8)
    return pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


def _arrays(table: Any) -> Columns:
    """The columns of tensors in a table."""
    import pyarrow

    return {
        name: table.column(name).combine_chunks().to_numpy_ndarray()
        for name in table.column_names
        if isinstance(table.schema.field(name).type, pyarrow.FixedShapeTensorType)
    }


def _fitting(values: NDArray[Any], field: Field) -> NDArray[Any]:
    """The tensors, if they have a shape that the signature allows."""
    lengths = values.shape[1:]
    if len(lengths) != len(field.shape) or any(
        want not in (-1, got) for want, got in zip(field.shape, lengths, strict=True)
    ):
        raise Invalid(f"{field.name} has shape {list(lengths)}, not {list(field.shape)}")
    return values


def _truth_of(columns: Columns) -> NDArray[Any] | None:
    """The truth of one output, or that of several side by side."""
    several = {name: values for name, values in columns.items() if name.startswith(f"{TRUTH}.")}
    return read_truth(several) if several else columns.get(TRUTH)


def read_bounded(data: bytes, file: str) -> Any:
    """A Parquet file as a table, read piece by piece and given up when it grows too large.

    Raises:
        Untrusted: It holds, or says that it holds, more than `limits` allows.
    """
    import pyarrow
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(
        io.BytesIO(data),
        thrift_string_size_limit=len(data) + 1,
        thrift_container_size_limit=len(data) + 1,
    )
    told = opened.metadata
    cells = told.num_rows * max(1, told.num_columns)
    groups = [told.row_group(index) for index in range(told.num_row_groups)]
    if cells > MAX_TABLE_CELLS or sum(one.total_byte_size for one in groups) > MAX_TABLE_BYTES:
        raise Untrusted(
            f"{file} would unpack to {told.num_rows:,} rows of {told.num_columns} columns, from "
            f"{len(data):,} bytes",
            hint="the file was made to fill the memory; do not use it",
            file=file,
        )
    pieces, size = [], 0
    for piece in opened.iter_batches(batch_size=_ROWS_AT_ONCE):
        size += piece.nbytes
        if size > MAX_TABLE_BYTES:
            raise Untrusted(
                f"{file} unpacks to more than {MAX_TABLE_BYTES:,} bytes, from {len(data):,}",
                hint="the file was made to fill the memory; do not use it",
                file=file,
            )
        pieces.append(piece)
    return pyarrow.Table.from_batches(pieces, opened.schema_arrow)


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
