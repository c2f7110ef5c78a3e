"""What servers have used of callers' limits, for the sum over servers: two tables of the catalogue.

Of a budget, each server reserves rows ahead, in a transaction on the one row of counter and day, so
that all servers together never have more than the limit. What a server reserved and does not use it
gives back when another has found the budget exhausted (`short_at`); what it had when it was killed
stays reserved until the day ends. Of a rate, each server tells what its callers cost. A counter is
a hash (`serving.execution.meters`): no caller is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

import sqlalchemy as sa

from bascule.catalogue import Catalogue, UtcTime, database_now, metadata, put, put_new, where

quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("counter", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False, index=True),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("short_at", UtcTime),
)
rate_costs = sa.Table(
    "rate_costs",
    metadata,
    sa.Column("counter", sa.Text, primary_key=True),
    sa.Column("server", sa.Text, primary_key=True),
    sa.Column("cost_ns", sa.BigInteger, nullable=False),
    sa.Column("at", UtcTime, nullable=False, index=True),
)
_BLOCKS = 16
"""What is left of a budget is reserved in so many parts, which so become smaller and smaller."""
_SHORT = timedelta(seconds=2)
"""How long servers give back what they do not use, after another found a budget exhausted."""
_TOLD = timedelta(minutes=10)
"""What a server that tells no more has cost is forgotten after so long."""


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

    def forget(self, day: int) -> None:
        """Forget the days before yesterday, and servers that tell no more."""
        with self._catalogue.write() as connection:
            connection.execute(sa.delete(quotas).where(quotas.c.day < day - 1))
            until = database_now(connection) - _TOLD
            connection.execute(sa.delete(rate_costs).where(rate_costs.c.at < until))

    def tell_costs(self, server: str, costs_ns: Mapping[str, int]) -> None:
        """Note what callers have cost on this server since it began, by counter."""
        with self._catalogue.write() as connection:
            now = database_now(connection)
            for counter, cost_ns in sorted(costs_ns.items()):
                key = {"counter": counter, "server": server}
                put(connection, rate_costs, key, {"cost_ns": cost_ns, "at": now})

    def costs_elsewhere(
        self, server: str, counters: Iterable[str]
    ) -> Mapping[str, Mapping[str, int]]:
        """The cost on each other server that tells, by counter and server."""
        costs_ns: dict[str, dict[str, int]] = {}
        with self._catalogue.read() as connection:
            query = sa.select(rate_costs).where(
                rate_costs.c.server != server,
                rate_costs.c.counter.in_(list(counters)),
                rate_costs.c.at > database_now(connection) - _TOLD,
            )
            for row in connection.execute(query):
                costs_ns.setdefault(row.counter, {})[row.server] = row.cost_ns
        return costs_ns
