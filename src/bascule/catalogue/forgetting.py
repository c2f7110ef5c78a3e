"""Forgets a person in the history, without a break in the audit chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import chain, events, schema
from bascule.catalogue.event import Event, Subject
from bascule.catalogue.sealing import decrypted, encrypted, head


def forget(connection: sa.Connection, person: str, *, now: datetime, by: str) -> int:
    """Erase a person from the history, and say so in it; returns in how many entries they were.

    The key of the person is destroyed with the salts and origins under it. In the events that the
    person did, actor and reason give way; in those about the person (`Event.person`) also name and
    body. Digests stay, so the chain verifies. The act that it leaves names the entries and not the
    person. Doing it again does nothing.
    """
    table, keys, kept = schema.events, schema.audit_keys, schema.audit_values
    own = {"actor": chain.ERASED, "reason": ""}
    older = (table.c.actor == person, table.c.id <= head(connection).after_event)
    connection.execute(sa.update(table).where(*older).values(own))
    row = connection.execute(sa.select(keys).where(keys.c.person == person)).first()
    if row is None:
        return 0
    gone = own | {"subject": chain.ERASED, "body": {}}
    sequences = []
    for event, sequence, names in _erased(connection, row.id, row.key):
        values = {column: value for column, value in gone.items() if _FIELD_OF[column] in names}
        if values:
            connection.execute(sa.update(table).where(table.c.id == event).values(values))
        sequences.append(sequence)
    connection.execute(sa.delete(kept).where(kept.c.key == row.id))
    connection.execute(sa.delete(keys).where(keys.c.id == row.id))
    subject, body = Subject("person", chain.ERASED), {"entries": _ranges(sorted(sequences))}
    events.append(connection, Event(subject, chain.FORGOTTEN, now, by, "", body))
    return len(sequences)


def redact(
    connection: sa.Connection, changes: Mapping[int, Mapping[str, Any]], *, now: datetime, by: str
) -> None:
    """Change texts of events that name a person, and say so in the history.

    The salts of what is changed go, so the chain verifies. The name of what an act is about is in
    the chain as it is, and stays, unless the event is about a person. Doing it again does nothing.

    Args:
        connection: Of a transaction.
        changes: By event, the new values by column.
        now: When.
        by: Who asked for it.
    """
    table, links = schema.events, schema.audit_chain
    sequences = []
    for event, values in changes.items():
        link = connection.execute(sa.select(links).where(links.c.event == event)).first()
        salted = {
            column: value for column, value in values.items()
            if link is None or _FIELD_OF.get(column) in link.digests
        }  # fmt: skip
        if not salted:
            continue
        connection.execute(sa.update(table).where(table.c.id == event).values(salted))
        if link is not None:
            _drop_salts(connection, link.sequence, _names_of(salted))
            sequences.append(link.sequence)
    if sequences:
        subject, body = Subject("person", chain.ERASED), {"entries": _ranges(sorted(sequences))}
        events.append(connection, Event(subject, chain.FORGOTTEN, now, by, "", body))


def _names_of(columns: Iterable[str]) -> set[str]:
    """The fields that columns are in; what was before is in the body as well."""
    names = {_FIELD_OF[column] for column in columns}
    return names | {"before"} if "after" in names else names


def _drop_salts(connection: sa.Connection, sequence: int, names: set[str]) -> None:
    values, keys = schema.audit_values, schema.audit_keys
    query = sa.select(values, keys.c.key.label("secret")).join(keys, keys.c.id == values.c.key)
    for row in connection.execute(query.where(values.c.sequence == sequence)).all():
        content = decrypted(row.secret, sequence, row.sealed)
        content["salts"] = {n: s for n, s in content["salts"].items() if n not in names}
        same = (values.c.sequence == sequence, values.c.key == row.key)
        sealed = encrypted(row.secret, sequence, content)
        connection.execute(sa.update(values).where(*same).values(sealed=sealed))


_FIELD_OF = {"actor": "actor", "subject": "name", "reason": "reason", "body": "after"}


def _erased(
    connection: sa.Connection, key_id: str, key: str
) -> Iterator[tuple[int, int, Mapping[str, str]]]:
    """Event and sequence of the entries with values under a key, and the names of their fields."""
    values, links = schema.audit_values, schema.audit_chain
    query = sa.select(links.c.event, values.c.sequence, values.c.sealed).join_from(
        values, links, values.c.sequence == links.c.sequence
    )
    for row in connection.execute(query.where(values.c.key == key_id)).all():
        yield row.event, row.sequence, decrypted(key, row.sequence, row.sealed)["salts"]


def _ranges(sequences: Iterable[int]) -> list[list[int]]:
    """First and last of each run of consecutive numbers."""
    ranges = list[list[int]]()
    for sequence in sequences:
        if ranges and ranges[-1][1] == sequence - 1:
            ranges[-1][1] = sequence
        else:
            ranges.append([sequence, sequence])
    return ranges
