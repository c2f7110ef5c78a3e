"""The audit chain in the catalogue: every event gets its entry at the end of its transaction.

`events.append` notes the event, and `Catalogue.write` seals all that were noted before it commits.
So a commit has both or neither, and the chain is in the order of commits, which ids are not on
PostgreSQL. The row of the head is the last lock that a transaction takes and is held only until
the commit, so it joins no deadlock; two hosts that write at once wait for each other's commit.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from bascule.catalogue import chain, origins, schema
from bascule.catalogue.chain import Entry
from bascule.catalogue.event import Event, Subject, event_of
from bascule.catalogue.origins import Origin

_NOTED = "acts"
_SALT_BYTES, _KEY_BYTES, _NONCE_BYTES = 16, 32, 12
_AT_ONCE = 2_000
_MISSING = Event(Subject("", ""), "", datetime(1970, 1, 1, tzinfo=UTC), "")
"""In place of an event that was deleted."""
_ITSELF = Origin("process")
"""Of what a process does by itself: rollouts, jobs, alerts, schedules."""


class Head(NamedTuple):
    """The id of a chain, the last event that is older than it, and its last entry."""

    chain: str
    after_event: int
    sequence: int
    digest: str


def note(connection: sa.Connection, event: Event) -> None:
    """Have the event join the chain at the end of the transaction."""
    request = origins.current()
    origin = _ITSELF if request is None else request.origin
    connection.info.setdefault(_NOTED, []).append((event, origin))
    if request is not None:
        request.has_recorded = True


def seal(connection: sa.Connection) -> None:
    """Add what was noted to the chain. Nothing else may follow in the transaction."""
    acts: list[tuple[Event, Origin]] = connection.info.pop(_NOTED, [])
    if not acts:
        return
    now = head(connection, locks=True)
    keys = _keys(connection, {person for event, _ in acts for person in _persons(event)})
    sequence, digest, links, sealed = now.sequence, now.digest, [], []
    for event, origin in acts:
        sequence += 1
        entry = _entry(sequence, event, origin)
        digest = chain.digest_of_entry(digest, entry)
        links.append({
            "sequence": sequence, "event": event.id, "digests": entry.digests, "digest": digest,
        })  # fmt: skip
        for person, names in _names_by_person(event, entry.digests).items():
            key_id, key = keys[person]
            part = {
                "salts": {name: entry.salts[name] for name in names},
                "origin": {n: value for n, value in origin.known().items() if n in names},
            }
            content = encrypted(key, sequence, part)
            sealed.append({"sequence": sequence, "key": key_id, "sealed": content})
    connection.execute(sa.insert(schema.audit_chain), links)
    connection.execute(sa.insert(schema.audit_values), sealed)
    connection.execute(sa.update(schema.audit_head).values(sequence=sequence, digest=digest))


def _entry(sequence: int, event: Event, origin: Origin) -> Entry:
    """The entry of an event, without its digest, which needs the one before it."""
    plain, personal = chain.fields_of_event(event)
    values = personal | origin.known()
    salts = {name: secrets.token_hex(_SALT_BYTES) for name in values}
    digests = {name: chain.digest_of_value(salts[name], values[name]) for name in values}
    return Entry(
        sequence, event.id or 0, event.at, event.kind, event.subject.kind, plain, digests, "",
        salts, values,
    )  # fmt: skip


def head(connection: sa.Connection, *, locks: bool = False) -> Head:
    """Where the chain stands; with `locks`, others wait until the end of the transaction."""
    table = schema.audit_head.c
    query = sa.select(table.chain, table.after_event, table.sequence, table.digest)
    return Head(*connection.execute(query.with_for_update() if locks else query).one())


def entries(connection: sa.Connection, *, after: int = 0) -> Iterator[Entry]:
    """The entries of the chain in their order, read in parts; `after` is left out."""
    keys = {row.id: row.key for row in connection.execute(sa.select(schema.audit_keys))}
    while part := _part(connection, keys, after):
        yield from part
        after = part[-1].sequence


def origins_of(
    connection: sa.Connection, events: Sequence[int]
) -> dict[int, tuple[int, Mapping[str, str]]]:
    """By event: the sequence of its entry, and where the act came from as far as that is kept."""
    links, values, keys = schema.audit_chain, schema.audit_values, schema.audit_keys
    query = sa.select(links.c.event, links.c.sequence, values.c.sealed, keys.c.key)
    query = query.select_from(
        links.outerjoin(values, values.c.sequence == links.c.sequence)
        .outerjoin(keys, keys.c.id == values.c.key)
    ).where(links.c.event.in_(events))  # fmt: skip
    known = dict[int, tuple[int, dict[str, str]]]()
    for row in connection.execute(query):
        _, origin = known.setdefault(row.event, (row.sequence, {}))
        if row.key is not None:
            origin.update(decrypted(row.key, row.sequence, row.sealed)["origin"])
    return dict(known)


def outside(connection: sa.Connection) -> Sequence[int]:
    """Events that are younger than the chain and in no entry, at most 1,000.

    Something else than `events.append` added them, or a release before the chain.
    """
    joined = schema.events.outerjoin(
        schema.audit_chain, schema.audit_chain.c.event == schema.events.c.id
    )
    query = sa.select(schema.events.c.id).select_from(joined).where(
        schema.audit_chain.c.event.is_(None), schema.events.c.id > head(connection).after_event
    )  # fmt: skip
    return list(connection.scalars(query.order_by(schema.events.c.id).limit(1_000)))


_SHARED = ""
"""Whose key salts what was changed, where that is about no person: it outlives its author."""


def _persons(event: Event) -> set[str]:
    return {event.actor, event.person or _SHARED}


def _names_by_person(event: Event, names: Iterable[str]) -> dict[str, list[str]]:
    """Whose key each field is encrypted by."""
    by_person = dict[str, list[str]]()
    for name in names:
        is_about = name in ("name", "before", "after") or (event.person and name == "reason")
        by_person.setdefault(event.person if is_about else event.actor, []).append(name)
    return by_person


def _keys(connection: sa.Connection, persons: set[str]) -> dict[str, tuple[str, str]]:
    """The id and the key of each person; made where they are new, under the lock of the head."""
    table = schema.audit_keys
    rows = connection.execute(sa.select(table).where(table.c.person.in_(persons))).all()
    keys = {row.person: (row.id, row.key) for row in rows}
    for person in sorted(persons - set(keys)):
        key_id, key = secrets.token_hex(8), secrets.token_hex(_KEY_BYTES)
        connection.execute(sa.insert(table).values(id=key_id, person=person, key=key))
        keys[person] = (key_id, key)
    return keys


def encrypted(key: str, sequence: int, content: Mapping[str, Any]) -> str:
    """Salts and origin of an entry, by the key of a person."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce, about = os.urandom(_NONCE_BYTES), str(sequence).encode()
    sealed = AESGCM(bytes.fromhex(key)).encrypt(nonce, chain.canonical(content), about)
    return base64.b64encode(nonce + sealed).decode()


