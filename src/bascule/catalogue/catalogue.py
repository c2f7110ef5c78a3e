"""Opens a database that this release can use, and gives out its transactions.

A release uses its own schema, and newer ones that only added to it: the table `releases` says from
which schema on. So servers of two releases share a catalogue while one replaces the other. An older
schema is brought to this release's by `migrate`; in a file of SQLite, at its first use.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import schema, sealing
from bascule.catalogue.changes import Watch
from bascule.catalogue.databases import Database, explaining
from bascule.core import NotFound, Unavailable, Untrusted


class Catalogue:
    """The catalogue in `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_usable = False

    def create(self) -> None:
        """Make it, ready to be written, where there is none. Raises as `read` does."""
        with explaining(self._database):
            if self._database.exists() and self._prepare(may_create=True):
                return
            self._database.create()
            self._prepare(may_create=True)

    def migrate(self) -> str:
        """Bring its tables to the schema of this release, or make them; returns their schema.

        A newer schema that this release can use stays as it is.
        """
        with explaining(self._database):
            self._database.create()
            self._prepare(may_create=True, may_migrate=True)
            return self.revision()

    def revision(self) -> str:
        """The schema of its tables: `schema.HEAD`, or a newer one. Raises as `read` does."""
        with self.read() as connection:
            revision = _revision(connection)
        assert revision is not None
        return revision

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view. Creates nothing.

        Raises:
            NotFound: There is no catalogue.
            Untrusted: A newer release wrote it in a way that this one does not understand.
            Unavailable: It is shared, and waits for `bascule migrate` of this release.
        """
        with explaining(self._database):
            self._check_is_there()
            with self._begin(writes=False) as connection:
                yield connection

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """All or nothing, visible to others at the end of the block. Raises as `read` does.

        On SQLite writers take turns. On PostgreSQL they run side by side: lock the row that a
        decision is about (`with_for_update`) before reading what it depends on, or all: `alone`.
        """
        with explaining(self._database):
            self._check_is_there()
            with self._begin(writes=True, alone=alone) as connection:
                yield connection

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """What a query finds; nothing where there is no catalogue."""
        with suppress(NotFound), self.read() as connection:
            return connection.execute(query).all()
        return ()

    def compact(self, tables: Sequence[str]) -> None:
        """Have the database forget old contents of rows that were changed or deleted.

        Raises:
            Unavailable: Others read it all the time.
        """
        with explaining(self._database):
            self._database.compact(tables)

    @property
    def is_shared(self) -> bool:
        """Whether it is in a database that hosts share, which keeps logs of its own."""
        return self._database.is_shared

    def watch(self) -> Watch:
        """Waits for changes that other processes make; see `Watch`."""
        return Watch(self._database)

    @contextmanager
    def _begin(self, *, writes: bool, alone: bool = False) -> Iterator[sa.Connection]:
        with self._database.engine.connect() as connection:
            connection = connection.execution_options(writes=writes, alone=alone)
            with connection.begin():
                yield connection
                sealing.seal(connection)

    def _check_is_there(self) -> None:
        if not self._database.exists() or not self._prepare(may_create=False):
            raise NotFound(
                f"no registry at {self._database.place}",
                hint="bascule push BUNDLE makes one; one that exists elsewhere is named by "
                "BASCULE_HOME, or found in its folder",
            )

    def _prepare(self, *, may_create: bool, may_migrate: bool = False) -> bool:
        """Whether there is a schema that this release uses, after making or migrating it."""
        if self._is_usable:
            return True
        with self._begin(writes=False) as connection:
            revision = _revision(connection)
            is_newer = revision is not None and not _is_known(revision)
            if is_newer:
                _check_floor(connection, str(revision), self._database.place)
        if revision is None and not may_create:
            return False
        if revision != schema.HEAD and not is_newer:
            if revision is not None and self._database.is_shared and not may_migrate:
                raise _waiting(revision, self._database.place)
            self._database.create()
            self._migrate()
        self._is_usable = True
        return True

    def _migrate(self) -> None:
        from bascule.catalogue import migrations

        with self._begin(writes=True) as connection:
            self._database.lock_schema(connection)
            # Another process may have done it while this one waited for the lock.
            revision = _revision(connection)
            if revision is None or (_is_known(revision) and revision != schema.HEAD):
                migrations.upgrade(connection)


def identity_of(connection: sa.Connection) -> str:
    """What tells this catalogue from every other, for ever; made at the first call."""
    table = schema.identity
    found = connection.scalar(sa.select(table.c.id))
    if found is None:
        schema.put_new(connection, table, {"only": 1}, {"id": secrets.token_hex(16)})
        found = connection.scalar(sa.select(table.c.id))
    return str(found)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if found is None else str(found)


def _is_known(revision: str) -> bool:
    """Whether this release has the migration; they are numbered in order."""
    return revision.isdigit() and int(revision) <= int(schema.HEAD)


def _check_floor(connection: sa.Connection, revision: str, place: str) -> None:
    """Raise unless this release may use a schema that is newer than its own."""
    from bascule.core import VERSION

    rows = connection.execute(sa.select(schema.releases).order_by(schema.releases.c.at)).all()
    writer = next((row for row in reversed(rows) if row.revision == revision), None)
    if writer is not None and writer.floor is not None and int(schema.HEAD) >= int(writer.floor):
        return
    by = f"Bascule {writer.release}" if writer else "a newer Bascule"
    raise Untrusted(
        f"the registry at {place} was written by {by} (schema {revision}); this is {VERSION}, "
        f"which knows schemas up to {schema.HEAD}",
        hint=f"pip install 'bascule>={writer.release}'" if writer
        else "pip install --upgrade bascule",
        found=revision,
        known=schema.HEAD,
    )  # fmt: skip


def _waiting(revision: str, place: str) -> Unavailable:
    from bascule.core import VERSION

    return Unavailable(
        f"the registry at {place} has the tables of an earlier release (schema {revision}); "
        f"Bascule {VERSION} uses schema {schema.HEAD}",
        hint="run bascule migrate once; servers of the release before go on meanwhile",
    )
