"""The catalogue's rows about a person: kept answers go, results of jobs go, other texts lose it.

Tables of the registry are left: statements and versions are what digests and signatures are of.
What is found there is said in the proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import Catalogue, forget, metadata, redact
from bascule.core import NotFound
from bascule.privacy.persons import ERASED, Person

Row = Mapping[str, Any]
_HISTORY = "events"
_LEFT = frozenset(
    ("alembic_version", "aliases", "identity", "keys", "metrics", "models", "objects", "statements",
     "tags", "versions")
)  # fmt: skip
_OVER = {"waiting": "declined", "approved": "failed"}
"""What becomes of requests for approval without their bodies."""
_NO_RESULT = {ERASED: True}


@dataclass(frozen=True, slots=True)
class CatalogueRows:
    """The rows of a catalogue that hold a person's value.

    Attributes:
        catalogue: Where.
        person: Whose.
        is_erased: Whether a prediction id is of erased rows.
        own: The id in the input of the erasure itself, whose job is the last to lose the value.
        by: Who has asked.
    """

    catalogue: Catalogue
    person: Person
    is_erased: Callable[[str], bool]
    own: str
    by: str = ""

    def find(self) -> dict[str, int]:
        """By table, how many rows are changed."""
        with suppress(NotFound), self.catalogue.read() as connection:
            return Counter(
                table.name
                for table, row in self._held(connection)
                if table.name not in _LEFT and not self._is_own(table, row)
            )
        return {}

    def left(self) -> list[str]:
        """Tables whose rows hold the value and are not changed."""
        with self.catalogue.read() as connection:
            names = [table.name for table, _ in self._held(connection)]
        return [name for name in dict.fromkeys(names) if name in _LEFT or name == _HISTORY]

    def erase(self, *, with_own: bool = False) -> None:
        """Change the rows, in one transaction; with its own job, the database forgets old ones."""
        now = datetime.now(UTC)
        with self.catalogue.write(alone=True) as connection:
            held = [
                (table, row)
                for table, row in self._held(connection)
                if table.name not in _LEFT and (with_own or not self._is_own(table, row))
            ]
            history = {
                row["id"]: changes
                for table, row in held
                if table.name == _HISTORY and (changes := self._without(row))
            }
            redact(connection, history, now=now, by=self.by)
            forget(connection, self.person.text, now=now, by=self.by)
            for table, row in held:
                same = [column == row[column.name] for column in table.primary_key.columns]
                if table.name == "requests":
                    connection.execute(sa.delete(table).where(*same))
                elif table.name != _HISTORY:
                    values = self._changes(table, row)
                    connection.execute(sa.update(table).where(*same).values(values))
        if with_own:
            self.catalogue.compact(sorted({*metadata.tables} - _LEFT))

    def _without(self, row: Row) -> dict[str, Any]:
        values = {name: self.person.without(value) for name, value in row.items()}
        return {name: value for name, value in values.items() if value != row[name]}

    def _changes(self, table: sa.Table, row: Row) -> dict[str, Any]:
        changes = self._without(row)
        if table.name == "approvals":
            changes |= {"body": b"", "state": _OVER.get(row["state"], row["state"])}
        if table.name == "jobs":
            if self._is_named(row):
                changes["input"] = row["input"] | {"subject": ERASED}
            changes |= {"digest": ERASED} if "input" in changes else {}
            if "result" in changes or self._is_about_erased(row):
                changes["result"] = _NO_RESULT
        return changes

    def _held(self, connection: sa.Connection) -> Iterator[tuple[sa.Table, Row]]:
        """Each row that holds the value, or is about erased rows, with its table."""
        tables = sa.MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            texts = [c for c in table.columns if isinstance(c.type, sa.Text | sa.String | sa.JSON)]
            bodies = [c for c in table.columns if isinstance(c.type, sa.LargeBinary)]
            may_hold = [
                sa.cast(column, sa.Text).contains(spelling, autoescape=True)
                for column in texts
                for spelling in self.person.spellings
            ] + [column.is_not(None) for column in bodies]
            if table.name == "jobs":
                may_hold.append(table.c.kind == "replay")
            for record in connection.execute(sa.select(table).where(sa.or_(*may_hold))):
                row = dict(record._mapping)
                if self._is_held(table, row):
                    yield table, row

    def _is_held(self, table: sa.Table, row: Row) -> bool:
        if table.name == "jobs" and self._is_about_erased(row):
            return row["result"] not in (None, _NO_RESULT)
        if table.name == "jobs" and self._is_named(row):
            return True
        bodies = [value for value in row.values() if isinstance(value, bytes)]
        return bool(self._without(row)) or any(map(self.person.is_in, bodies))

    def _is_own(self, table: sa.Table, row: Row) -> bool:
        is_erasure = table.name == "jobs" and row["kind"] == "erasure"
        return is_erasure and row["input"].get("id") == self.own

    def _is_named(self, row: Row) -> bool:
        """Whether a job is an erasure of this person."""
        person = (self.person.field, self.person.text)
        return (row["input"].get("field"), row["input"].get("subject")) == person

    def _is_about_erased(self, row: Row) -> bool:
        about = row["input"].get("id", "") if row["kind"] == "replay" else ""
        return bool(about) and self.is_erased(about)
