"""PostgreSQL by Arrow: sessions for the sink, and what its own source shares with them.

`sources/postgresql.py` reads, in one snapshot and by the pages of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from bascule.batch.addresses import Address, literal, quoted
from bascule.batch.databases.port import Access
from bascule.batch.places import AWAY_HINT, FULL_HINT, is_full
from bascule.core import (
    BasculeError,
    Conflict,
    Invalid,
    NotFound,
    Unavailable,
    first_line,
    library,
    masked_text,
)

if TYPE_CHECKING:
    import pyarrow as pa

_STAGED = "bascule_batch_staged"
_LOCK_WAIT_S = 60
"""For a session of another program that reads or changes the table."""
_TRANSIENT = ("08", "40", "53", "55P03", "57", "58")
"""SQLSTATEs: connection, rolled back, no resources, locked, shut down, system error."""
_NOT_UNIQUE = "23505"
_UNDEFINED = ("42P01", "3D000", "3F000")


def connect(address: Address) -> Any:
    """A connection with transactions.

    Raises:
        MissingExtra: The driver is not installed.
        Unavailable: The server is away.
    """
    driver = library("adbc_driver_postgresql.dbapi", "postgresql")
    with explaining(address):
        return driver.connect(address.url)


@contextmanager
def explaining(address: Address) -> Iterator[None]:
    """Raise errors of the driver as kinds of `BasculeError`."""
    from adbc_driver_manager import Error

    try:
        yield
    except Error as problem:
        raise explained(problem, address) from None


def explained(problem: Any, address: Address) -> BasculeError:
    """The kind of an error of the driver, without its query and passwords."""
    state = problem.sqlstate or ""
    said = masked_text(first_line(str(problem).partition("ERROR:")[2] or problem))
    message = f"{address.place}: {said.strip()}"
    if is_full(said):
        return Invalid(message, hint=FULL_HINT)
    if not state or state.startswith(_TRANSIENT):
        return Unavailable(message, hint=AWAY_HINT)
    if state in _UNDEFINED:
        return NotFound(message, hint="check the names of database, schema and table")
    if state == _NOT_UNIQUE:
        return Conflict(message, hint="see what the constraint asks, or write elsewhere")
    return Invalid(message, hint="check the query and the types of the table", sqlstate=state)


def rows_of(cursor: Any, query: str) -> list[Any]:
    """The rows of a query, as tuples."""
    cursor.execute(query)
    found: list[Any] = cursor.fetchall()
    return found


class Postgresql:
    """A database; each session has a connection of its own."""

    has_one_writer = False

    def __init__(self, text: str, *, needs_table: bool) -> None:
        self._address = Address.of(text, needs_table=needs_table)
        self.place, self.table = self._address.place, self._address.table

    @contextmanager
    def session(self) -> Iterator[_Session]:
        with (
            explaining(self._address),
            closing(connect(self._address)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'")
            yield _Session(connection, cursor, self._address)

    def close(self) -> None:
        """Connections are closed with their sessions."""


class _Session:
    """A transaction, which closing its connection undoes."""

    def __init__(self, connection: Any, cursor: Any, address: Address) -> None:
        self._connection, self._cursor = connection, cursor
        self._schema = address.schema or None
        self.name_of, self.quote = address.name_of, quoted

    def rows(self, statement: str) -> list[Any]:
        return rows_of(self._cursor, statement)

    def _found(self, table: str) -> pa.Schema | None:
        name = self.name_of(table)
        if self.rows(f"SELECT 1 WHERE to_regclass({literal(name)}) IS NULL"):
            return None
        self._cursor.execute(f"SELECT * FROM {name} LIMIT 0")
        return self._cursor.fetch_arrow_table().schema

    def columns(self, table: str) -> list[str] | None:
        found = self._found(table)
        return None if found is None else list(found.names)

    def create(self, table: str, schema: pa.Schema, key: Sequence[str] = ()) -> None:
        # Two that begin at once make the table once.
        name = self.name_of(table)
        self.rows(f"SELECT pg_advisory_xact_lock(hashtext({literal(name)}))::text")
        if self.columns(table) is not None:
            return
        self._ingest(table, schema.empty_table().to_reader(), "create")
        if key:
            self.rows(f"ALTER TABLE {name} ADD PRIMARY KEY ({', '.join(map(quoted, key))})")

    def add_columns(self, table: str, schema: pa.Schema) -> None:
        self._ingest(_STAGED, schema.empty_table().to_reader(), "create", temporary=True)
        kinds = self._kinds(_STAGED)
        added = ", ".join(f"ADD COLUMN {quoted(one)} {kinds[one]}" for one in schema.names)
        self.rows(f"ALTER TABLE {self.name_of(table)} {added}")
        self.rows(f"DROP TABLE {_STAGED}")

    def _ingest(self, table: str, rows: Any, mode: str, *, temporary: bool = False) -> None:
        schema = None if temporary else self._schema
        self._cursor.adbc_ingest(table, rows, mode=mode, db_schema_name=schema, temporary=temporary)

    def append(self, table: str, rows: pa.RecordBatchReader) -> None:
        found = self._found(table)
        if found is not None and all(found.field(o.name).type == o.type for o in rows.schema):
            self._ingest(table, rows, "append")
        else:
            self._insert(table, rows, "")

    def upsert(self, table: str, rows: pa.RecordBatchReader, key: str) -> None:
        changes = ", ".join(f"{name} = excluded.{name}" for name in map(quoted, rows.schema.names))
        self._insert(table, rows, f" ON CONFLICT ({quoted(key)}) DO UPDATE SET {changes}")

    def _insert(self, table: str, rows: pa.RecordBatchReader, end: str) -> None:
        """Add rows in the types of the table, which COPY from Arrow would refuse to convert to."""
        self._ingest(_STAGED, rows, "create", temporary=True)
        self._insert_from(table, _STAGED, rows.schema.names, end)
        self.rows(f"DROP TABLE {_STAGED}")

    def insert_from(self, table: str, source: str, columns: Sequence[str], end: str = "") -> None:
        self._insert_from(table, self.name_of(source), columns, end)

    def _insert_from(self, table: str, source: str, columns: Sequence[str], end: str) -> None:
        kinds = self._kinds(self.name_of(table))
        names = ", ".join(map(quoted, columns))
        values = ", ".join(f"{quoted(name)}::{kinds[name]}" for name in columns)
        self.rows(f"INSERT INTO {self.name_of(table)} ({names}) SELECT {values} FROM {source}{end}")

    def _kinds(self, name: str) -> dict[str, str]:
        """By column of the table of a name in SQL, its type."""
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            f"WHERE attrelid = {literal(name)}::regclass AND attnum > 0 "
            "AND NOT attisdropped"
        )
        return dict(self.rows(query))

    def commit(self) -> None:
        self._connection.commit()


def open_database(text: str, access: Access, *, needs_table: bool) -> Postgresql:  # noqa: ARG001
    """The database of a text, to write to; see `databases.table`."""
    return Postgresql(text, needs_table=needs_table)
