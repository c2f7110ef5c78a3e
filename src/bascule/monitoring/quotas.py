"""What servers have used of callers' limits, for the sum over servers: two tables of the catalogue.

Of a budget, each server reserves rows ahead, in a transaction on the one row of counter and day, so
that all servers together never have more than the limit. What a server reserved and does not use it
gives back when another has found the budget exhausted (`short_at`); what it had when it was killed
stays reserved until the day ends. Of a rate, all servers fill one bucket, a little later than their
own. A counter is a hash (`serving.execution.meters`): no caller is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa

from bascule.catalogue import Catalogue, UtcTime, database_now, metadata, put_new, where

quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("counter", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False, index=True),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("short_at", UtcTime),
)
rate_buckets = sa.Table(
    "rate_buckets",
    metadata,
    sa.Column("counter", sa.Text, primary_key=True),
    sa.Column("full_at_us", sa.BigInteger, nullable=False, index=True),
)
_BLOCKS = 16
"""What is left of a budget is reserved in so many parts, which so become smaller and smaller."""
_SHORT = timedelta(seconds=2)
"""How long servers give back what they do not use, after another found a budget exhausted."""
_LATE_US = 60_000_000
"""A server that exchanges what callers spent no later than this finds their buckets."""


class Quotas:
    """See the module."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def reserve(self, counter: str, day: int, at_least: int, limit: int) -> int:
        """Reserve a block of what is left of a day, `at_least` or more; how many rows were.

        Fewer than `at_least` is all that is left: other servers give back what they do not use.
        """
        with self._catalogue.write() as connection:
            key = {"counter": counter, "day": day}
            put_new(connection, quotas, key, {"reserved": 0})
            query = sa.select(quotas.c.reserved).where(where(quotas, **key)).with_for_update()
            reserved = connection.execute(query).scalar_one()
            left = max(0, limit - reserved)
            granted = min(left, max(at_least, left // _BLOCKS))
            values: dict[str, object] = {"reserved": reserved + granted}
            if granted < at_least:
                values["short_at"] = database_now(connection)
            connection.execute(sa.update(quotas).where(where(quotas, **key)).values(values))
            return int(granted)

    def give_back(self, day: int, rows_of: Mapping[str, int]) -> None:
        """Reserve so many rows of a day less, by counter."""
        with self._catalogue.write() as connection:
            for counter, rows in sorted(rows_of.items()):
                connection.execute(
                    sa.update(quotas)
                    .where(where(quotas, counter=counter, day=day))
                    .values(reserved=quotas.c.reserved - rows)
                )

    def short(self, day: int) -> set[str]:
        """The counters of which a server has just found no rows left."""
        with self._catalogue.read() as connection:
            since = database_now(connection) - _SHORT
            query = sa.select(quotas.c.counter).where(
                quotas.c.day == day, quotas.c.short_at > since
            )
            return set(connection.scalars(query))

    def spend(self, costs_ns: Mapping[str, int], within_ns: int) -> dict[str, int]:
        """Note what callers have spent of their rates on a server; in how long buckets are full.

        The costs, by counter, are of the last `within_ns`, and noted as of when that began: a
        bucket is never emptier than one that all servers had filled at once.
        """
        full_in_ns = {}
        full_at_us = rate_buckets.c.full_at_us
        with self._catalogue.write() as connection:
            now_us = round(database_now(connection).timestamp() * 1e6)
            since_us = now_us - within_ns // 1_000
            for counter, cost_ns in sorted(costs_ns.items()):
                put_new(connection, rate_buckets, {"counter": counter}, {"full_at_us": 0})
                spent = (
                    sa.update(rate_buckets)
                    .where(where(rate_buckets, counter=counter))
                    .values(
                        full_at_us=sa.case((full_at_us < since_us, since_us), else_=full_at_us)
                        + cost_ns // 1_000
                    )
                    .returning(full_at_us)
                )
                full_in_ns[counter] = (connection.execute(spent).scalar_one() - now_us) * 1_000
        return full_in_ns

    def forget(self, day: int) -> None:
        """Forget the days before yesterday, and buckets that are full."""
        with self._catalogue.write() as connection:
            connection.execute(sa.delete(quotas).where(quotas.c.day < day - 1))
            until_us = round(database_now(connection).timestamp() * 1e6) - _LATE_US
            connection.execute(sa.delete(rate_buckets).where(rate_buckets.c.full_at_us < until_us))
