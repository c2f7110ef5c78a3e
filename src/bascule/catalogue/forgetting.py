"""Forgets a person in the history, without a break in the audit chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import sqlalchemy as sa

from bascule.catalogue import chain, events, schema
from bascule.catalogue.event import Event, Subject
from bascule.catalogue.sealing import decrypted, head


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
