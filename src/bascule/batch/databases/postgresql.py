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
    MissingExtra,
    NotFound,
    Unavailable,
    first_line,
    masked_text,
)

if TYPE_CHECKING:
    import pyarrow as pa

_STAGED = "bascule_batch_staged"
_TRANSIENT = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE: connection, rolled back, no resources, shut down, system error."""
_NOT_UNIQUE = "23505"
_UNDEFINED = ("42P01", "3D000", "3F000")


def connect(address: Address) -> Any:
    """A connection with transactions.

    Raises:
        MissingExtra: The driver is not installed.
        Unavailable: The server is away.
    """
    try:
        import adbc_driver_postgresql.dbapi as driver
    except ImportError:
        raise MissingExtra(
            "PostgreSQL in batch jobs needs its Arrow driver",
            hint="pip install 'bascule[postgresql]'",
        ) from None
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
        return Conflict(message)
    return Invalid(message, sqlstate=state)


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
            yield _Session(connection, cursor, self._address)

    def close(self) -> None:
        """Connections are closed with their sessions."""


class _Session:
    """A transaction, which closing its connection undoes."""

    def __init__(self, connection: Any, cursor: Any, address: Address) -> None:
        self._connection, self._cursor = connection, cursor
        self._schema = address.schema or None
        self.name_of = address.name_of

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

    def create(
        self, table: str, schema: pa.Schema, key: Sequence[str] = (), *, like: str = ""
    ) -> None:
        # Two that begin at once make the table once.
        name = self.name_of(table)
        self.rows(f"SELECT pg_advisory_xact_lock(hashtext({literal(name)}))::text")
        if self.columns(table) is not None:
            return
        if like and like != table and self._partition(like):
            self.rows(f"CREATE TABLE {name} (LIKE {self.name_of(like)} INCLUDING ALL)")
            return
        self._ingest(table, schema.empty_table().to_reader(), "create")
        if key:
            self.rows(f"ALTER TABLE {name} ADD PRIMARY KEY ({', '.join(map(quoted, key))})")

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
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            f"WHERE attrelid = {literal(self.name_of(table))}::regclass AND attnum > 0 "
            "AND NOT attisdropped"
        )
        kinds = dict(self.rows(query))
        self._ingest(_STAGED, rows, "create", temporary=True)
        names = ", ".join(map(quoted, rows.schema.names))
        values = ", ".join(f"{quoted(name)}::{kinds[name]}" for name in rows.schema.names)
        self.rows(
            f"INSERT INTO {self.name_of(table)} ({names}) SELECT {values} FROM {_STAGED}{end}"
        )
        self.rows(f"DROP TABLE {_STAGED}")

    def _partition(self, table: str) -> tuple[str, str] | None:
        """Of a table that is a partition, the name of the whole table, and the bounds."""
        found = self.rows(
            "SELECT inhparent::regclass::text, pg_get_expr(relpartbound, oid) FROM pg_class "
            "JOIN pg_inherits ON inhrelid = oid WHERE relispartition "
            f"AND oid = to_regclass({literal(self.name_of(table))})"
        )
        return found[0] if found else None

    def replace(self, table: str, new: str) -> None:
        old, partition = self.name_of(table), self._partition(table)
        if partition:
            self.rows(f"ALTER TABLE {partition[0]} DETACH PARTITION {old}")
        self.rows(f"DROP TABLE IF EXISTS {old}")
        self.rows(f"ALTER TABLE {self.name_of(new)} RENAME TO {quoted(table)}")
        if partition:  # the server checks that the rows are within the bounds
            self.rows(f"ALTER TABLE {partition[0]} ATTACH PARTITION {old} {partition[1]}")

    def commit(self) -> None:
        self._connection.commit()


def open_database(text: str, access: Access, *, needs_table: bool) -> Postgresql:  # noqa: ARG001
    """The database of a text, to write to; see `databases.table`."""
    return Postgresql(text, needs_table=needs_table)
