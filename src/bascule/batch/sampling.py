"""A sample of the rows of a run, of a bounded size, for checks and profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

SAMPLE_ROWS = 100_000
"""Of a run. Statistics of so many rows differ from those of all rows by less than 1 %."""


class Sample:
    """Every k-th row of each chunk; k doubles whenever the sample is full."""

    def __init__(self, expected_rows: int | None, schema: pa.Schema) -> None:
        self._schema = schema
        self._step = max(1, -(-(expected_rows or 0) // SAMPLE_ROWS))
        self._parts: dict[tuple[int, int], tuple[NDArray[Any], pa.RecordBatch]] = {}
        self._rows = 0

    def add(self, chunk: int, rows: int, batch: pa.RecordBatch) -> None:
        """Take rows of a batch, after which `rows` of its chunk are read; a batch again is once."""
        import numpy as np

        first = rows - batch.num_rows
        is_other = not batch.schema.equals(self._schema)  # rows that cannot be scored
        if not is_other and (chunk, rows) not in self._parts:
            self._put(chunk, rows, np.arange(first, rows), batch)

    def take_in(self, chunk: int, places: NDArray[Any], rows: pa.RecordBatch) -> None:
        """The same with rows that another process has chosen, by their places in the chunk."""
        if rows.num_rows and (chunk, -1) not in self._parts:
            self._put(chunk, -1, places, rows)

    def of_chunk(self, chunk: int) -> list[tuple[NDArray[Any], pa.RecordBatch]]:
        """What is kept of a chunk: places in the chunk, and the rows there."""
        return [part for (number, _), part in self._parts.items() if number == chunk]

    def table(self) -> pa.Table | None:
        """The rows, in the order of the source; None where there are none."""
        import pyarrow as pa

        if not self._rows:
            return None
        return pa.Table.from_batches([self._parts[key][1] for key in sorted(self._parts)])

    def _put(self, chunk: int, rows: int, places: NDArray[Any], batch: pa.RecordBatch) -> None:
        kept = _thinned(places, batch, self._step)
        self._parts[chunk, rows] = kept
        self._rows += len(kept[0])
        while self._rows > SAMPLE_ROWS:
            self._step *= 2
            self._parts = {key: _thinned(*one, self._step) for key, one in self._parts.items()}
            self._rows = sum(len(one) for one, _ in self._parts.values())


def _thinned(
    places: NDArray[Any], batch: pa.RecordBatch, step: int
) -> tuple[NDArray[Any], pa.RecordBatch]:
    import numpy as np
    import pyarrow as pa

    kept = np.flatnonzero(places % step == 0)
    # Copied, because a slice would keep the whole batch in memory.
    return places[kept], batch.take(pa.array(kept))
