"""A digest of rows, for sources that know no time of change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bascule.core import sha256_bytes

if TYPE_CHECKING:
    import pyarrow as pa


class RowDigest:
    """The number of rows and the sum of a 64-bit hash of each, by DuckDB.

    The sum does not depend on how rows were cut into batches. Another version of DuckDB may hash
    otherwise: a run that was begun before an update is then another run.
    """

    def __init__(self) -> None:
        import duckdb

        self._connection = duckdb.connect(config={"threads": 1})
        self._rows = self._sum = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch."""
        import pyarrow as pa

        if not batch.num_rows:
            return
        self._connection.register("rows_read", pa.Table.from_batches([batch]))
        found: Any = self._connection.execute("SELECT sum(hash(rows_read)) FROM rows_read")
        ((total,),) = found.fetchall()
        self._rows, self._sum = self._rows + batch.num_rows, self._sum + int(total)

    def take(self) -> str:
        """The digest of the rows that were added; begins anew."""
        made = sha256_bytes(f"{self._rows} {self._sum}".encode())
        self._rows = self._sum = 0
        return made

    def close(self) -> None:
        """Give back the memory."""
        self._connection.close()
