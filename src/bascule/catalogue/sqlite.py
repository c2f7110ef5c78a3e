"""What of the catalogue is particular to SQLite: one file, readers beside one writer.

Write-ahead logging lets readers go on while there is a writer. A writer takes its lock when it
begins, so that it waits for its turn there and never finds out half-way that it is too late.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from bascule.core import BasculeError, Unavailable, Untrusted, secret_in

_LOCK_WAIT_S = 30.0
_ASK_AGAIN_S = (0.001, 0.005)
_PRIMARY_CODE = 0xFF
_LEAST_FREE_BYTES = 1 << 16
"""A reader needs a file of 32 KiB beside the database."""


def open_database(url: str, home: Path) -> SqliteDatabase:
    """The database of `sqlite:///FILE`; catalogue.db in `home` where it names none."""
    file = secret_in(url).partition("://")[2]
    return SqliteDatabase(Path(file) if file else home / "catalogue.db")


class SqliteDatabase:
    """A catalogue's database in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.place = str(path.parent)
        self._path = path
        # A connection is opened for each transaction: it costs a third of a millisecond, and no
        # connection is ever carried into a forked process, which SQLite does not survive.
        self.engine = sa.create_engine(
            sa.URL.create("sqlite+pysqlite", database=str(path)),
            poolclass=NullPool,
            creator=self._connect,
        )
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    def _connect(self) -> sqlite3.Connection:
        place, how = quote(str(self._path)), ""
        if self._path.exists() and not os.access(self._path.parent, os.W_OK, effective_ids=True):
            # Readers make files beside it too, which cannot be here. Without a log of a writer
            # nothing is missing in the file itself.
            how = "?mode=ro" if Path(f"{self._path}-wal").exists() else "?immutable=1"
        return sqlite3.connect(
            f"file:{place}{how}", uri=True, timeout=_LOCK_WAIT_S, check_same_thread=False
        )

    is_shared = False

    def exists(self) -> bool:
        return self._path.exists()

    def create(self) -> None:
        """Make the file, in write-ahead mode, which stays with it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        while True:
            connection = self.engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL").close()
            except Exception as error:
                # The switch needs the file alone, and does not wait for that by itself.
                if "locked" not in str(error) or time.monotonic() > give_up_at:
                    raise
            else:
                return
            finally:
                connection.close()
            time.sleep(random.uniform(*_ASK_AGAIN_S))

    def lock_schema(self, connection: sa.Connection) -> None:
        """Nothing more: a transaction that may write has the file for itself."""

    def listen(self, connection: sa.Connection) -> None:
        """Nothing: SQLite announces no changes."""

    def state(self, connection: sa.Connection) -> object:
        """The file's version, as its writers count it; see `PRAGMA data_version`.

        Raises:
            Unavailable: Another file is in its place, such as a backup that was restored.
        """
        file = self._path.stat().st_ino
        if file != connection.info.setdefault("file", file):
            raise Unavailable(
                f"{self._path} was replaced while it was watched", hint="open the new file"
            )
        return connection.exec_driver_sql("PRAGMA data_version").scalar_one()

    def pause(self, connection: sa.Connection, timeout_s: float) -> None:  # noqa: ARG002
        time.sleep(timeout_s)

    def compact(self, tables: Sequence[str]) -> None:  # noqa: ARG002
        """All tables: the file is written again, and the log of writers emptied."""
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        with self.engine.connect() as connection:
            free = connection.execution_options(watches=True)
            free.exec_driver_sql("VACUUM")
            while free.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                if time.monotonic() > give_up_at:
                    raise Unavailable(
                        f"{self._path} is read all the time, so its log cannot be emptied",
                        hint="try again when fewer processes read it",
                    )
                time.sleep(random.uniform(*_ASK_AGAIN_S))

    def explain(self, error: sa.exc.DBAPIError) -> BasculeError:
        """What went wrong, in the user's words."""
        problem = str(error.orig)
        if "locked" in problem or "busy" in problem:
            return Unavailable(
                f"the registry at {self.place} is busy: another process holds it",
                hint="try again; if it stays, look for a bascule process that hangs",
            )
        if "readonly" in problem:
            return Unavailable(
                f"the registry at {self.place} cannot be written",
                hint="set BASCULE_HOME to a folder that you may write to",
            )
        if "not a database" in problem or "malformed" in problem:
            return Untrusted(
                f"the catalogue of the registry at {self.place} is damaged: {problem}",
                hint="restore catalogue.db from a backup, or push the bundles again into a new "
                "home",
            )
        if self.exists() and shutil.disk_usage(self._path).free < _LEAST_FREE_BYTES:
            return Unavailable(
                f"the registry at {self.place} cannot be used: its disk is full",
                hint="free some space, then try again",
            )
        return Unavailable(f"the registry at {self.place} cannot be used: {problem}")


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in `_begin`, not in the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("watches", False):
        return
    if not options.get("writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite waits by asking at ever longer intervals, so that of many writers the one who has
    # waited longest asks least often. Asking at random short ones, all get their turn.
    give_up_at = time.monotonic() + _LOCK_WAIT_S
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA busy_timeout = 0")
    while time.monotonic() < give_up_at:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_BUSY:
                break  # asked once more below, where errors are explained
            time.sleep(random.uniform(*_ASK_AGAIN_S))
        else:
            driver.execute(f"PRAGMA busy_timeout = {_LOCK_WAIT_S * 1000:.0f}")
            return
    connection.exec_driver_sql("BEGIN IMMEDIATE")
