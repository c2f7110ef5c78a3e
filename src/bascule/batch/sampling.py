"""A sample of the rows of a run, of a bounded size, for checks and profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from bascule.core import Columns

    Part: TypeAlias = tuple[NDArray[Any], pa.RecordBatch, Columns | None]

SAMPLE_BYTES = 64 << 20
"""Of a run, unless its memory says otherwise; wide rows are fewer."""
SAMPLE_ROWS = 100_000
"""Of a run, for checks. Shares of so many rows differ from those of all by 0.3 % at most (95 %)."""
PROFILED_ROWS = 25_000
"""Of these, for profiles: by 0.6 %. A cheap model answers a row faster than it is profiled."""


class Sample:
    """Every k-th row of each chunk; k doubles whenever the sample is full."""

    def __init__(
        self, expected_rows: int | None, schema: pa.Schema, most_bytes: int = SAMPLE_BYTES
    ) -> None:
        self._schema, self._most_bytes = schema, most_bytes
        self._step = max(1, -(-(expected_rows or 0) // SAMPLE_ROWS))
        self._profiled_step = max(1, -(-(expected_rows or 0) // PROFILED_ROWS))
        self._parts: dict[tuple[int, int], Part] = {}
        self._rows = self._bytes = 0

    def add(
        self, chunk: int, rows: int, batch: pa.RecordBatch, outputs: Columns | None = None
    ) -> None:
        """Take rows of a batch, after which `rows` of its chunk are read; a batch again is once."""
        import numpy as np

        first = rows - batch.num_rows
        is_other = not batch.schema.equals(self._schema)  # rows that cannot be scored
        if not is_other and (chunk, rows) not in self._parts:
            self._put(chunk, rows, (np.arange(first, rows), batch, outputs))

    def take_in(self, chunk: int, places: NDArray[Any], rows: pa.RecordBatch) -> None:
        """The same with rows that another process has chosen, by their places in the chunk."""
        if rows.num_rows and (chunk, -1) not in self._parts:
            self._put(chunk, -1, (places, rows, None))

    def of_chunk(self, chunk: int) -> list[Part]:
        """What is kept of a chunk: places in the chunk, the rows there, and their answers."""
        return [part for (number, _), part in self._parts.items() if number == chunk]

    def profiled(self, chunk: int) -> list[Part]:
        """What profiles are made of: fewer of its rows."""
        parts, every = self.of_chunk(chunk), -(-self._profiled_step // self._step)
        return parts if every == 1 else [_thinned(part, self._step * every) for part in parts]

    def table(self) -> pa.Table | None:
        """The rows, in the order of the source; None where there are none."""
        import pyarrow as pa

        if not self._rows:
            return None
        return pa.Table.from_batches([self._parts[key][1] for key in sorted(self._parts)])

    def _put(self, chunk: int, rows: int, part: Part) -> None:
        self._parts[chunk, rows] = kept = _thinned(part, self._step)
        self._rows, self._bytes = self._rows + len(kept[0]), self._bytes + kept[1].nbytes
        while self._is_full():
            self._step *= 2
            self._parts = {key: _thinned(one, self._step) for key, one in self._parts.items()}
            self._rows = sum(len(places) for places, _, _ in self._parts.values())
            self._bytes = sum(batch.nbytes for _, batch, _ in self._parts.values())

    def _is_full(self) -> bool:
        """Also with a row of each part alone it may be over the limits, and is full enough."""
        is_over = self._rows > SAMPLE_ROWS or self._bytes > self._most_bytes
        return is_over and any(len(places) > 1 for places, _, _ in self._parts.values())


def _thinned(part: Part, step: int) -> Part:
    import numpy as np
    import pyarrow as pa

    places, batch, outputs = part
    kept = np.flatnonzero(places % step == 0)
    answers = None if outputs is None else {n: values[kept] for n, values in outputs.items()}
    # Copied, because a slice would keep the whole batch in memory.
    return places[kept], batch.take(pa.array(kept)), answers
