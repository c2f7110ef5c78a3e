"""Outcomes from tables: CSV, Parquet, and queries of a database."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bascule.core import (
    Invalid,
    MissingExtra,
    TooLarge,
    Unavailable,
    check_file,
    first_line,
    masked,
    masked_text,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

MAX_ROWS = 1_000_000
"""Of a table in a request."""
MAX_COLUMN_BYTES = 64 << 20
"""Of one column of a table in a request, each value counted as often as it is there."""
_MAX_HEADER_BYTES = 1 << 20
_MAX_COLUMNS = 10_000
_MAX_FOOTER_ITEMS = 100_000
"""Of one list in the metadata of a Parquet file, such as those of its row groups and columns."""


def read_csv(
    data: bytes | pa.Buffer, *, id_column: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """A table of CSV; ids are texts, so that zeros in front of them stay.

    Args:
        data: The file.
        id_column: The column of the ids.
        columns: Those to read, in bounds for data from anywhere; None for all, without bounds.

    Raises:
        Invalid: It cannot be read, or lacks a column.
        TooLarge: It has too many rows or columns.
    """
    convert = pa.csv.ConvertOptions(column_types={id_column: pa.string()})
    if columns is not None:
        convert.include_columns = _check_csv(memoryview(data), columns)
    try:
        return pa.csv.read_csv(pa.BufferReader(data), convert_options=convert)
    except pa.ArrowMemoryError:
        raise
    except pa.ArrowException as error:
        raise _unreadable("CSV", error) from None


def _check_csv(data: memoryview, columns: Sequence[str]) -> list[str]:
    """Those of the columns that the header names; raises what `read_csv` raises."""
    pieces = (bytes(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20))
    ends = [(piece.count(b"\n"), piece.count(b"\r")) for piece in pieces]
    _check_rows(max(map(sum, zip(*ends, strict=True)), default=0) - 1)
    head = bytes(data[: _MAX_HEADER_BYTES + 1]).splitlines()[:1]
    line = head[0] if head else b""
    if len(line) > _MAX_HEADER_BYTES or line.count(b",") >= _MAX_COLUMNS:
        raise TooLarge(f"outcomes: the header has over {_MAX_COLUMNS:,} columns, the limit")
    try:
        (header,) = csv.reader([line.decode("utf-8-sig")])
    except (ValueError, csv.Error) as error:
        raise _unreadable("CSV", error) from None
    names = list(dict.fromkeys(columns))
    if repeated := [name for name in names if header.count(name) > 1]:
        raise Invalid(f"there are {header.count(repeated[0])} columns {repeated[0]!r}")
    return [name for name in names if name in header] or header[:1]  # the rest is shown by `add`


def read_parquet(data: bytes | pa.Buffer, *, columns: Sequence[str]) -> pa.Table:
    """Those of the columns that a Parquet file has, in bounds for data from anywhere.

    Raises:
        Invalid: It cannot be read.
        TooLarge: It has too many rows, or a column takes too many bytes.
    """
    names = list(dict.fromkeys(columns))
    try:
        file = pq.ParquetFile(pa.BufferReader(data), thrift_container_size_limit=_MAX_FOOTER_ITEMS)
        _check_rows(file.metadata.num_rows)
        _check_sizes(file.metadata, names)
        present = [name for name in names if name in file.schema_arrow.names]
        # Dictionaries are kept: a small file may repeat one long value a million times.
        table = pq.read_table(
            pa.BufferReader(data), columns=present, read_dictionary=present, use_threads=False
        )
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable("Parquet", error) from None
    names = table.column_names
    plain = [_plain(name, column) for name, column in zip(names, table.columns, strict=True)]
    return pa.Table.from_arrays(plain, names=names)


def _plain(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without its dictionary, as many bytes as it then takes are bounded."""
    if not pa.types.is_dictionary(column.type):
        return column
    entries = column.type.value_type
    if pa.types.is_large_string(entries) or pa.types.is_string(entries):
        total = 0
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
            total += pc.sum(lengths).as_py() or 0
        _check_size(name, total)
    return column.cast(entries)


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise TooLarge(
            f"outcomes: {rows:,} rows are over {MAX_ROWS:,}, the limit of one request",
            hint="send several requests",
        )


