"""Outcomes over the control API of a server: tables go up as Parquet, in parts."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from bascule.monitoring.ledger.operations import ADD_OUTCOMES
from bascule.monitoring.ledger.outcomes import Imported, check_columns
from bascule.operations import Remote

_PARQUET = "application/vnd.apache.parquet"
_PART_ROWS = 100_000


class RemoteOutcomes(Remote):
    """See `Outcomes.add`."""

    def add(
        self,
        model: str,
        table: pa.Table,
        *,
        id_column: str = "id",
        truth_column: str = "truth",
        time_column: str | None = None,
    ) -> Imported:
        """The same on the server. A failure keeps the parts before it; send all of them again."""
        columns = {"id_column": id_column, "truth_column": truth_column, "time_column": time_column}
        check_columns(table, id_column, truth_column, time_column)
        wanted = table.select([name for name in columns.values() if name is not None])
        taken, refused = 0, dict[int, str]()
        for start in range(0, max(wanted.num_rows, 1), _PART_ROWS):
            file = io.BytesIO()
            pq.write_table(wanted.slice(start, _PART_ROWS), file, compression="zstd")
            path = ADD_OUTCOMES.at(model=model)
            said = self._client.send(
                path, file.getvalue(), {"Content-Type": _PARQUET}, query=columns
            )
            added = ADD_OUTCOMES.read(said)
            taken += added.taken
            refused |= {start + one.index + 1: one.reason for one in added.refused}
        return Imported(taken, refused)
