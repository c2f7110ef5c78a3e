"""What the catalogue needs to know of the database that it is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import sqlalchemy as sa

from bascule.core import BasculeError, Invalid, Unavailable


class Database(Protocol):
    """One file of SQLite, or one database of a PostgreSQL server."""

    @property
    def place(self) -> str:
        """Where it is, in the words of the user."""

    @property
    def engine(self) -> sa.Engine:
        """Begins a transaction that may write when the connection has the option `writes`.

        A connection with the option `watches` has no transactions.
        """

    @property
    def is_shared(self) -> bool:
        """Whether servers of several releases may use it, so that no reader may migrate it."""

    def exists(self) -> bool:
        """Whether there is anything to connect to; connecting may not create it."""

    def create(self) -> None:
        """Make an empty database where there is none."""

    def lock_schema(self, connection: sa.Connection) -> None:
        """Keep others from migrating until the transaction of `connection` ends."""

    def compact(self, tables: Sequence[str]) -> None:
        """Write tables again, without what deleted rows have left in files and journals."""

    def explain(self, error: sa.exc.DBAPIError) -> BasculeError:
        """What an error of the driver means, in the words of the user, without credentials."""

    def listen(self, connection: sa.Connection) -> None:
        """Prepare a connection with the option `watches` for `state` and `pause`."""

    def state(self, connection: sa.Connection) -> object:
        """A value that differs after each commit of another connection."""

    def pause(self, connection: sa.Connection, timeout_s: float) -> None:
        """Wait until `state` may differ, and at most `timeout_s`."""


@contextmanager
def explaining(database: Database) -> Iterator[None]:
    """Raise errors of the driver and of the file system as kinds of `BasculeError`."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        told = database.explain(error)
    except sa.exc.StatementError as error:
        # The driver could not even write the value down: a character that it does not know.
        told = Invalid(f"the registry at {database.place} cannot keep a value: {error.orig}")
    except OSError as error:
        raise Unavailable(
            f"the registry at {database.place} cannot be used: {error.strerror or error}",
            hint="set BASCULE_HOME to a folder that you may write to",
        ) from error
    else:
        return
    # Without the cause: its text may hold what was written, or the way in.
    raise told
