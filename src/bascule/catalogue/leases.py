"""Leases: of many processes, one at a time does a job, and another takes over when it dies.

The database's clock decides when a lease ends, so clocks of hosts need not agree. A holder counts
its time from before it asked, on its own monotonic clock, and stops by itself: it is done before
another can begin. A process that was stopped in between and wakes up late, or a host whose clock
jumps under SQLite, is caught by the *fence*, a number that grows with each holder: `check_held`
refuses the writes of earlier ones.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from bascule.catalogue import schema
from bascule.catalogue.catalogue import Catalogue
from bascule.core import BasculeError, Conflict, Invalid

_table = schema.leases


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do the job `name`, until it ends or is renewed.

    Attributes:
        name: Of the job.
        holder: Of the process that has it, for people.
        fence: Greater than that of every earlier lease of this name.
        ttl_s: How long it lasts from each renewal.
        ends_at_s: When the holder must have stopped, by `time.monotonic()` of its process.
    """

    name: str
    holder: str
    fence: int
    ttl_s: float
    ends_at_s: float

    @property
    def remaining_s(self) -> float:
        """How long the holder may go on without a renewal; 0 once it must stop."""
        return max(0.0, self.ends_at_s - time.monotonic())


class Leases:
    """The leases in a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """The lease, if no one has it; None while it lasts, also for the same `holder`.

        Raises:
            Invalid: `ttl_s` is not above 0.
            NotFound: There is no catalogue.
        """
        if not ttl_s > 0:
            raise Invalid(f"ttl_s: {ttl_s:g} is not > 0")
        if self.holder(name) is not None:
            return None  # without a write, which would wake every watch
        asked_at_s = time.monotonic()
        with self._catalogue.write() as connection:
            row = _locked(connection, name)
            now = database_now(connection)
            if row.expires_at > now:
                return None
            fence, expires_at = row.fence + 1, now + timedelta(seconds=ttl_s)
            _put(connection, name, holder=holder, fence=fence, expires_at=expires_at)
        return Lease(name, holder, fence, ttl_s, asked_at_s + ttl_s)

    def renew(self, lease: Lease) -> Lease | None:
        """The same lease, from now on; None once it has ended, even if no one else has it."""
        asked_at_s = time.monotonic()
        with self._catalogue.write() as connection:
            row = _locked(connection, lease.name)
            now = database_now(connection)
            if row.fence != lease.fence or row.expires_at <= now:
                return None
            _put(connection, lease.name, expires_at=now + timedelta(seconds=lease.ttl_s))
        return replace(lease, ends_at_s=asked_at_s + lease.ttl_s)

    def release(self, lease: Lease) -> None:
        """End it now; fine where it has ended."""
        with self._catalogue.write() as connection:
            if _locked(connection, lease.name).fence == lease.fence:
                _put(connection, lease.name, expires_at=database_now(connection))

    def holder(self, name: str) -> str | None:
        """Who has it now; None if no one has."""
        with self._catalogue.read() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.name == name)).first()
            if row is None or row.expires_at <= database_now(connection):
                return None
            return str(row.holder)


class Leadership:
    """One process that asks again and again for the lease of a job which one of many does.

    Attributes:
        holder: The name of the process.
        lease: As it was last granted; None while another process has it.
    """

    def __init__(self, leases: Leases, name: str, holder: str, ttl_s: float) -> None:
        self._leases, self._name, self._ttl_s = leases, name, ttl_s
        self.holder = holder
        self.lease: Lease | None = None

    def keep(self) -> Lease | None:
        """The lease, acquired, or renewed once half of it is over; None if another has it.

        Raises:
            NotFound: There is no catalogue.
        """
        if self.lease is None or self.lease.remaining_s <= self._ttl_s / 2:
            renewed = None if self.lease is None else self._leases.renew(self.lease)
            self.lease = renewed or self._leases.acquire(self._name, self.holder, self._ttl_s)
        return self.lease

    def release(self) -> None:
        """Leave the job to another process now; a catalogue that is away ends the lease itself."""
        lease, self.lease = self.lease, None
        if lease is not None:
            with suppress(BasculeError):
                self._leases.release(lease)


def check_held(connection: sa.Connection, lease: Lease) -> None:
    """Raise `Conflict` unless the lease is held; others cannot take it before the transaction ends.

    Called in the transaction of each write that only the holder may make.
    """
    row = _locked(connection, lease.name)
    if row.fence != lease.fence or row.expires_at <= database_now(connection):
        raise Conflict(
            f"{lease.holder} no longer holds the lease {lease.name!r}",
            hint="stop, and acquire it again",
            lease=lease.name,
        )


def _locked(connection: sa.Connection, name: str) -> sa.Row[tuple[str, str, int, datetime]]:
    """The row of a lease, which is made where it is new, and others wait for."""
    never = {"holder": "", "fence": 0, "expires_at": datetime(1970, 1, 1, tzinfo=UTC)}
    schema.put_new(connection, _table, {"name": name}, never)
    found = sa.select(_table).where(_table.c.name == name).with_for_update()
    return connection.execute(found).one()


def _put(connection: sa.Connection, name: str, **values: object) -> None:
    connection.execute(sa.update(_table).where(_table.c.name == name).values(values))


def database_now(connection: sa.Connection) -> datetime:
    """The database's time, which for a file is the host's."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    # Not now(): that is when the transaction began, which may have waited for the row since.
    found: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return found
