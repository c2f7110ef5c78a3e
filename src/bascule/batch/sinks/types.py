"""Columns of tables: the types that databases have, and those that a table lacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bascule.core import Invalid

if TYPE_CHECKING:
    import pyarrow as pa


def check_columns(place: str, found: Collection[str], wanted: pa.Schema) -> None:
    """Raise `Invalid` where a table that is there lacks a column of the rows to write."""
    absent = [name for name in wanted.names if name not in found]
    if absent:
        raise Invalid(
            f"{place} has no column {absent[0]!r}",
            hint="add it, choose --columns and --keep, or write to another table",
            field=absent[0],
        )


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema in types that tables of databases have: no unsigned or one-byte numbers."""
    import pyarrow as pa
    import pyarrow.types as kinds

    def fits(kind: pa.DataType) -> pa.DataType:
        if kinds.is_dictionary(kind):
            return fits(kind.value_type)
        if kinds.is_unsigned_integer(kind):
            return pa.int64()
        if kinds.is_int8(kind):
            return pa.int16()
        if kinds.is_float16(kind):
            return pa.float32()
        if kinds.is_decimal(kind):
            return pa.float64()
        if kinds.is_timestamp(kind):
            return pa.timestamp("us", kind.tz and "UTC")
        return pa.string() if kinds.is_null(kind) or kinds.is_large_string(kind) else kind

    return pa.schema([pa.field(one.name, fits(one.type)) for one in schema])
