"""The catalogue's rows about a person: kept answers go, results of jobs go, other texts lose it.

Tables of the registry are left: statements and versions are what digests and signatures are of.
What is found there is said in the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, forget, redact
from bascule.core import NotFound
from bascule.privacy.persons import ERASED, Person

_LEFT = frozenset(
    ("alembic_version", "aliases", "identity", "keys", "metrics", "models", "objects", "statements",
     "tags", "versions")
)  # fmt: skip
_IDENTIFYING = "id"
_OVER = {"waiting": "declined", "approved": "failed"}
"""What becomes of requests for approval without their bodies."""


class CatalogueRows:
    """The rows of a catalogue that hold a person's value."""

    def __init__(
        self, catalogue: Catalogue, person: Person, is_erased: Callable[[str], bool], own: str,
        by: str = "",
    ) -> None:  # fmt: skip
        """Read nothing yet.

        Args:
            catalogue: Where.
            person: Whose.
            is_erased: Whether a prediction id is of erased rows.
            own: The id in the input of the erasure itself, whose job is the last to lose the value.
            by: Who has asked.
        """
        self._catalogue, self._person = catalogue, person
        self._is_erased, self._own, self._by = is_erased, own, by
        self._changed_tables: set[str] = set()
        self._known: list[sa.Table] = []

    def find(self) -> dict[str, int]:
        """By table, how many rows."""
        counts: dict[str, int] = {}
        with suppress(NotFound), self._catalogue.read() as connection:
            for table, *_ in self._changes(connection):
                counts[table.name] = counts.get(table.name, 0) + 1
        return counts

    def left(self) -> list[str]:
        """Tables whose rows hold the value and are not changed."""
        with self._catalogue.read() as connection:
            return [
                table.name
                for table in self._tables(connection)
                if (table.name in _LEFT or _is_history(table))
                and any(self._hits(connection, table))
            ]

    def erase(self, *, with_own: bool = False) -> None:
        """Change the rows, in one transaction; at the end the database forgets the old ones."""
        with self._catalogue.write(alone=True) as connection:
            changed = list(self._changes(connection, with_own=with_own))
            now = datetime.now(UTC)
            history = {row["id"]: values for table, row, values in changed if _is_history(table)}
            redact(connection, {n: v for n, v in history.items() if v}, now=now, by=self._by)
            forget(connection, self._person.text, now=now, by=self._by)
            for table, row, values in changed:
                if _is_history(table):
                    continue
                same = [column == row[column.name] for column in table.primary_key.columns]
                if values is None:
                    connection.execute(sa.delete(table).where(*same))
                else:
                    connection.execute(sa.update(table).where(*same).values(values))
        self._changed_tables |= {table.name for table, *_ in changed}
        if with_own:
            self._catalogue.compact(sorted(self._changed_tables))

    def _changes(
        self, connection: sa.Connection, *, with_own: bool = False
    ) -> Iterator[tuple[sa.Table, dict[str, Any], dict[str, Any] | None]]:
        """Table, row, and its new values; None for a row that goes."""
        for table in self._tables(connection):
            if table.name in _LEFT:
                continue
            for row in self._hits(connection, table):
                if table.name == "jobs" and self._is_own(row) and not with_own:
                    continue
                yield table, row, self._changed(table, row)

    def _changed(self, table: sa.Table, row: dict[str, Any]) -> dict[str, Any] | None:
        if table.name == "requests":
            return None
        values = {name: self._person.without(value) for name, value in row.items()}
        changed = {name: value for name, value in values.items() if value != row[name]}
        if table.name == "approvals":
            changed |= {"body": b"", "state": _OVER.get(row["state"], row["state"])}
        if table.name == "jobs":
            changed |= {"digest": ERASED} if "input" in changed else {}
            if "result" in changed or self._is_about_erased(row):
                changed["result"] = {ERASED: True}
        return changed

    def _hits(self, connection: sa.Connection, table: sa.Table) -> Iterator[dict[str, Any]]:
        texts = [column for column in table.columns if _is_text(column)]
        held = [
            sa.cast(column, sa.Text).contains(spelling, autoescape=True)
            for column in texts
            for spelling in self._person.spellings
        ]
        blobs = [c.is_not(None) for c in table.columns if isinstance(c.type, sa.LargeBinary)]
        asked = [table.c.kind == "replay"] if table.name == "jobs" else []
        for row in connection.execute(sa.select(table).where(sa.or_(*held, *blobs, *asked))):
            plain = dict(row._mapping)
            if self._holds(table, plain):
                yield plain

    def _holds(self, table: sa.Table, row: dict[str, Any]) -> bool:
        if table.name == "jobs" and (self._is_own(row) or self._is_about_erased(row)):
            is_gone = row["result"] in (None, {ERASED: True})
            return not is_gone or self._is_own(row)
        for value in row.values():
            if isinstance(value, bytes):
                if self._person.is_distinctive and self._person.in_bytes.search(value):
                    return True
            elif self._person.without(value) != value:
                return True
        return False

    def _tables(self, connection: sa.Connection) -> list[sa.Table]:
        if not self._known:
            known = sa.MetaData()
            known.reflect(connection)
            self._known = known.sorted_tables
        return self._known

    def _is_own(self, row: dict[str, Any]) -> bool:
        return bool(row["kind"] == "erasure" and row["input"].get("id") == self._own)

    def _is_about_erased(self, row: dict[str, Any]) -> bool:
        about = row["input"].get(_IDENTIFYING, "") if row["kind"] == "replay" else ""
        return bool(about) and self._is_erased(about)


def _is_history(table: sa.Table) -> bool:
    return table.name == "events"


def _is_text(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Text | sa.String | sa.JSON)
