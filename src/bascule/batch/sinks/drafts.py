"""Rows that wait for the transaction that makes them visible."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from bascule.core import writing

if TYPE_CHECKING:
    import pyarrow as pa


_HINT = "set TMPDIR to a folder with room"


class Draft:
    """Record batches in a file without a name, which is gone when its process is."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer: Any = None
        self._file: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch.

        Raises:
            Invalid: The temporary folder is full.
        """
        import pyarrow as pa

        with writing(tempfile.gettempdir(), hint=_HINT):
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_stream(self._file, self._schema, options=options)
            self._writer.write_batch(batch)

    def reader(self) -> pa.RecordBatchReader:
        """What was added, in order; nothing is added after it. May be asked for again."""
        import pyarrow as pa

        if self._file is None:
            return pa.RecordBatchReader.from_batches(self._schema, [])
        with writing(tempfile.gettempdir(), hint=_HINT):
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._file.seek(0)
        return pa.ipc.open_stream(self._file)

    def close(self) -> None:
        """Give back the room."""
        if self._file is not None:
            self._file.close()
