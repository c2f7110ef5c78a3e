"""A file of SQLite: `sqlite:///FOLDER/FILE.db#TABLE`.

SQLite has one writer at a time, and waits for it. Its columns may hold values of any type: rows
whose value is not of the declared type of its column go to the quarantine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bascule.batch.databases.port import Access
from bascule.batch.databases.sqlalchemy import SqlDatabase
from bascule.core import Invalid, NotFound

_WAIT_S = 60.0
"""For another process or thread that writes to the file."""
_ROWID = "rowid"


class Sqlite(SqlDatabase):
    """A file, behind SQLAlchemy's dialect."""

    def __init__(self, text: str, access: Access, *, needs_table: bool) -> None:
        super().__init__(text, needs_table=needs_table, connect_args={"timeout": _WAIT_S})
        path = self._engine.url.database
        if not path or path == ":memory:":
            raise Invalid(
                f"{self.place} names no file",
                hint="write sqlite:///RELATIVE.db#TABLE, or sqlite:////ABSOLUTE.db#TABLE",
            )
        if access != "write" and not Path(path).is_file():
            raise NotFound(f"there is no file {path}", hint="check the path")
        sa.event.listen(self._engine, "connect", _begin_by_statement)

    def table_key(self) -> str:
        """The hidden number of each row, which tables have unless they say WITHOUT ROWID."""
        key = super().table_key()  # also says whether there is such a table
        with self._connected() as connection:
            table = self._reflected(connection)
            try:
                connection.execute(sa.select(sa.column(_ROWID)).select_from(table).limit(0))
            except sa.exc.OperationalError:
                return key
            is_view = self.table in sa.inspect(connection).get_view_names(
                self._address.schema or None
            )
            return key if is_view or _ROWID in table.columns else _ROWID

    @contextmanager
    def session(self) -> Iterator[Any]:
        with super().session() as session:
            # The lock is taken at once: one that is taken at the first write may be refused.
            session.connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield session


def _begin_by_statement(connection: sqlite3.Connection, _record: Any) -> None:
    """Have Python's driver begin no transactions: it begins none before CREATE and DROP."""
    connection.isolation_level = None


def open_database(text: str, access: Access, *, needs_table: bool) -> Sqlite:
    """The database of a text; see `databases.table`."""
    return Sqlite(text, access, needs_table=needs_table)
