"""Takes rows whose text is not of the type of its column apart from the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def split_by_type(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """For each column the rows whose text is not of its type; then the other rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(schema):
        column = batch.column(place)
        texts = pc.unique(column) if column.type != field.type else ()
        wrong = [one.as_py() for one in texts if not _casts(one, field.type)]
        if wrong:
            is_wrong = pc.is_in(column, pa.array(wrong, column.type))
            bad = batch.filter(is_wrong)
            others = (n for n in range(len(schema)) if n != place)
            for other in others:
                if _casts(bad.column(other), schema.field(other).type):
                    cast = bad.column(other).cast(schema.field(other).type)
                    bad = bad.set_column(other, schema.field(other), cast)
            yield bad
            batch = batch.filter(pc.invert(is_wrong))
    yield batch.cast(schema)


def _casts(value: pa.Scalar | pa.Array, kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        value.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
