"""What sources and sinks do: the two ports, and what each implementation must keep.

A source gives the same chunks, and the same rows in the same order, until its rows change. A sink
makes a chunk visible once and whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch.manifest import Chunk, Manifest, Record


BROKEN = ("bascule_line", "bascule_reason")
"""The columns of a batch of lines that are no rows."""


class Source(Protocol):
    """Rows to score."""

    @property
    def place(self) -> str:
        """Where it is, without passwords."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of every batch."""

    @property
    def files(self) -> Sequence[str]:
        """The files of this machine that it reads, as their folder or glob has named them."""

    def plan(self, chunk_rows: int) -> list[Chunk]:
        """Chunks of about `chunk_rows` rows; at least one, which may have no rows.

        Raises:
            Invalid: Its parts do not fit together; the message names the part.
            Unavailable: It is away.
        """

    def read(self, chunk: Chunk, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a chunk, in the same order every time. Called on several threads.

        A row with a value that is not of its column's type is in a batch of other types; a line
        that is no row is one of a batch with the columns `BROKEN`.

        Raises:
            Conflict: The rows have changed since `plan`.
            Invalid: A value cannot be read; retrying does not help.
            Unavailable: The source is away; retrying may help.
        """

    def close(self) -> None:
        """Give back connections."""


class Staged(Protocol):
    """A chunk that is written, and not yet visible."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add scored rows."""

    def quarantine(self, rows: pa.Table) -> None:
        """Add rows that cannot be scored: `chunk`, `row`, `reason`, `content`."""

    def commit(self, record: Record) -> None:
        """Make it visible, together with its record. Again is the same as once."""


class Sink(Protocol):
    """A place for scored rows."""

    @property
    def place(self) -> str:
        """Where it is, without passwords."""

    def runs(self) -> tuple[Mapping[str, bool], bool]:
        """The runs of which it has rows, and whether each is finished; whether there are others."""

    def fits(self, schema: pa.Schema) -> pa.Schema:
        """The columns in the types that it has; raises `Invalid` where it cannot hold one."""

    def claim(self, run: str) -> AbstractContextManager[object]:
        """Have the sink to this process while the block runs, in which all that follows is called.

        Raises:
            Conflict: Another process writes to it; of `commit` and `finish`: has taken over since.
        """

    def open(self, manifest: Manifest, schema: pa.Schema) -> list[Record]:
        """Begin or go on with a run: what it has committed. Removes what a killed one left."""

    def stage(self, chunk: Chunk) -> AbstractContextManager[Staged]:
        """A place for one chunk; what is not committed when the block ends, is removed."""

    def finish(self) -> None:
        """All chunks are committed. Again is the same as once. `Conflict` where rows are absent."""

    def close(self) -> None:
        """Give back connections."""
