"""What of the catalogue is particular to PostgreSQL: many writers at once, each model's in turn.

A writer locks the row of the model that it writes about (`lock_model`) before it reads what it
decides by, so the history of a model is that of one writer after another. A reader sees one
consistent moment. A process that is killed drops its connection, and with it all that it had
not committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from bascule.core import (
    BasculeError,
    Invalid,
    MissingExtra,
    Unavailable,
    is_kept_elsewhere,
    secret_in,
)  # fmt: skip

_CONNECT_TIMEOUT_S = 10
_LOCK_WAIT_S = 30
_IDLE_LIMIT_S = 300
_UNANSWERED_MS = 20_000
_CHANNEL = "bascule"
_MIGRATIONS_LOCK = 0x62617363756C65  # "bascule": any number that only this program uses
_WRITERS_LOCK = _MIGRATIONS_LOCK + 1
"""Writers share it. It is the first lock of each, so one that takes it alone meets no deadlock."""


def open_database(url: str, home: Path) -> PostgresqlDatabase:  # noqa: ARG001 -- it is elsewhere
    """The database of `postgresql://USER@HOST:PORT/NAME`; a password may also be in PGPASSWORD.

    Raises:
        Invalid: The address cannot be read.
        MissingExtra: The driver is not installed.
    """
    return PostgresqlDatabase(url)


class PostgresqlDatabase:
    """A catalogue's database on a server. The database itself must be there; tables are made."""

    def __init__(self, url: str) -> None:
        address = _parsed(secret_in(url))
        # Only what is safe to show: options of the address may hold a password, too.
        self.place = sa.URL.create(
            "postgresql", address.username, None, address.host, address.port, address.database
        ).render_as_string()
        try:
            # A connection for each transaction: none is ever carried into a forked process.
            self.engine = sa.create_engine(
                address,
                poolclass=NullPool,
                hide_parameters=True,
                connect_args={
                    "connect_timeout": _CONNECT_TIMEOUT_S,
                    "application_name": "bascule",
                    # A host that is gone ends no connection: a watch would wait for minutes.
                    "tcp_user_timeout": _UNANSWERED_MS,
                },
            )
        except ImportError:
            raise MissingExtra(
                "the PostgreSQL catalogue needs psycopg",
                hint="pip install 'bascule[postgresql]'",
            ) from None
        event.listen(self.engine, "begin", _begin)
        if is_kept_elsewhere(url):
            event.listen(self.engine, "do_connect", self._with_what_it_says_now)
        self._url = url

    def _with_what_it_says_now(
        self, dialect: sa.Dialect, _record: Any, _arguments: Any, named: dict[str, Any]
    ) -> None:
        """Passwords and users rotate: those of a new connection are what the setting says now."""
        address = _parsed(secret_in(self._url))
        named.update(dialect.create_connect_args(address)[1])

    is_shared = True

    def exists(self) -> bool:
        """True: whether the server answers is found out by asking it."""
        return True

    def create(self) -> None:
        """Does nothing: an administrator creates the database."""

    def lock_schema(self, connection: sa.Connection) -> None:
        """Keep others from migrating until the end of the transaction; then look again."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATIONS_LOCK)))

    def listen(self, connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"LISTEN {_CHANNEL}")

    def state(self, connection: sa.Connection) -> object:
        """The transactions that are visible: another value after each commit on the server."""
        return connection.exec_driver_sql("SELECT pg_current_snapshot()::text").scalar_one()

    def pause(self, connection: sa.Connection, timeout_s: float) -> None:
        driver: Any = connection.connection.dbapi_connection
        # A lost connection is reported by the next `state`, and explained there.
        with suppress(connection.dialect.loaded_dbapi.Error):
            for _ in driver.notifies(timeout=timeout_s, stop_after=1):
                pass

    def compact(self, tables: Sequence[str]) -> None:
        """The write-ahead log of the server, and its archive, keep what they have."""
        with self.engine.connect() as connection:
            free = connection.execution_options(isolation_level="AUTOCOMMIT")
            quote = connection.dialect.identifier_preparer.quote
            for table in tables:
                free.exec_driver_sql(f"VACUUM FULL {quote(table)}")

    def explain(self, error: sa.exc.DBAPIError) -> BasculeError:
        """What went wrong in the user's words; nothing of the address but `place`."""
        problem = _first_line(error)
        if isinstance(error, sa.exc.DataError):
            return Invalid(f"the registry at {self.place} cannot keep that value: {problem}")
        if "lock timeout" in problem or "deadlock" in problem:
            return Unavailable(
                f"the registry at {self.place} is busy: another process holds it",
                hint="try again; if it stays, look for a bascule process that hangs",
            )
        if "authentication failed" in problem or "no password" in problem:
            return Unavailable(
                f"the registry at {self.place} does not let this user in",
                hint="check the user, and the password in the address, PGPASSWORD or ~/.pgpass",
            )
        if "permission denied" in problem:
            return Unavailable(
                f"the user may not write to the registry at {self.place}: {problem}",
                hint="GRANT CREATE, USAGE ON SCHEMA public TO the user",
            )
        return Unavailable(
            f"the registry at {self.place} cannot be used: {problem}",
            hint="check that the server runs and that the database exists (createdb NAME)",
        )


def _parsed(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
        sane = address.set(drivername="postgresql+psycopg")
    except (sa.exc.ArgumentError, ValueError):
        sane = None  # the error may quote the address, and with it the password
    # An "@" that is not encoded cuts the password in two, and the rest would be shown as the host.
    if sane is None or not sane.database or "@" in f"{sane.host}{sane.database}":
        raise Invalid(
            "registry.store is not the address of a PostgreSQL database",
            hint="write postgresql://USER@HOST:5432/NAME; in a password write @ as %40, / as %2F",
        )
    return sane


def _begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("watches", False):
        return
    if options.get("writes", False):
        # A client that stands still may not keep the others from writing for ever. Watches are
        # notified when the transaction is committed.
        shared = "" if options.get("alone", False) else "_shared"
        connection.exec_driver_sql(
            f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_LIMIT_S}s'; "
            f"NOTIFY {_CHANNEL}; "
            f"SELECT pg_advisory_xact_lock{shared}({_WRITERS_LOCK})"
        )
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _first_line(error: sa.exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__
