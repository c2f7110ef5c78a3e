"""How a process learns that another one has written to the catalogue."""

from __future__ import annotations

import time
from types import TracebackType

import sqlalchemy as sa

from bascule.catalogue.databases import Database, explaining

POLL_S = 0.2
"""Between two looks at the database where nothing announces a change."""


class Watch:
    """Waits for commits of other connections; keeps one connection open, for one thread.

    It belongs to the process that made it: a connection is not carried into a forked process.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: sa.Connection | None = None
        self._seen: object = None

    def wait(self, timeout_s: float) -> bool:
        """Whether something may have been committed since the last call; returns at once if so.

        The first call returns True, and so does the first after an error: callers read what they
        need after each True. A change is reported within `POLL_S`, and False after `timeout_s`.
        True may be a false alarm: PostgreSQL reports writers of other databases on its server too.
        Where there is no catalogue yet, waits for one.

        Raises:
            Unavailable: The database is away. The next call connects again; wait before it.
        """
        give_up_at = time.monotonic() + timeout_s
        try:
            with explaining(self._database):
                while True:
                    state = self._state()
                    if state != self._seen:
                        self._seen = state
                        return True
                    left_s = give_up_at - time.monotonic()
                    if left_s <= 0:
                        return False
                    self._pause(min(left_s, POLL_S))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; `wait` opens another."""
        connection, self._connection, self._seen = self._connection, None, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _state(self) -> object:
        """None while there is no database."""
        if self._connection is None:
            if not self._database.exists():
                return None
            self._connection = self._database.engine.connect().execution_options(watches=True)
            self._database.listen(self._connection)
        return self._database.state(self._connection)

    def _pause(self, timeout_s: float) -> None:
        if self._connection is None:
            time.sleep(timeout_s)
        else:
            self._database.pause(self._connection, timeout_s)
