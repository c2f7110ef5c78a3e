"""What the source and the sink in PostgreSQL share: addresses, connections, names, errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bascule.core import (
    BasculeError,
    Invalid,
    MissingExtra,
    NotFound,
    Unavailable,
    first_line,
    masked,
    masked_text,
)

_TRANSIENT = ("08", "40", "53", "57", "58")
"""Classes of SQLSTATE: connection, rolled back, no resources, shut down, system error."""
_UNDEFINED = ("42P01", "3D000", "3F000")


@dataclass(frozen=True, slots=True)
class Address:
    """A database and, after `#`, a table: `postgresql://HOST/DB#sales.flights`."""

    url: str
    schema: str
    table: str
    place: str

    @classmethod
    def of(cls, text: str, *, needs_table: bool = True) -> Address:
        """Raises `Invalid` where no table is named."""
        url, _, name = text.partition("#")
        if needs_table and not name:
            raise Invalid(
                f"{masked(text)} names no table", hint="add it: postgresql://HOST/DB#TABLE"
            )
        schema, _, table = name.rpartition(".")
        return cls(url, schema, table, masked(text))

    def name_of(self, table: str) -> str:
        """A table beside the one that is named, quoted."""
        return ".".join(quoted(one) for one in (self.schema, table) if one)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in SQL, with the server's standard strings."""
    return "'" + text.replace("'", "''") + "'"


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
    if not state or state.startswith(_TRANSIENT):
        return Unavailable(message, hint="is the server up, and may this machine reach it?")
    if state in _UNDEFINED:
        return NotFound(message, hint="check the names of database, schema and table")
    return Invalid(message, sqlstate=state)


def rows_of(cursor: Any, query: str) -> list[Any]:
    """The rows of a query, as tuples."""
    cursor.execute(query)
    found: list[Any] = cursor.fetchall()
    return found
