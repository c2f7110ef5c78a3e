"""Opens a database, brings it to the schema of this release, and gives out its transactions."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import schema
from bascule.catalogue.changes import Watch
from bascule.catalogue.databases import Database, explaining
from bascule.core import NotFound, Untrusted


class Catalogue:
    """The catalogue in `database`, brought to the schema of this release when first used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_current = False

    def create(self) -> None:
        """Make it ready to be written, where it is not yet; fine when it is there."""
        with explaining(self._database):
            if self._database.exists() and self._bring_to_head(may_create=True):
                return
            self._database.create()
            self._bring_to_head(may_create=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view. Raises `NotFound` where there is no catalogue; creates none."""
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

    def watch(self) -> Watch:
        """Waits for changes that other processes make; see `Watch`."""
        return Watch(self._database)

    @contextmanager
    def _begin(self, *, writes: bool, alone: bool = False) -> Iterator[sa.Connection]:
        with self._database.engine.connect() as connection:
            connection = connection.execution_options(writes=writes, alone=alone)
            with connection.begin():
                yield connection

    def _check_is_there(self) -> None:
        if not self._database.exists() or not self._bring_to_head(may_create=False):
            raise NotFound(f"no registry at {self._database.place}", hint="bascule push PATH")

    def _bring_to_head(self, *, may_create: bool) -> bool:
        """Whether the schema is the one of this release, after migrating an older one to it."""
        if self._is_current:
            return True
        with self._begin(writes=False) as connection:
            revision = _revision(connection)
            if revision is not None and revision != schema.HEAD:
                _refuse_newer(connection, revision, self._database.place)
        if revision is None and not may_create:
            return False
        if revision != schema.HEAD:
            self._database.create()
            self._migrate()
        self._is_current = True
        return True

    def _migrate(self) -> None:
        from bascule.catalogue import migrations

        with self._begin(writes=True) as connection:
            self._database.lock_schema(connection)
            # Another process may have done it while this one waited for the lock.
            if _revision(connection) != schema.HEAD:
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


def _refuse_newer(connection: sa.Connection, revision: str, place: str) -> None:
    """Raise unless `revision` is one that this release knows; they are numbered in order."""
    if revision.isdigit() and int(revision) < int(schema.HEAD):
        return
    from bascule.core import VERSION

    writer = None
    if sa.inspect(connection).has_table("releases"):
        rows = connection.execute(sa.select(schema.releases).order_by(schema.releases.c.at))
        writer = next((row.release for row in reversed(rows.all())), None)
    by = f"Bascule {writer}" if writer else "a newer Bascule"
    raise Untrusted(
        f"the registry at {place} was written by {by} (schema {revision}); this is {VERSION}, "
        f"which knows schemas up to {schema.HEAD}",
        hint=f"pip install 'bascule>={writer}'" if writer else "pip install --upgrade bascule",
        found=revision,
        known=schema.HEAD,
    )
