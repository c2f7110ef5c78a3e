"""What a database does for the source and the sink of tables: the port.

A file of a database implements sessions, which are transactions, and reading rows in the order of
a key. `sinks/database.py` and `sources/database.py` do the rest, the same for every database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bascule.core import Signature

if TYPE_CHECKING:
    import pyarrow as pa

Access = Literal["read", "write", "both"]
"""What a job does with a database: a source and a sink may be in one. What is read must exist."""
KEY = "bascule_row_key"
"""The last column of every batch that is read: the key of the row."""


MAX_DIGITS = 38
"""Of a decimal that Arrow and every sink has; one with more, or with none declared, is text."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of the table or of a query, in the order of a key.

    Attributes:
        query: SQL in place of the table; empty for the table.
        where: A condition in the database's own SQL; empty for all rows.
        key: The column that orders the rows and is different in each.
        first: The smallest key to read; None for no bound.
        last: The largest key to read, which is included; None for no bound.
        numbers: The columns that the model reads as numbers, None for all. Others stay exact where
            Arrow has no such number: as text.
        columns: To read; all of them if empty.
    """

    query: str
    where: str
    key: str
    first: Any = None
    last: Any = None
    numbers: frozenset[str] | None = None
    columns: tuple[str, ...] = ()

    def is_number(self, name: str) -> bool:
        return self.numbers is None or name in self.numbers


def numbers_of(signature: Signature) -> frozenset[str] | None:
    """The columns that a model reads; None where it takes a matrix without names."""
    names = signature.columns if signature.is_matrix else [one.name for one in signature.inputs]
    return frozenset(names) or None


class Session(Protocol):
    """One transaction. It changes nothing unless `commit` is the last call."""

    def rows(self, statement: str) -> list[Any]:
        """Run a statement of standard SQL; its rows as tuples, if it has any."""

    def name_of(self, table: str) -> str:
        """The name of a table in SQL, quoted and with its schema."""

    def quote(self, name: str) -> str:
        """The name of a column in SQL."""

    def columns(self, table: str) -> list[str] | None:
        """The names of the columns of a table; None where there is no such table."""

    def create(self, table: str, schema: pa.Schema, key: Sequence[str] = ()) -> None:
        """Make a table with a primary key, if one is given, unless it was made meanwhile.

        Raises:
            Invalid: The database has no type for a column.
        """

    def add_columns(self, table: str, schema: pa.Schema) -> None:
        """Add columns, which are null in its rows, to a table."""

    def append(self, table: str, rows: pa.RecordBatchReader) -> None:
        """Add rows, by the names of their columns, in the types of the table."""

    def upsert(self, table: str, rows: pa.RecordBatchReader, key: str) -> None:
        """Change the rows that have these keys, and add the others."""

    def insert_from(self, table: str, source: str, columns: Sequence[str], end: str = "") -> None:
        """Add the rows of another table, in the types of the first; `end` ends the statement."""

    def commit(self) -> None:
        """Make all changes visible at once."""


class Tables(Protocol):
    """A database that is written to."""

    @property
    def place(self) -> str:
        """Where it is, without passwords."""

    @property
    def table(self) -> str:
        """The name of the table, without its schema; empty for a query."""

    @property
    def has_one_writer(self) -> bool:
        """Whether transactions that write must come one after another."""

    def session(self) -> AbstractContextManager[Session]:
        """Begin a transaction.

        Errors of the driver are raised as kinds of `BasculeError`: `Conflict` for a key that is
        there already, `Unavailable` where trying again may help.
        """

    def close(self) -> None:
        """Give back connections."""


class Database(Tables, Protocol):
    """A database that is also read."""

    def table_key(self) -> str:
        """A column, hidden or not, that is different in every row of the table; empty if unknown.

        Raises:
            NotFound: There is no such table.
        """

    def schema(self, rows: Selection) -> pa.Schema:
        """The columns of rows, without `KEY`.

        Raises:
            NotFound: There is no such table.
            Invalid: The query or the condition is no SQL of this database.
        """

    def read(self, rows: Selection, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows in the order of their key, with `KEY` as the last column.

        A row with a value that does not fit `schema` is a batch of its own, in which the column of
        that value is text. Called on several threads at once.
        """
