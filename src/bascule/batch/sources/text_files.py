"""CSV and JSON lines: blocks of rows, and the lines that are no row.

A line that is no row comes after the rows of its file, so that rows have the same numbers in every
read, however far the parser is ahead.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.batch.jobs import Job
from bascule.batch.ports import BROKEN
from bascule.core import Invalid, first_line

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = 8 << 20
_LINES = 10_000
_DECIMAL = re.compile(r"decimal\((\d+), *(\d+)\)")


def broken_rows(lines: Sequence[tuple[str, str]]) -> pa.RecordBatch:
    """A batch of lines that are no rows, each with the reason; see `Source.read`."""
    import pyarrow as pa

    columns = [pa.array([one[place] for one in lines], pa.string()) for place in (0, 1)]
    return pa.RecordBatch.from_arrays(columns, BROKEN)


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """How the CSV files of a job are written; see `Job`."""

    delimiter: str
    encoding: str
    decimal_point: str
    nulls: tuple[str, ...]
    types: Mapping[str, pa.DataType]

    @classmethod
    def of_job(cls, job: Job) -> CsvOptions:
        """Raises `Invalid` where a type or an encoding is not known."""
        try:
            encoding = codecs.lookup(job.encoding).name
        except LookupError:
            raise Invalid(
                f"encoding: {job.encoding!r} is not known", hint="use utf-8, latin-1, cp1252..."
            ) from None
        types = {name: _type_of(name, text) for name, text in job.types.items()}
        return cls(job.delimiter, encoding, job.decimal_point, job.nulls, types)

    def parsing(self, broken: dict[int, tuple[str, str]]) -> Any:
        """Options of the parser, which puts lines that are no rows into `broken` by number."""
        import pyarrow.csv as pacsv

        def skip(row: Any) -> str:
            reason = f"the line has {row.actual_columns} values, and not {row.expected_columns}"
            broken[row.number or len(broken)] = (row.text, reason)
            return "skip"

        return pacsv.ParseOptions(
            delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=skip
        )

    def reading(self) -> Any:
        import pyarrow.csv as pacsv

        # Other bytes than UTF-8 are found in values later, where the file is not decoded first.
        encoding = "utf8" if self.encoding == "utf-8" else self.encoding
        return pacsv.ReadOptions(block_size=BLOCK_BYTES, encoding=encoding, use_threads=False)

    def converting(self, schema: pa.Schema | None = None) -> Any:
        """Options of the values; `schema` has the columns to read."""
        import pyarrow.csv as pacsv

        types = dict(self.types) if schema is None else {one.name: one.type for one in schema}
        return pacsv.ConvertOptions(
            strings_can_be_null=True, decimal_point=self.decimal_point, column_types=types,
            include_columns=None if schema is None else schema.names,
            null_values=list(self.nulls) or None,
        )  # fmt: skip

    def names(self, filesystem: Any, path: str) -> list[str]:
        """The columns of a file, by its first line alone."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with (
            filesystem.open_input_stream(path) as stream,
            io.TextIOWrapper(stream, encoding, "replace", newline="") as lines,
        ):
            return next(csv.reader(lines, delimiter=self.delimiter), [])

    def blocks(
        self, filesystem: Any, path: str, schema: pa.Schema, broken: dict[int, tuple[str, str]]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a file, with the columns and types of `schema`."""
        import pyarrow.csv as pacsv

        with filesystem.open_input_stream(path) as stream:
            yield from pacsv.open_csv(
                stream, self.reading(), self.parsing(broken), self.converting(schema)
            )


def _type_of(name: str, text: str) -> pa.DataType:
    import pyarrow as pa

    if match := _DECIMAL.fullmatch(text):
        return pa.decimal128(int(match[1]), int(match[2]))
    try:
        return pa.type_for_alias({"text": "string"}.get(text, text))
    except ValueError:
        raise Invalid(
            f"types: {text!r} of column {name!r} is not known",
            hint="use text, int64, double, bool, date32, timestamp[us] or decimal(P, S)",
            field="types",
        ) from None


def json_names(filesystem: Any, path: str) -> set[str]:
    """The keys of the first line of a file of JSON lines; none where it is no JSON."""
    with filesystem.open_input_stream(path) as stream, io.BufferedReader(stream) as lines:
        try:
            return set(msgspec.json.decode(lines.readline(), type=dict[str, Any]))
        except msgspec.MsgspecError:
            return set()


def json_schema(filesystem: Any, path: str) -> pa.Schema | None:
    """The columns of the first rows of a file with lines that are none; None where all are."""
    import pyarrow as pa
    import pyarrow.json as pajson

    with filesystem.open_input_stream(path) as stream, io.BufferedReader(stream) as file:
        lines = [line for line in islice(file, _LINES) if _is_object(line)]
    while lines:
        try:
            return pajson.read_json(pa.BufferReader(b"\n".join(lines))).schema
        except pa.ArrowInvalid:  # a value is of another type than those before it
            lines = lines[: len(lines) // 2]
    return None


def _is_object(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return False
    return True


def json_rows(
    filesystem: Any, path: str, schema: pa.Schema, skipped: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a file with lines that are none, after the first `skipped` rows."""
    broken: list[tuple[str, str]] = []
    with filesystem.open_input_stream(path) as stream, io.BufferedReader(stream) as file:
        lines = (line for line in file if line.strip())
        while block := list(islice(lines, _LINES)):
            for batch in _read_lines(block, schema, broken):
                kept = batch.slice(skipped)
                skipped -= batch.num_rows - kept.num_rows
                yield kept
    yield broken_rows(broken)


def _read_lines(
    lines: Sequence[bytes], schema: pa.Schema, broken: list[tuple[str, str]]
) -> Iterator[pa.RecordBatch]:
    """The rows of lines, without those that are no row of the schema, found by halves."""
    import pyarrow as pa
    import pyarrow.json as pajson

    options = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        rows = pajson.read_json(pa.BufferReader(b"\n".join(lines)), parse_options=options)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as problem:
        if len(lines) == 1:
            text = lines[0].decode(errors="replace").rstrip("\r\n")
            broken.append((text, f"the line is no row: {first_line(problem)}"))
            return
        half = len(lines) // 2
        yield from _read_lines(lines[:half], schema, broken)
        yield from _read_lines(lines[half:], schema, broken)
    else:
        yield from rows.select(schema.names).cast(schema).to_batches()
