"""Keeps the rows that meet a condition in SQL, for sources that know no SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, first_line

if TYPE_CHECKING:
    import pyarrow as pa


def filtered(batches: Iterable[pa.RecordBatch], where: str) -> Iterator[pa.RecordBatch]:
    """The rows of each batch that meet `where`, in their order, by DuckDB.

    Raises:
        Invalid: It is no condition on these columns.
    """
    if not where:
        yield from batches
        return
    import duckdb
    import pyarrow as pa

    with duckdb.connect(config={"threads": 1, "enable_external_access": False}) as connection:
        for batch in batches:
            connection.register("rows_to_score", pa.Table.from_batches([batch]))
            try:
                found: Any = connection.sql(f"SELECT * FROM rows_to_score WHERE {where}")
                yield from found.to_arrow_table().cast(batch.schema).to_batches()
            except duckdb.Error as problem:
                raise Invalid(
                    f"--where {where!r}: {first_line(problem)}",
                    hint="write a condition in SQL on columns of the source: --where 'delay > 5'",
                ) from None
