"""Parquet, CSV, JSON lines and Arrow files as a source, on disk or in a bucket.

A chunk is some row groups of Parquet, or some whole files. A file is known by name, size and time
of change: one that changes makes another run, and one that changes while it is read ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bascule.batch.manifest import Chunk
from bascule.batch.places import find_files, format_of, open_place
from bascule.batch.sources.filtering import filtered
from bascule.core import (
    Conflict,
    DType,
    Invalid,
    Signature,
    Unavailable,
    canonical_json,
    first_line,
    masked,
    sha256_bytes,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

_BLOCK_BYTES = 8 << 20
_GUESSED_ROW_BYTES = 100
"""Of a text file, to put small files into one chunk."""


class FileSource:
    """Files of one format; folders such as `day=2026-01-01` are columns."""

    def __init__(self, text: str, signature: Signature, *, where: str = "") -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds

        self.place = masked(text)
        self._where = where
        self._filesystem, path = open_place(text)
        try:
            files = find_files(self._filesystem, path, self.place)
            self._kind = format_of(files, self.place)
            dataset = ds.dataset(
                files, filesystem=self._filesystem, format=_format(self._kind, signature),
                partitioning="hive",
            )  # fmt: skip
            self._fragments = {one.path: one for one in dataset.get_fragments()}
        except pa.ArrowInvalid as problem:
            raise Invalid(f"{self.place} cannot be read: {first_line(problem)}") from None
        except OSError as problem:
            raise Unavailable(f"{self.place} cannot be read: {first_line(problem)}") from None
        self._read_schema = dataset.schema
        self.schema: pa.Schema = dataset.schema.remove_metadata()

    def plan(self, chunk_rows: int) -> list[Chunk]:
        infos = self._filesystem.get_file_info(list(self._fragments))
        self._seen = {one.path: (one.size, one.mtime_ns) for one in infos}
        chunks: list[Chunk] = []
        parts: list[Any] = []
        for part in self._parts():
            if parts and sum(one[2] for one in parts) + part[2] > chunk_rows:
                chunks.append(self._chunk(len(chunks), parts))
                parts = []
            parts.append(part)
        return [*chunks, self._chunk(len(chunks), parts)]

    def _parts(self) -> Iterator[tuple[str, list[int], int]]:
        """Each file, or row group of it, with about how many rows it has."""
        for path, fragment in self._fragments.items():
            _check_schema(
                fragment.physical_schema, self._read_schema, path, self._partitions(fragment)
            )
            if self._kind == "parquet":
                for group in fragment.row_groups:
                    yield path, [group.id], group.num_rows
            else:
                yield path, [], max(1, (self._seen[path][0] or 0) // _GUESSED_ROW_BYTES)

    @staticmethod
    def _partitions(fragment: Any) -> set[str]:
        import pyarrow.dataset as ds

        return set(ds.get_partition_keys(fragment.partition_expression))

    def _chunk(self, number: int, parts: Sequence[Any]) -> Chunk:
        merged: dict[str, list[int]] = {}
        for path, groups, _ in parts:
            merged.setdefault(path, []).extend(groups)
        reads = list(merged.items())
        facts = [[path, groups, *self._seen[path]] for path, groups in reads]
        is_counted = self._kind == "parquet" and not self._where
        rows = sum(one[2] for one in parts) if is_counted else None
        return Chunk(number, sha256_bytes(canonical_json(facts)), reads, rows)

    def read(self, chunk: Chunk, batch_rows: int) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        try:
            for path, groups in chunk.reads:
                yield from self._read_file(path, groups, batch_rows)
                self._check_unchanged(path)
        except pa.ArrowInvalid as problem:
            raise Invalid(
                f"{path} cannot be read: {first_line(problem)}",
                hint="types of a text file are those of its first 8 MB and of the model",
            ) from None
        except FileNotFoundError:
            raise Conflict(f"{path} was removed while it was read", hint="start again") from None
        except OSError as problem:
            raise Unavailable(f"{path} cannot be read: {first_line(problem)}") from None

    def _read_file(self, path: str, groups: list[int], batch_rows: int) -> Iterator[pa.RecordBatch]:
        fragment = self._fragments[path]
        if groups:
            fragment = fragment.subset(row_group_ids=groups)
        batches = fragment.to_batches(
            schema=self._read_schema, batch_size=batch_rows, use_threads=False,
            batch_readahead=1, fragment_readahead=1,
        )  # fmt: skip
        for batch in filtered(batches, self._where):
            # Blocks of text files may be larger than the batches that are wanted.
            for start in range(0, batch.num_rows, batch_rows):
                yield batch.slice(start, batch_rows).cast(self.schema)

    def _check_unchanged(self, path: str) -> None:
        info = self._filesystem.get_file_info(path)
        if (info.size, info.mtime_ns) != self._seen[path]:
            raise Conflict(
                f"{path} has changed while it was read", hint="start the job again", path=path
            )

    def close(self) -> None:
        """Nothing is held."""


def _format(kind: str, signature: Signature) -> ds.FileFormat:
    import pyarrow.csv as pacsv
    import pyarrow.dataset as ds

    if kind == "parquet":
        return ds.ParquetFileFormat(
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True)
        )
    if kind == "csv":
        types = {name: _arrow_type(dtype) for name, dtype in _inputs(signature)}
        return ds.CsvFileFormat(
            convert_options=pacsv.ConvertOptions(column_types=types, strings_can_be_null=True),
            read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES),
        )
    return kind


def _inputs(signature: Signature) -> Iterator[tuple[str, DType]]:
    for field in signature.inputs:
        for name in signature.columns if signature.is_matrix else (field.name,):
            yield name, field.dtype


def _arrow_type(dtype: DType) -> pa.DataType:
    import pyarrow as pa

    return pa.string() if dtype is DType.BYTES else pa.from_numpy_dtype(dtype.numpy)


def _check_schema(found: pa.Schema, expected: pa.Schema, path: str, partitions: set[str]) -> None:
    """Raise where a file lacks a column that the first one has: it would be read as missing."""
    names = set(found.names) | partitions
    absent = [name for name in expected.names if name not in names]
    if absent:
        raise Invalid(
            f"{path} has no column {absent[0]!r}, which the first file has",
            hint="score files of one schema in one job",
            field=absent[0],
            path=path,
        )
