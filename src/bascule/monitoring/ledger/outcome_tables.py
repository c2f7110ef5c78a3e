"""Outcomes from tables: CSV, Parquet, and queries of a database. Bounded where callers send them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bascule.core import Invalid, TooLarge, first_line

MAX_ROWS = 1_000_000
"""Of a table in a request."""
MAX_TEXT = 4_096
"""Characters of one value of a table in a request, before it is checked."""


def read_csv(data: bytes, *, id_column: str, **_: Any) -> pa.Table:
    """A table of CSV; ids are texts, so that zeros in front of them stay.

    Raises:
        Invalid: It cannot be read.
        TooLarge: It has too many rows.
    """
    options = pa.csv.ConvertOptions(column_types={id_column: pa.string()})
    try:
        table = pa.csv.read_csv(pa.BufferReader(data), convert_options=options)
    except pa.ArrowException as error:
        raise _unreadable("CSV", error) from None
    _check_rows(table.num_rows)
    return table


def read_parquet(
    data: bytes, *, id_column: str, truth_column: str, time_column: str | None
) -> pa.Table:
    """The columns of a Parquet file that are asked for.

    Raises:
        Invalid: It cannot be read, or lacks a column.
        TooLarge: It has too many rows, or a long value.
    """
    names = [one for one in (id_column, truth_column, time_column) if one is not None]
    try:
        # Dictionaries are kept: a small file may repeat one long value a million times.
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=names)
        _check_rows(file.metadata.num_rows)
        _check_bytes(file.metadata)
        there = [one for one in names if one in file.schema_arrow.names]
        table = file.read(columns=there)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable("Parquet", error) from None
    return pa.table({name: _plain(name, table[name].combine_chunks()) for name in there})


def _plain(name: str, values: pa.Array) -> pa.Array:
    """Values without their dictionary, whose longest one is bounded."""
    if not pa.types.is_dictionary(values.type):
        return values
    entries = values.dictionary
    if pa.types.is_string(entries.type) or pa.types.is_large_string(entries.type):
        longest = pc.max(pc.utf8_length(entries)).as_py() or 0
        if longest > MAX_TEXT:
            raise TooLarge(
                f"column {name!r}: a text of {longest:,} characters is over {MAX_TEXT:,}, the limit"
            )
    return values.cast(entries.type)


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise TooLarge(
            f"outcomes: {rows:,} rows are over {MAX_ROWS:,}, the limit of one request",
            hint="send several requests",
        )


def _check_bytes(metadata: pq.FileMetaData) -> None:
    size = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    if size > MAX_ROWS * 256:
        raise TooLarge(
            f"outcomes: the columns take {size:,} bytes, over {MAX_ROWS * 256:,}, the limit",
            hint="send the three columns alone, in several requests",
        )


def _unreadable(form: str, error: Exception) -> Invalid:
    return Invalid(
        f"the table is not {form} that can be read: {first_line(error)}",
        hint="check the file and its Content-Type",
    )