def _check_sizes(metadata: pq.FileMetaData, names: Sequence[str]) -> None:
    sizes: dict[str, int] = {}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            name, _, inner = part.path_in_schema.partition(".")
            if name in names and inner:
                raise Invalid(f"column {name[:64]!r} holds no plain values", hint="use plain types")
            size = max(part.total_uncompressed_size, part.total_compressed_size)
            sizes[name] = sizes.get(name, 0) + size
            if name in names:
                _check_size(name, sizes[name])


def _check_size(name: str, size: int) -> None:
    if size > MAX_COLUMN_BYTES:
        raise TooLarge(
            f"outcomes: column {name[:64]!r} takes {size:,} bytes, over {MAX_COLUMN_BYTES:,}, the "
            "limit of one request",
            hint="send several requests",
        )


def _unreadable(form: str, error: Exception) -> Invalid:
    return Invalid(
        f"the table is not {form} that can be read: {first_line(error)}",
        hint="check the file and its Content-Type",
    )


def read_query(url: str, sql: str, *, chunk_rows: int = 50_000) -> Iterator[pa.Table]:
    """The result of a query, some rows at a time; the database is only read.

    Args:
        url: `postgresql://USER@HOST/NAME`, `sqlite:///FILE`, or any address of SQLAlchemy.
        sql: One SELECT, in the database's dialect.
        chunk_rows: Rows of a table.

    Raises:
        Invalid: The address or the query is wrong.
        Unavailable: The database does not answer.
        MissingExtra: Its driver is not installed.
    """
    import sqlalchemy as sa

    engine = _engine(url)
    try:
        with _connected(engine) as connection:
            for setting in _READ_ONLY.get(engine.dialect.name, ()):
                connection.exec_driver_sql(setting)
            found = connection.execution_options(stream_results=True).exec_driver_sql(sql)
            if not found.returns_rows:
                raise Invalid("--query returns no rows", hint="give one SELECT")
            names = list(found.keys())
            for rows in found.partitions(chunk_rows):
                yield _table(names, rows)
    except sa.exc.SQLAlchemyError as error:
        said = first_line(masked_text(str(getattr(error, "orig", None) or error)))
        raise Invalid(f"--query is refused: {said}", hint="give one SELECT") from None
    finally:
        engine.dispose()


_READ_ONLY = {"postgresql": ("SET TRANSACTION READ ONLY",), "sqlite": ("PRAGMA query_only = 1",)}


def _engine(url: str) -> sa.Engine:
    import sqlalchemy as sa

    try:
        address = sa.make_url(url)
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        if address.drivername.startswith("sqlite") and address.database:
            check_file(Path(address.database), "database")  # SQLite would make an empty one
        return sa.create_engine(address, hide_parameters=True)
    except (sa.exc.ArgumentError, ValueError):
        raise Invalid(
            f"--database {masked(url)!r} is no address of a database",
            hint="give for example postgresql://USER@HOST/NAME or sqlite:///truths.db",
        ) from None
    except ImportError as error:
        raise MissingExtra(
            f"the driver of the database is not installed: {error.name}",
            hint="pip install 'bascule[postgresql]', or the driver of your database",
        ) from None


def _connected(engine: sa.Engine) -> sa.Connection:
    import sqlalchemy as sa

    try:
        return engine.connect()
    except sa.exc.DBAPIError as error:
        raise Unavailable(
            f"the database cannot be asked: {first_line(masked_text(str(error.orig)))}",
            hint="check --database, and whether the database runs",
        ) from None


def _table(names: Sequence[str], rows: Sequence[Any]) -> pa.Table:
    columns = [[_value(one) for one in column] for column in zip(*rows, strict=True)]
    try:
        return pa.table({name: pa.array(one) for name, one in zip(names, columns, strict=True)})
    except pa.ArrowInvalid as error:
        raise Invalid(
            f"a column of the query has values of several types: {first_line(error)}",
            hint="cast it in the query",
        ) from None


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value) if isinstance(value, UUID) else value
