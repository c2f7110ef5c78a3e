"""Outcomes from tables: CSV, Parquet, and queries of a database."""

from __future__ import annotations

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
MAX_TEXT = 4_096
"""Characters of one value of a table in a request, before it is checked."""


def read_csv(data: bytes, *, id_column: str, **_: Any) -> pa.Table:
    """A table of CSV; ids are texts, so that zeros in front of them stay.

    Raises:
        Invalid: It cannot be read.
    """
    options = pa.csv.ConvertOptions(column_types={id_column: pa.string()})
    try:
        return pa.csv.read_csv(pa.BufferReader(data), convert_options=options)
    except pa.ArrowException as error:
        raise _unreadable("CSV", error) from None


def read_parquet(
    data: bytes, *, id_column: str, truth_column: str, time_column: str | None
) -> pa.Table:
    """The columns of a Parquet file that are asked for.

    Raises:
        Invalid: It cannot be read, or lacks a column.
        TooLarge: It has too many rows, or a long value.
    """
    names = [one for one in (id_column, truth_column, time_column) if one is not None]
    try:
        # Dictionaries are kept: a small file may repeat one long value a million times.
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=names)
        _check_rows(file.metadata.num_rows)
        _check_bytes(file.metadata)
        there = [one for one in names if one in file.schema_arrow.names]
        table = file.read(columns=there)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable("Parquet", error) from None
    return pa.table({name: _plain(name, table[name].combine_chunks()) for name in there})


def _plain(name: str, values: pa.Array) -> pa.Array:
    """Values without their dictionary, whose longest one is bounded."""
    if not pa.types.is_dictionary(values.type):
        return values
    entries = values.dictionary
    if pa.types.is_string(entries.type) or pa.types.is_large_string(entries.type):
        longest = pc.max(pc.utf8_length(entries)).as_py() or 0
        if longest > MAX_TEXT:
            raise TooLarge(
                f"column {name!r}: a text of {longest:,} characters is over {MAX_TEXT:,}, the limit"
            )
    return values.cast(entries.type)


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise TooLarge(
            f"outcomes: {rows:,} rows are over {MAX_ROWS:,}, the limit of one request",
            hint="send several requests",
        )


def _check_bytes(metadata: pq.FileMetaData) -> None:
    size = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
    if size > MAX_ROWS * 256:
        raise TooLarge(
            f"outcomes: the columns take {size:,} bytes, over {MAX_ROWS * 256:,}, the limit",
            hint="send the three columns alone, in several requests",
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
