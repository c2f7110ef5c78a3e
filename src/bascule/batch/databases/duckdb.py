"""A file of DuckDB, by Arrow: `duckdb:///FOLDER/FILE.db#TABLE`.

One process at a time may write to a file, and others may then not read it. A table is read in the
order of `rowid`, which is the order in which its rows were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.batch.addresses import Address, literal, quoted
from bascule.batch.databases.port import KEY, Access, Selection
from bascule.batch.places import FULL_HINT, is_full
from bascule.core import BasculeError, Conflict, Invalid, NotFound, Unavailable, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_ROWID = "rowid"
_NEW = "bascule_new_rows"
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # Of DuckDB's own buffers; what sorting needs beyond it goes to files.
    "memory_limit": "1GB",
    # A query or condition, which may come over the network, reads no other file.
    "enable_external_access": False,
}


class DuckDb:
    """A file, opened once; each thread reads or writes by a cursor of its own."""

    has_one_writer = True  # two that change the same keys would fail

    def __init__(self, text: str, access: Access, *, needs_table: bool) -> None:
        import duckdb

        self._address = Address.of(text, needs_table=needs_table)
        self.place, self.table = self._address.place, self._address.table
        path = file_of(self._address)
        if access != "write" and not path.is_file():
            raise NotFound(f"there is no file {path}", hint="check the path")
        with self._explaining():
            self._instance = duckdb.connect(str(path), read_only=access == "read", config=_CONFIG)

    def _explaining(self) -> Any:
        return _explaining(self.place)

    def table_key(self) -> str:
        with self.session() as session:
            columns = session.columns(self.table)
            if columns is None:
                raise NotFound(f"{self.place}: there is no such table")
            kind = session.described("tables", "table_type", self.table)
            return _ROWID if kind == [("BASE TABLE",)] and _ROWID not in columns else ""

    def schema(self, rows: Selection) -> pa.Schema:
        import pyarrow as pa

        with self._explaining(), self._instance.cursor() as cursor:
            query = f"SELECT * {self._from(rows)} WHERE ({rows.where or 'true'}) LIMIT 0"
            if len(cursor.extract_statements(query)) > 1:
                raise Invalid(f"{self.place}: the query or condition ends a statement")
            found = cursor.sql(query).to_arrow_table().schema
        return pa.schema([pa.field(one.name, one.type) for one in found])

    def _from(self, rows: Selection) -> str:
        relation = f"({rows.query})" if rows.query else self._address.name_of(self.table)
        return f"FROM {relation} AS rows_to_score"

    def read(self, rows: Selection, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        # Qualified: a plain name means the answer's column, which may be read as double.
        key = "rows_to_score." + (_ROWID if rows.key == _ROWID else quoted(rows.key))
        conditions, bounds = [f"({rows.where or 'true'})"], []
        for comparison, bound in ((">=", rows.first), ("<=", rows.last)):
            if bound is not None:
                bounds.append(bound)
                conditions.append(f"{key} {comparison} ${len(bounds)}")
        columns = "".join(f"{quoted(name)}, " for name in schema.names)
        # Scans keep the order of `rowid`; other keys are sorted by.
        order = "" if rows.key == _ROWID else f" ORDER BY {key}"
        query = (
            f"SELECT {columns}{key} AS {KEY} {self._from(rows)} "
            f"WHERE {' AND '.join(conditions)}{order}"
        )
        with self._explaining(), self._instance.cursor() as cursor:
            reader = cursor.sql(query, params=bounds).to_arrow_reader(batch_rows)
            for batch in reader:
                key_field = pa.field(KEY, batch.schema.field(KEY).type)
                yield batch.cast(pa.schema([*schema, key_field]))

    @contextmanager
    def session(self) -> Iterator[_Session]:
        with self._explaining(), self._instance.cursor() as cursor:
            cursor.begin()
            yield _Session(cursor, self._address)

    def close(self) -> None:
        self._instance.close()


class _Session:
    """A transaction of a cursor; closing the cursor undoes what is not committed."""

    def __init__(self, cursor: Any, address: Address) -> None:
        self._cursor = cursor
        self._schema = address.schema or "main"
        self.name_of, self.quote = address.name_of, quoted

    def rows(self, statement: str) -> list[Any]:
        # All rows are fetched: a cursor with an open result refuses the next statement.
        found: list[Any] = self._cursor.execute(statement).fetchall()
        return found

    def described(self, view: str, columns: str, table: str) -> list[Any]:
        """What DuckDB knows about a table."""
        same = f"table_name = {literal(table)} AND table_schema = {literal(self._schema)}"
        return self.rows(f"SELECT {columns} FROM information_schema.{view} WHERE {same}")

    def columns(self, table: str) -> list[str] | None:
        found = self.described("columns", "ordinal_position, column_name", table)
        return [name for _, name in sorted(found)] or None

    def create(self, table: str, schema: pa.Schema, key: Sequence[str] = ()) -> None:
        parts = [f"{quoted(name)} {kind}" for name, kind in self._described(schema)]
        if key:
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, key))})")
        self.rows(f"CREATE TABLE {self.name_of(table)} ({', '.join(parts)})")

    def add_columns(self, table: str, schema: pa.Schema) -> None:
        for name, kind in self._described(schema):
            self.rows(f"ALTER TABLE {self.name_of(table)} ADD COLUMN {quoted(name)} {kind}")

    def _described(self, schema: pa.Schema) -> list[tuple[str, str]]:
        """Names and types in SQL."""
        self._cursor.register(_NEW, schema.empty_table())
        return [(name, kind) for name, kind, *_ in self.rows(f"DESCRIBE SELECT * FROM {_NEW}")]

    def append(self, table: str, rows: pa.RecordBatchReader) -> None:
        self._cursor.register(_NEW, rows)
        self.rows(f"INSERT INTO {self.name_of(table)} BY NAME SELECT * FROM {_NEW}")

    def upsert(self, table: str, rows: pa.RecordBatchReader, key: str) -> None:
        self._cursor.register(_NEW, rows.read_all())
        target, key = self.name_of(table), quoted(key)
        changes = ", ".join(f"{quoted(one.name)} = n.{quoted(one.name)}" for one in rows.schema)
        same = f"n.{key} = t.{key}"
        self.rows(f"UPDATE {target} AS t SET {changes} FROM {_NEW} AS n WHERE {same}")
        self.rows(
            f"INSERT INTO {target} BY NAME SELECT * FROM {_NEW} AS n "
            f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS t WHERE {same})"
        )

    def insert_from(self, table: str, source: str, columns: Sequence[str], end: str = "") -> None:
        names = ", ".join(map(quoted, columns))
        new = f"SELECT {names} FROM {self.name_of(source)}{end}"
        self.rows(f"INSERT INTO {self.name_of(table)} ({names}) {new}")

    def commit(self) -> None:
        self._cursor.commit()


def file_of(address: Address) -> Path:
    """The file of `duckdb:///RELATIVE` or `duckdb:////ABSOLUTE`, as SQLAlchemy writes URLs."""
    path = address.url.partition("://")[2]
    if not path.startswith("/") or path == "/":
        raise Invalid(
            f"{address.place} names no file",
            hint="write duckdb:///RELATIVE.db#TABLE, or duckdb:////ABSOLUTE.db#TABLE",
        )
    return Path(path[1:]).expanduser()


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as problem:
        raise explained(problem, place) from None


def explained(problem: Exception, place: str) -> BasculeError:
    """The kind of an error of DuckDB."""
    import duckdb

    said = f"{place}: {first_line(problem)}"
    if isinstance(problem, duckdb.ConstraintException):
        return Conflict(said, hint="see what the constraint asks, or write elsewhere")
    if is_full(problem):
        return Invalid(said, hint=FULL_HINT)
    if isinstance(problem, duckdb.IOException) and "lock" in str(problem).lower():
        return Unavailable(said, hint="another process has the file open for writing; end it")
    if isinstance(problem, (duckdb.IOException, duckdb.TransactionException)):
        return Unavailable(said, hint="check the disk and the path")
    if isinstance(problem, duckdb.CatalogException):
        return NotFound(said, hint="check the names of schema, table and columns")
    return Invalid(said, hint="check the query and the types of the table")


def open_database(text: str, access: Access, *, needs_table: bool) -> DuckDb:
    """The database of a text; see `databases.table`."""
    return DuckDb(text, access, needs_table=needs_table)
