"""A sample of the rows of a run, of a bounded size, for checks and profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 100_000


class Sample:
    """Every k-th row of a table of known size; else the first rows of each batch."""

    def __init__(self, expected_rows: int | None) -> None:
        self._step = max(1, -(-(expected_rows or 0) // SAMPLE_ROWS))
        self._batches: dict[tuple[int, int], pa.RecordBatch] = {}
        self._rows = 0

    def add(self, chunk: int, rows: int, batch: pa.RecordBatch) -> None:
        """Take rows of a batch, after which `rows` of its chunk are read; a batch again is once."""
        import numpy as np
        import pyarrow as pa

        if self._rows >= SAMPLE_ROWS or (chunk, rows) in self._batches:
            return
        places = np.arange((-(rows - batch.num_rows)) % self._step, batch.num_rows, self._step)
        taken = batch.take(pa.array(places[: SAMPLE_ROWS - self._rows]))
        self._batches[chunk, rows] = taken
        self._rows += taken.num_rows

    def table(self) -> pa.Table | None:
        """The rows, in the order of the source; None where there are none."""
        import pyarrow as pa

        if not self._rows:
            return None
        return pa.Table.from_batches([self._batches[place] for place in sorted(self._batches)])
