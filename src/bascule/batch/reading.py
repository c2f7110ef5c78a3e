"""All rows of a place at once: of files, or of a table or a query of a database."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from bascule.batch.databases.table import is_database, open_database
from bascule.batch.jobs import Job
from bascule.batch.sources.table import open_source
from bascule.batch.table_files import count_files, read_files
from bascule.core import Invalid, Signature, first_line, masked

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER = "bascule_row"
"""The column that tells rows of a query apart. It is dropped."""


def read_place(place: str, query: str = "") -> pa.Table:
    """All rows of files or of a database; decimals are doubles.

    Args:
        place: A file, a folder, a glob or a bucket, where folders such as `month=1` are columns;
            or `postgresql://HOST/DB#TABLE`, or without the table and with a query.
        query: SQL of that database, one statement.

    Raises:
        Invalid: It cannot be read, or the query is no SQL.
        NotFound: Nothing is there.
        Unavailable: The bucket or the database is away.
    """
    if not _is_database(place, query):
        return read_files(place)
    import pyarrow as pa

    job = Job(model="rows", source=place, sink="rows")
    if query:
        numbered = f"SELECT row_number() OVER () AS {_NUMBER}, q.* FROM ({_plain(query)}\n) AS q"
        job = Job(model="rows", source=place, sink="rows", query=numbered, key=_NUMBER)
    # Without columns of a model, every number is one that it reads.
    source: Any = open_source(job, Signature((), ()))
    with closing(source):
        try:
            table = source.read_all()
        except pa.ArrowInvalid as problem:
            raise Invalid(
                f"{masked(place)} cannot be read: {first_line(problem)}",
                hint="try the query by the database's own tools",
            ) from None
    kinds = [
        field.with_type(pa.float64()) if pa.types.is_decimal(field.type) else field
        for field in table.schema if field.name != _NUMBER
    ]  # fmt: skip
    return table.select([field.name for field in kinds]).cast(pa.schema(kinds))


def count_place(place: str, query: str = "") -> int:
    """How many rows are there; of Parquet, the footers are read alone. Raises as `read_place`."""
    if not _is_database(place, query):
        return count_files(place)
    with (
        closing(open_database(place, "read", needs_table=not query)) as database,
        database.session() as session,
    ):
        rows = f"({_plain(query)}\n) AS q" if query else session.name_of(database.table)
        ((count,),) = session.rows(f"SELECT count(*) FROM {rows}")
    return int(count)


def _plain(query: str) -> str:
    return query.strip().rstrip(";")


def _is_database(place: str, query: str) -> bool:
    if is_database(place, query):
        return True
    if query:
        hint = 'data = "postgresql://HOST/DB"'
        raise Invalid(f"query: {masked(place)} is no database", hint=hint, field="query")
    return False
