"""Writes record batches to one file of each format."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bascule.batch.scoring import ID
from bascule.core import Invalid

if TYPE_CHECKING:
    import pyarrow as pa


class Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


def _parquet(path: Path, schema: pa.Schema) -> Any:
    import pyarrow.parquet as pq

    # Dictionaries of numbers and ids take half of the time of writing, and save little.
    texts = [one.name for one in schema if "string" in str(one.type) and one.name != ID]
    return pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=texts)


def _csv(path: Path, schema: pa.Schema) -> Any:
    import pyarrow.csv as pacsv

    return pacsv.CSVWriter(path, schema)


def _arrow(path: Path, schema: pa.Schema) -> Any:
    import pyarrow as pa

    return pa.ipc.new_file(str(path), schema)


class _JsonLines:
    """The one format that is written by row."""

    def __init__(self, path: Path, _schema: pa.Schema) -> None:
        self._file = path.open("wb")

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._file.write(msgspec.json.Encoder().encode_lines(batch.to_pylist()))

    def close(self) -> None:
        self._file.close()


WRITERS: dict[str, tuple[str, Callable[[Path, Any], Any]]] = {
    "parquet": (".parquet", _parquet),
    "csv": (".csv", _csv),
    "jsonl": (".jsonl", _JsonLines),
    "arrow": (".arrow", _arrow),
}
"""By format, the suffix and what opens a writer."""


def writable_format(name: str) -> str:
    """Raises `Invalid` where there is no such format."""
    if name not in WRITERS:
        raise Invalid(f"format {name!r} is not known", hint=f"use one of {', '.join(WRITERS)}")
    return name


def format_of_suffix(suffix: str) -> str | None:
    """The format of files with this suffix; None where there is none."""
    return next((name for name, (known, _) in WRITERS.items() if known == suffix), None)


def type_of_format(name: str) -> Callable[[pa.DataType], pa.DataType | None]:
    """What gives the type that a format has for one of Arrow; None where it has none."""
    import pyarrow as pa
    import pyarrow.types as kinds

    def fits(kind: pa.DataType) -> pa.DataType | None:
        if name == "csv" and kinds.is_float16(kind):
            return pa.float32()
        # Bytes that are no text are found in a value, when rows are scored.
        is_bytes = kinds.is_binary(kind) or kinds.is_large_binary(kind)
        if name == "csv" and (is_bytes or kinds.is_fixed_size_binary(kind)):
            return None
        if name == "jsonl":
            is_fine = kinds.is_timestamp(kind) and kind.unit == "ns"
            is_of_pandas = kinds.is_duration(kind) and kind.unit == "ns"
            return None if is_of_pandas else pa.timestamp("us", kind.tz) if is_fine else kind
        return kind if _is_written(name, kind) else None

    return fits


@cache
def _is_written(name: str, kind: pa.DataType) -> bool:
    """Whether the writer of a format takes a type: it is asked, because its list grows."""
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    schema = pa.schema([("column", kind)])
    try:
        with {
            "parquet": pq.ParquetWriter, "csv": pacsv.CSVWriter, "arrow": pa.ipc.new_file
        }[name](pa.BufferOutputStream(), schema) as writer:  # fmt: skip
            writer.write_batch(pa.record_batch([pa.nulls(1, kind)], schema=schema))
    except (pa.ArrowException, OSError):
        return False
    return True
