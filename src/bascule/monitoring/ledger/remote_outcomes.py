"""Outcomes over the control API of a server: tables go up as Parquet, in parts."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from bascule.monitoring.ledger.outcomes import Imported, check_columns
from bascule_client.control import ControlClient, path_of

_PARQUET = "application/vnd.apache.parquet"
_PART_ROWS = 100_000


class RemoteOutcomes:
    """See `Outcomes.add`; errors are those that it raises on the server."""

    def __init__(self, client: ControlClient) -> None:
        """Nothing is asked yet."""
        self._client = client

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
            said = self._client.send(
                path_of("models", model, "outcomes"), file.getvalue(), _PARQUET, query=columns
            )
            taken += said["taken"]
            refused |= {start + one["index"] + 1: one["reason"] for one in said["refused"]}
        return Imported(taken, refused)
