"""Forgets a person in the history, without a break in the audit chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bascule.catalogue import chain, events, schema, sealing
from bascule.catalogue.event import Event, Subject

_GONE = {
    "who": ("actor", chain.ERASED), "why": ("reason", ""), "what": ("body", {}),
    "name": ("subject", chain.ERASED),
}  # fmt: skip
"""By part of an act: its column, and what is in there once it is forgotten."""
_PART_OF = {column: part for part, (column, _) in _GONE.items()}


def forget(connection: sa.Connection, person: str, *, now: datetime, by: str) -> int:
    """Erase a person from the history, and say so in it; returns in how many entries they were.

    The key of the person is destroyed with the salts and origins under it. In the events that the
    person did, actor and reason give way; in those about the person (`Event.person`) also name and
    body. Digests stay, so the chain verifies. The act that it leaves names the entries and not the
    person. Doing it again does nothing.
    """
    table, keys, values = schema.events, schema.audit_keys, schema.audit_values
    older = (table.c.actor == person, table.c.id <= sealing.read_head(connection).after_event)
    own = {"actor": chain.ERASED, "reason": ""}
    connection.execute(sa.update(table).where(*older).values(own))
    key = connection.execute(sa.select(keys).where(keys.c.person == person)).first()
    if key is None:
        return 0
    sequences = []
    for part in sealing.unsealed(connection, values.c.key == key.id):
        if part.salts:
            changes = dict(_GONE[name] for name in part.salts)
            connection.execute(sa.update(table).where(table.c.id == part.event).values(changes))
        sequences.append(part.sequence)
    connection.execute(sa.delete(values).where(values.c.key == key.id))
    connection.execute(sa.delete(keys).where(keys.c.id == key.id))
    _record(connection, sequences, now=now, by=by)
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
    table, links, values = schema.events, schema.audit_chain, schema.audit_values
    sequences = []
    for event, by_column in changes.items():
        link = connection.execute(sa.select(links).where(links.c.event == event)).first()
        salted = {
            column: value for column, value in by_column.items()
            if link is None or _PART_OF.get(column) in link.digests
        }  # fmt: skip
        if not salted:
            continue
        connection.execute(sa.update(table).where(table.c.id == event).values(salted))
        for part in sealing.unsealed(connection, links.c.event == event):
            if part.cipher is not None:
                gone = {_PART_OF[column] for column in salted}
                salts = {name: salt for name, salt in part.salts.items() if name not in gone}
                sealed = sealing.encrypted(part.cipher, part.sequence, salts, part.origin)
                same = (values.c.sequence == part.sequence, values.c.key == part.key)
                connection.execute(sa.update(values).where(*same).values(sealed=sealed))
        if link is not None:
            sequences.append(link.sequence)
    if sequences:
        _record(connection, sequences, now=now, by=by)


def _record(connection: sa.Connection, sequences: Iterable[int], *, now: datetime, by: str) -> None:
    """Record which entries have lost values: first and last of each run of consecutive numbers."""
    ranges = list[list[int]]()
    for sequence in sorted(sequences):
        if ranges and ranges[-1][1] == sequence - 1:
            ranges[-1][1] = sequence
        else:
            ranges.append([sequence, sequence])
    subject = Subject("person", chain.ERASED)
    events.append(connection, Event(subject, chain.FORGOTTEN, now, by, "", {"entries": ranges}))