def decrypted(key: str, sequence: int, sealed: str) -> dict[str, Any]:
    """Salts and origin; of what was changed nothing, so that its salts are missing."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        data = base64.b64decode(sealed, validate=True)
        nonce, rest = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
        plain = AESGCM(bytes.fromhex(key)).decrypt(nonce, rest, str(sequence).encode())
    except (InvalidTag, ValueError):
        return {"salts": {}, "origin": {}}
    content: dict[str, Any] = json.loads(plain)
    return content


def _part(connection: sa.Connection, keys: Mapping[str, str], after: int) -> list[Entry]:
    links, events = schema.audit_chain, schema.events
    query = sa.select(
        links.c.sequence, links.c.digests, links.c.digest, links.c.event, events
    ).join_from(links, events, links.c.event == events.c.id, isouter=True)  # fmt: skip
    query = query.where(links.c.sequence > after).order_by(links.c.sequence).limit(_AT_ONCE)
    rows = connection.execute(query).all()
    last = rows[-1].sequence if rows else after
    salts, origins_of = _opened(connection, keys, after, last)
    part = []
    for row in rows:
        event = _MISSING if row.id is None else event_of(row)
        fields = {**chain.fields_of_event(event)[0], **chain.fields_of_event(event)[1]}
        plain = {name: value for name, value in fields.items() if name not in row.digests}
        part.append(Entry(
            row.sequence, row.event, event.at, event.kind, event.subject.kind, plain, row.digests,
            row.digest, salts.get(row.sequence, {}), fields | origins_of.get(row.sequence, {}),
        ))  # fmt: skip
    return part


def _opened(
    connection: sa.Connection, keys: Mapping[str, str], after: int, last: int
) -> tuple[dict[int, dict[str, str]], dict[int, dict[str, str]]]:
    """The salts and the origins of these entries, as far as there are keys."""
    values = schema.audit_values
    salts, known = dict[int, dict[str, str]](), dict[int, dict[str, str]]()
    query = sa.select(values).where(values.c.sequence > after, values.c.sequence <= last)
    for row in connection.execute(query):
        if row.key in keys:
            content = decrypted(keys[row.key], row.sequence, row.sealed)
            salts.setdefault(row.sequence, {}).update(content["salts"])
            known.setdefault(row.sequence, {}).update(content["origin"])
    return salts, known
