"""Columns of tables: the types that sinks have, values in these types, and columns that lack."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from bascule.core import Invalid, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_HINT = "leave it out with --keep, or convert it in the source, as with --query"


def check_columns(place: str, found: Collection[str], wanted: pa.Schema) -> None:
    """Raise `Invalid` where a table that is there lacks a column of the rows to write."""
    absent = [name for name in wanted.names if name not in found]
    if absent:
        raise Invalid(
            f"{place} has no column {absent[0]!r}",
            hint="add it, choose --columns and --keep, or write to another table",
            field=absent[0],
        )


def plain_schema(
    place: str, schema: pa.Schema, fits: Callable[[pa.DataType], pa.DataType | None] | None = None
) -> pa.Schema:
    """The schema in types that a sink has.

    Args:
        place: Of the sink.
        schema: Of the rows to write.
        fits: The sink's type for one of Arrow, None where it has none; `plain_type` if None.

    Raises:
        Invalid: A column has no such type.
    """
    import pyarrow as pa

    fields = []
    for one in schema:
        kind = (fits or plain_type)(one.type)
        if kind is None:
            raise Invalid(
                f"column {one.name!r} is {one.type}, which {place} cannot hold", hint=_HINT,
                field=one.name,
            )  # fmt: skip
        fields.append(one.with_type(kind))
    return pa.schema(fields)


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """The type without unsigned, one-byte and half numbers; decimals are exact, to 38 digits."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        return plain_type(kind.value_type)
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        inner = plain_type(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if kinds.is_unsigned_integer(kind):
        return pa.int64()
    if kinds.is_int8(kind):
        return pa.int16()
    if kinds.is_float16(kind):
        return pa.float32()
    if kinds.is_union(kind) or kinds.is_run_end_encoded(kind):
        return None
    if kinds.is_decimal(kind) and kind.scale < 0:  # of hundreds, say
        return plain_type(pa.decimal256(kind.precision - kind.scale, 0))
    if kinds.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale) if kind.precision <= 38 else None
    if kinds.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind):
        return pa.binary()
    is_text = kinds.is_large_string(kind) or kinds.is_string_view(kind) or kinds.is_null(kind)
    return pa.string() if is_text else kind


def cast(place: str, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the types of a sink. Raises `Invalid`, which names the first column at fault."""
    import pyarrow as pa

    try:
        return batch.cast(schema)
    except pa.ArrowInvalid:
        for field in schema:
            try:
                batch.column(field.name).cast(field.type)
            except pa.ArrowInvalid as problem:
                raise Invalid(
                    f"column {field.name!r} has a value that {place} cannot hold as {field.type}: "
                    f"{first_line(problem)}",
                    hint=_HINT,
                    field=field.name,
                ) from None
        raise
