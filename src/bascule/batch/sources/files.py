"""Parquet, CSV, JSON lines and Arrow files as a source, on disk or in a bucket.

A chunk is some row groups of Parquet, or some whole files. A file is known by name, size and time
of change: one that changes makes another run, and one that changes while it is read ends the run.
Columns that the job does not need are not read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from bascule.batch.columns import columns_of_condition, columns_read
from bascule.batch.jobs import Job
from bascule.batch.manifest import Chunk
from bascule.batch.places import away, check_no_delta, find_files, format_of, open_place
from bascule.batch.sources.filtering import filtered
from bascule.batch.sources.text_files import (
    CsvOptions,
    broken_rows,
    json_names,
    json_rows,
    json_schema,
)
from bascule.core import (
    Conflict,
    DType,
    Field,
    Invalid,
    Signature,
    canonical_json,
    first_line,
    masked,
    sha256_bytes,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

_ALL_ROWS = 1 << 30
_DOUBLE_DIGITS = 15
_READ_SHARE = 4
"""Of the memory of a run, for what is read at once on all threads."""
_BUFFER_BYTES = 1 << 20
_FOOTERS_AT_ONCE = 8
_GUESSED_ROW_BYTES = 100
"""Of a text file, to put small files into one chunk."""


class FileSource:
    """Files of one format; folders such as `day=2026-01-01` are columns."""

    def __init__(
        self, place: str, kind: str, dataset: Any, signature: Signature, job: Job, *,
        may_lack_columns: bool = False, root: str = "",
    ) -> None:  # fmt: skip
        """Read no rows yet.

        Args:
            place: Where the files are, for people.
            kind: Their format, as pyarrow.dataset names it.
            dataset: The files.
            signature: Of the model, which says the types of texts.
            job: What is asked of the rows.
            may_lack_columns: Whether a column that a file lacks is missing in all its rows.
            root: The folder of this machine that the names of the files are relative to.
        """
        self.place, self._kind, self._where = place, kind, job.where
        self._may_lack_columns = may_lack_columns
        workers = job.workers or os.cpu_count() or 1
        self._most_bytes = job.memory_mb * 1_000_000 // (_READ_SHARE * workers)
        self._filesystem = dataset.filesystem
        found = {one.path: one for one in dataset.get_fragments()}
        self._fragments = {path: found[path] for path in sorted(found)}
        is_local = bool(root) or self._filesystem.type_name == "local"
        self.files = [f"{root}/{one}" if root else one for one in self._fragments if is_local]
        self._csv = CsvOptions.of_job(job)
        schema = _needed(dataset.schema.remove_metadata(), job, signature)
        names = [name for name in schema.names if name not in job.ignore]
        inputs = dict(_inputs(signature, names)) if kind == "csv" else None
        self.schema: pa.Schema = _read_schema(schema, inputs, self._csv.types)
        if inputs is not None:
            self.schema = self._with_exact_texts({*inputs, *self._csv.types})

    @property
    def paths(self) -> list[str]:
        """The paths that are read."""
        return list(self._fragments)

    def plan(self, chunk_rows: int) -> list[Chunk]:
        infos = self._filesystem.get_file_info(list(self._fragments))
        self._seen = {one.path: (one.size, one.mtime_ns) for one in infos}
        if self._kind == "parquet" and len(self._fragments) > _FOOTERS_AT_ONCE:
            files = [*self._fragments.values()]
            with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:  # a bucket takes long for each
                shares = (files[n::_FOOTERS_AT_ONCE] for n in range(_FOOTERS_AT_ONCE))
                list(pool.map(_read_footers, shares))
        chunks: list[Chunk] = []
        parts: list[Any] = []
        rows = 0
        for part in self._parts():
            if parts and rows + part[2] > chunk_rows:
                chunks.append(self._chunk(len(chunks), parts))
                parts, rows = [], 0
            parts.append(part)
            rows += part[2]
        return [*chunks, self._chunk(len(chunks), parts)]

    def _parts(self) -> Iterator[tuple[str, list[int], int]]:
        """Each file, or row group of it, with about how many rows it has."""
        for path, fragment in self._fragments.items():
            if not self._may_lack_columns:
                _check_names(self._names_of(path, fragment), self.schema, path)
            if self._kind == "parquet":
                for group in fragment.row_groups:
                    yield path, [group.id], group.num_rows
            else:
                yield path, [], max(1, (self._seen[path][0] or 0) // _GUESSED_ROW_BYTES)

    @staticmethod
    def _partitions(fragment: Any) -> set[str]:
        import pyarrow.dataset as ds

        return set(ds.get_partition_keys(fragment.partition_expression))

    def _names_of(self, path: str, fragment: Any) -> set[str]:
        """The columns of a file; of a text file by its first line, which suffices mostly."""
        folders, quick = self._partitions(fragment), set[str]()
        if self._kind == "csv":
            return folders | {*self._csv.names(self._filesystem, path)}
        if self._kind == "json":
            quick = folders | json_names(self._filesystem, path)
        if {*self.schema.names} <= quick:
            return quick
        return folders | {*fragment.physical_schema.names}

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
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as problem:
            raise Invalid(
                f"{path} cannot be read: {first_line(problem)}",
                hint="columns have the types of the first file; of text, those of its first 8 MB",
                path=path,
            ) from None
        except FileNotFoundError:
            raise Conflict(f"{path} was removed while it was read", hint="start again") from None
        except OSError as problem:
            raise away(path, problem) from None

    def _read_file(self, path: str, groups: list[int], batch_rows: int) -> Iterator[pa.RecordBatch]:
        whole = self._fragments[path]
        if self._kind == "csv":
            batches = self._read_csv(whole)
        elif self._kind == "json":
            batches = self._read_json(whole, batch_rows)
        else:
            # One row group at a time: the scanner reads ahead all of a fragment's.
            parts = [whole.subset(row_group_ids=[group]) for group in groups] or [whole]
            batches = (
                batch.cast(self.schema)
                for part in parts
                for batch in (
                    self._stream(part, batch_rows)
                    if groups and part.row_groups[0].num_rows > batch_rows
                    else self._scan(part, self.schema, batch_rows)
                )
            )
        for batch in batches:
            where = self._where if batch.schema.equals(self.schema) else ""
            # Blocks of text files may be larger than the batches that are wanted.
            for kept in filtered([batch], where):
                for start in range(0, kept.num_rows, batch_rows):
                    yield kept.slice(start, batch_rows)

    def _stream(self, group: Any, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a row group by its pages: the scanner decodes a whole one at a time."""
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        folders = ds.get_partition_keys(group.partition_expression)
        ids = [one.id for one in group.row_groups]
        # Buffers read a large row group piece by piece; else its columns are read whole, at once.
        is_large = group.row_groups[0].total_byte_size > self._most_bytes
        how = {"pre_buffer": not is_large, "buffer_size": _BUFFER_BYTES if is_large else 0}
        with group.open() as stream, pq.ParquetFile(stream, metadata=group.metadata, **how) as file:
            own = {*file.schema_arrow.names} - {*folders}
            read = [name for name in self.schema.names if name in own]
            for batch in file.iter_batches(batch_rows, ids, read, use_threads=False):
                columns = [
                    batch.column(one.name) if one.name in own
                    else pa.repeat(pa.scalar(folders.get(one.name)), len(batch)).cast(one.type)
                    for one in self.schema
                ]  # fmt: skip
                yield pa.RecordBatch.from_arrays(columns, self.schema.names)

    @staticmethod
    def _scan(part: Any, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        scanned: Iterator[pa.RecordBatch] = part.to_batches(
            schema=schema, batch_size=batch_rows, use_threads=False, batch_readahead=1
        )
        return scanned

    def _with_exact_texts(self, typed: Collection[str]) -> pa.Schema:
        """Numbers without a type of the model or job are texts where digits would be lost.

        Accounts of 20 digits, and `007`: looked for in the first block.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.types as kinds

        file = next(iter(self._fragments.values()))
        numbers = [
            one for one in self.schema
            if one.name not in typed and one.name not in self._partitions(file)
            and (kinds.is_floating(one.type) or kinds.is_integer(one.type))
        ]  # fmt: skip
        texts = pa.schema([(one.name, pa.string()) for one in numbers])
        schema = self.schema
        for head in islice(self._csv_blocks(file, texts, {}) if numbers else (), 1):
            for column, one in zip(head.columns, numbers, strict=True):
                digits = pc.replace_substring_regex(column, r"^[-+0.]*|\.|[eE].*$", "")
                longest = pc.max(pc.utf8_length(digits)).as_py() or 0
                is_long = kinds.is_floating(one.type) and longest > _DOUBLE_DIGITS
                if is_long or pc.any(pc.match_substring_regex(column, r"^[-+]?0\d")).as_py():
                    place = schema.get_field_index(one.name)
                    schema = schema.set(place, one.with_type(pa.string()))
        return schema

    def _read_csv(self, file: Any) -> Iterator[pa.RecordBatch]:
        """The blocks of a file; after a value that is not of its column's type, read as bytes."""
        import pyarrow as pa

        seen, broken = 0, dict[int, tuple[str, str]]()
        try:
            for block in self._csv_blocks(file, self.schema, broken):
                yield block
                seen += 1
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            as_bytes = pa.schema([(one.name, pa.binary()) for one in self.schema])
            for block in islice(self._csv_blocks(file, as_bytes, broken), seen, None):
                yield from _split_by_type(block, self.schema)
        if broken:
            yield broken_rows([broken[number] for number in sorted(broken)])

    def _csv_blocks(
        self, file: Any, schema: pa.Schema, broken: dict[int, tuple[str, str]]
    ) -> Iterator[pa.RecordBatch]:
        """The blocks of a file, with the values of its folders as columns."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        folders = ds.get_partition_keys(file.partition_expression)
        own = pa.schema([one for one in schema if one.name not in folders])
        for block in self._csv.blocks(self._filesystem, file.path, own, broken):
            columns = [
                pa.repeat(pa.scalar(folders[one.name]), len(block)).cast(self._type(one))
                if one.name in folders else block.column(one.name)
                for one in schema
            ]  # fmt: skip
            yield pa.RecordBatch.from_arrays(columns, schema.names)

    def _type(self, field: pa.Field) -> pa.DataType:
        """Of a folder's value, which is never read as bytes."""
        return self.schema.field(field.name).type

    def _read_json(self, file: Any, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a file; after a line that is no row, line by line."""
        import pyarrow as pa

        seen = 0
        try:
            for batch in self._scan(file, self.schema, batch_rows):
                yield batch.cast(self.schema)
                seen += batch.num_rows
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if self._partitions(file):
                raise
            yield from json_rows(self._filesystem, file.path, self.schema, seen)

    def _check_unchanged(self, path: str) -> None:
        info = self._filesystem.get_file_info(path)
        if (info.size, info.mtime_ns) != self._seen[path]:
            raise Conflict(
                f"{path} has changed while it was read", hint="start the job again", path=path
            )

    def close(self) -> None:
        """Nothing is held."""


def _read_footers(files: Sequence[Any]) -> None:
    for one in files:
        one.ensure_complete_metadata()


def _needed(schema: pa.Schema, job: Job, signature: Signature) -> pa.Schema:
    """The columns that the job needs."""
    import pyarrow as pa

    needed = columns_read(job, signature, schema.names)
    if job.where:
        needed += columns_of_condition(job.where, schema.names)
    found = [one for one in schema if one.name in needed]
    encoded = next((one for one in found if pa.types.is_run_end_encoded(one.type)), None)
    if encoded is not None:
        raise Invalid(
            f"column {encoded.name!r} is run-end encoded, and rows cannot be taken of it",
            hint="leave it out with --keep, or decode it in the source",
            field=encoded.name,
        )
    return pa.schema(found)


def _read_schema(
    found: pa.Schema, inputs: Mapping[str, Field] | None, types: Mapping[str, pa.DataType]
) -> pa.Schema:
    """Of a CSV (`inputs` are given): the job's types, else the model's; text without values."""
    import pyarrow as pa
    import pyarrow.types as kinds

    def typed(one: pa.Field) -> pa.Field:
        if kinds.is_string_view(one.type):  # of Polars; Arrow cannot take rows of it
            return one.with_type(pa.string())
        if kinds.is_binary_view(one.type):
            return one.with_type(pa.binary())
        if inputs is None:
            return one
        if one.name in types:
            return one.with_type(types[one.name])
        if one.name in inputs:
            are_words = inputs[one.name].booleans and kinds.is_boolean(one.type)
            return one if are_words else one.with_type(_arrow_type(inputs[one.name].dtype))
        # Bytes are texts of which one is none; a time cannot be read from a single text.
        is_text = kinds.is_null(one.type) or kinds.is_binary(one.type) or kinds.is_time(one.type)
        return one.with_type(pa.string()) if is_text else one

    return pa.schema([typed(one) for one in found])


def _split_by_type(block: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """For each column the rows whose bytes are not of its type; then the other rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(schema):
        column = block.column(place)
        if _read(column, field.type) is None:
            wrong = pa.concat_arrays(_unreadable(pc.unique(column), field.type))
            is_wrong = pc.is_in(column, wrong)
            bad = block.filter(is_wrong)
            yield pa.RecordBatch.from_arrays(
                [
                    _read(array, one.type) or _read(array, pa.string()) or array
                    for array, one in zip(bad.columns, schema, strict=True)
                ],
                schema.names,
            )
            block = block.filter(pc.invert(is_wrong))
    arrays = [_read(array, one.type) for array, one in zip(block.columns, schema, strict=True)]
    yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _unreadable(values: pa.Array, kind: pa.DataType) -> list[pa.Array]:
    """The values that are not of a type, found by halves."""
    if _read(values, kind) is not None:
        return []
    if len(values) == 1:
        return [values]
    half = len(values) // 2
    return _unreadable(values.slice(0, half), kind) + _unreadable(values.slice(half), kind)


def _read(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Bytes of a CSV as the type that its reader would make of them; None where one is not."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    try:
        if not kinds.is_binary(values.type):
            return values.cast(kind)  # of the name of a folder
        texts = values.cast(pa.string())
        return texts if kinds.is_string(kind) else pc.ascii_trim_whitespace(texts).cast(kind)
    except pa.ArrowInvalid:
        return None


def open_files(job: Job, signature: Signature) -> FileSource:
    """The files of a path, a folder, a glob or the URL of a bucket.

    Raises:
        NotFound: There are none.
        Invalid: They are of several formats, cannot be read, or are those of a Delta table.
        Unavailable: The bucket is away.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    text, place = job.source, masked(job.source)
    filesystem, path = open_place(text)
    try:
        check_no_delta(filesystem, path, text)
        files = find_files(filesystem, path, place)
        kind = format_of(files, place)
        if job.types and kind != "csv":
            raise Invalid("types: they are of CSV, and the files are not", field="types")
        open_as = partial(
            ds.dataset, files, filesystem=filesystem, format=_format(kind, job), partitioning="hive"
        )
        try:
            dataset = open_as()
        except pa.ArrowInvalid:
            schema = json_schema(filesystem, files[0]) if kind == "json" else None
            if schema is None:
                raise
            dataset = open_as(schema=schema)
        return FileSource(place, kind, dataset, signature, job)
    except pa.ArrowInvalid as problem:
        raise Invalid(f"{place} cannot be read: {first_line(problem)}") from None
    except OSError as problem:
        raise away(place, problem) from None


def _format(kind: str, job: Job) -> ds.FileFormat:
    import pyarrow.dataset as ds

    if kind == "parquet":
        return ds.ParquetFileFormat(
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True)
        )
    options = CsvOptions.of_job(job)
    if kind == "csv":
        return ds.CsvFileFormat(
            convert_options=options.converting(), read_options=options.reading(),
            parse_options=options.parsing({}),
        )  # fmt: skip
    return kind


def _inputs(signature: Signature, names: Sequence[str]) -> Iterator[tuple[str, Field]]:
    """The columns of the model: of a matrix without names all those of the source, `names`."""
    for field in signature.inputs:
        is_whole = signature.is_matrix and field.shape[0] in (-1, len(names))
        matrix = signature.columns or (names if is_whole else ())
        for name in matrix if signature.is_matrix else (field.name,):
            yield name, field


def _arrow_type(dtype: DType) -> pa.DataType:
    import pyarrow as pa

    return pa.string() if dtype is DType.BYTES else pa.from_numpy_dtype(dtype.numpy)


def _check_names(found: set[str], expected: pa.Schema, path: str) -> None:
    """Raise where a file lacks a column that the first one has: it would be read as missing."""
    absent = [name for name in expected.names if name not in found]
    if absent:
        raise Invalid(
            f"{path} has no column {absent[0]!r}, which the first file has",
            hint="score files of one schema in one job",
            field=absent[0],
            path=path,
        )
