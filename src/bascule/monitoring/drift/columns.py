"""A table as the columns that a baseline has; further columns are left out.

A model refuses a missing value or an unknown category; here both are what is looked for, so they
are kept. Texts in a column of numbers are counted as type errors and become missing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import is_missing, read_table
from bascule.bundle.statements import profile_columns
from bascule.core import Columns, DType, Field, Invalid, Signature


@dataclass(frozen=True, slots=True)
class CurrentTable:
    """Rows to compare.

    Attributes:
        inputs: By field of the signature, in their own numpy types: what the model is asked.
        flat: By column of a profile.
        type_errors: Where a value is of another type than the model takes, by column.
        days: The UTC day of each row; None without a time column.
    """

    inputs: Columns
    flat: Columns
    type_errors: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    days: NDArray[np.datetime64] | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


def read_current(
    data: Any,
    signature: Signature,
    time_column: str | None = None,
    projected: Collection[str] = (),
) -> CurrentTable:
    """The columns that a model takes, with projections of some fields, and the days of their rows.

    Raises:
        Invalid: A column of the model or the time column is absent or cannot be read; no rows.
    """
    days = None if time_column is None else days_of(data, time_column)
    names = list(signature.columns) or [one.name for one in signature.inputs]
    unnamed = signature.is_matrix and not signature.columns
    selected = _without(data, time_column) if unnamed else _selected(data, names)
    table = read_table(selected)
    if not table.rows:
        raise Invalid("the table has no rows", hint="give the rows of at least one window")
    columns = dict(table.columns)
    errors: dict[str, NDArray[np.bool_]] = {}
    if table.is_matrix and not signature.is_matrix:
        matrix = next(iter(columns.values()))
        if matrix.ndim == 2 and matrix.shape[1] == len(names):
            columns = {name: matrix[:, place] for place, name in enumerate(names)}
        elif len(names) == 1:
            columns = {names[0]: matrix}
    elif table.source == "texts" and len(names) == 1:
        columns = {names[0]: next(iter(columns.values()))}
    dtypes = {one.name: one.dtype for one in signature.inputs}
    for name, values in columns.items():
        columns[name], wrong = _typed(values, dtypes.get(name, signature.inputs[0].dtype))
        if wrong.any():
            errors[name] = wrong
    inputs = _stacked(columns, signature.inputs[0]) if signature.is_matrix else columns
    flat = profile_columns(inputs, signature.inputs, signature.columns, projected)
    return CurrentTable(inputs, flat, errors, days)


def _stacked(columns: Columns, wanted: Field) -> Columns:
    values = list(columns.values())
    matrix = values[0] if len(values) == 1 and values[0].ndim > 1 else np.column_stack(values)
    width = wanted.shape[0]
    if matrix.ndim != 2 or width not in (-1, matrix.shape[1]):
        raise Invalid(
            f"the table has {matrix.shape[-1]} columns, and the model takes {width}",
            hint="leave out the columns that the model does not take",
            field=wanted.name,
        )
    return {wanted.name: matrix}


def _names(data: Any) -> list[Any] | None:
    """The columns of a table; None for a matrix or a list of texts."""
    if hasattr(data, "column_names"):
        return list(data.column_names)
    if isinstance(data, dict):
        return list(data)
    columns = getattr(data, "columns", None)
    return None if columns is None else list(columns)


def _selected(data: Any, names: Sequence[str]) -> Any:
    """The named columns alone: others may hold what no model reads, times for example."""
    there = _names(data)
    if there is None:
        return data
    absent = [name for name in names if name not in there]
    if absent:
        raise Invalid(
            f"the table has no column {absent[0]!r}"
            + (f", nor {len(absent) - 1} others that the model takes" if absent[1:] else ""),
            hint=f"its columns are {', '.join(map(str, there[:20]))}",
            field=absent[0],
        )
    if isinstance(data, dict):
        return {name: data[name] for name in names}
    return data.select(list(names)) if hasattr(data, "select") else data[list(names)]


def _without(data: Any, name: str | None) -> Any:
    there = _names(data)
    if there is None or name is None:
        return data
    return _selected(data, [one for one in there if one != name])


def _typed(values: NDArray[Any], wanted: DType) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values as numbers or as texts, and where they are of the other type."""
    wrong = np.zeros(len(values), bool)
    if wanted is DType.BYTES:
        return (values.astype(object), wrong) if values.dtype.kind in "OUS" else _as_texts(values)
    if values.dtype.kind != "O":
        return values, wrong
    made = np.full(values.shape, np.nan)
    for row, value in enumerate(values.tolist()):
        try:
            made[row] = np.nan if value is None else float(value)
        except ValueError:
            wrong[row] = True
    return made, wrong


def _as_texts(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Whole numbers are the texts that a reader of CSV took for numbers; others are errors."""
    gone = is_missing(values)
    there = values[~gone]
    made = np.full(values.shape, None, object)
    is_whole = values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and bool((there == np.floor(there)).all())
    )
    made[~gone] = [str(int(one)) if is_whole else str(one) for one in there.tolist()]
    return made, np.zeros(len(values), bool) if is_whole else ~gone


def days_of(data: Any, name: str) -> NDArray[np.datetime64]:
    """The UTC day of each row; see `times_of`."""
    found: NDArray[np.datetime64] = times_of(data, name).astype("datetime64[D]")
    return found


def times_of(data: Any, name: str) -> NDArray[np.datetime64]:
    """The time of each row in UTC, in microseconds. Times without a zone are UTC.

    Raises:
        Invalid: There is no such column, it holds no times, or a time is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in (_names(data) or ()):
        raise Invalid(
            f"time_column: the table has no column {name!r}",
            hint=f"its columns are {', '.join(map(str, (_names(data) or ['none'])[:20]))}",
            field=name,
        )
    column = data.column(name) if hasattr(data, "column_names") else data[name]
    problem = f"time_column: column {name!r}"
    try:
        times = column if isinstance(column, pa.ChunkedArray | pa.Array) else pa.array(column)
        if pa.types.is_string(times.type) or pa.types.is_large_string(times.type):
            times = _parsed(times)
        if not pa.types.is_temporal(times.type):
            raise Invalid(
                f"{problem} holds {times.type}, not times",
                hint="write dates or times of ISO 8601, such as 2026-11-26T15:00:00Z",
                field=name,
            )
        zone = getattr(times.type, "tz", None)
        found = pc.cast(times, pa.timestamp("us", zone), safe=False)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise Invalid(
            f"{problem} holds what is no time: {reason}",
            hint="write dates or times of ISO 8601, such as 2026-11-26T15:00:00Z",
            field=name,
        ) from None
    if found.null_count:
        raise Invalid(
            f"{problem} lacks {found.null_count} times", hint="leave out these rows", field=name
        )
    return np.asarray(pc.cast(found, pa.timestamp("us"))).astype("datetime64[us]")


def _parsed(times: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(times, pa.timestamp("us"))
    except pa.ArrowInvalid:
        return pc.cast(times, pa.timestamp("us", "UTC"))
