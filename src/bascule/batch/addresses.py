"""Addresses of tables in databases: a URL and, after `#`, a table."""

from __future__ import annotations

from dataclasses import dataclass

from bascule.core import Invalid, masked


@dataclass(frozen=True, slots=True)
class Address:
    """A database and a table in it: `postgresql://HOST/DB#sales.flights`.

    Attributes:
        url: Of the database, with its password.
        schema: Of the table; empty for the database's default.
        table: Empty where a query takes its place.
        place: The whole address without its password, for people.
    """

    url: str
    schema: str
    table: str
    place: str

    @classmethod
    def of(cls, text: str, *, needs_table: bool = True) -> Address:
        """Raises `Invalid` where no table is named."""
        url, _, name = text.partition("#")
        if needs_table and not name:
            raise Invalid(
                f"{masked(text)} names no table", hint=f"add it after #: {masked(url)}#TABLE"
            )
        schema, _, table = name.rpartition(".")
        return cls(url, schema, table, masked(text))

    def name_of(self, table: str) -> str:
        """A table of the same schema, quoted as standard SQL does."""
        return ".".join(quoted(one) for one in (self.schema, table) if one)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in standard SQL."""
    return "'" + text.replace("'", "''") + "'"
