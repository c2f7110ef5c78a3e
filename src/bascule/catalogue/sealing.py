"""The audit chain in the catalogue: every event gets its entry at the end of its transaction.

`events.append` notes the event, and `Catalogue.write` seals all that were noted before it commits.
So a commit has both or neither, and the chain is in the order of commits, which ids are not on
PostgreSQL. The row of the head is the last lock that a transaction takes and is held only until
the commit, so it joins no deadlock; two hosts that write at once wait for each other's commit.
"""

from __future__ import annotations

import binascii
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from bascule.catalogue import chain, origins, schema
from bascule.catalogue.chain import Anchor, Entry, Head, Verified
from bascule.catalogue.event import Event
from bascule.catalogue.origins import Origin

Begin = Callable[[], AbstractContextManager[sa.Connection]]
_NOTED = "acts"
_SALT_BYTES, _KEY_BYTES, _NONCE_BYTES = 16, 32, 12
_AT_ONCE = 2_000
_decode_sealed = msgspec.json.Decoder(tuple[dict[str, str], dict[str, str]]).decode
REFUSED = "refused"
"""The kind of the event of a request that was refused."""


def note(connection: sa.Connection, event: Event) -> None:
    """Have the event join the chain at the end of the transaction."""
    origin = origins.current()
    origin.has_recorded = True
    connection.info.setdefault(_NOTED, []).append((event, origin))


def seal(connection: sa.Connection) -> None:
    """Add what was noted to the chain. Nothing else may follow in the transaction.

    An approval that the acts carry out is `done` with them.
    """
    acts: list[tuple[Event, Origin]] = connection.info.pop(_NOTED, [])
    if not acts:
        return
    approved = {origin.approval for event, origin in acts if event.kind != REFUSED} - {""}
    if approved:
        table = schema.approvals
        same = (table.c.id.in_(approved), table.c.state == "approved")
        connection.execute(sa.update(table).where(*same).values(state="done"))
    head = read_head(connection, locks=True)
    keys = _keys(connection, {person for event, _ in acts for person in _owners(event).values()})
    sequence, digest, links, sealed = head.sequence, head.digest, [], []
    for event, origin in acts:
        sequence += 1
        entry = _entry(sequence, event, origin)
        digest = chain.digest_of_entry(digest, entry)
        links.append({
            "sequence": sequence, "event": event.id, "digests": entry.digests, "digest": digest,
        })  # fmt: skip
        owners = _owners(event)
        for person in {owners[part] for part in entry.salts}:
            key_id, cipher = keys[person]
            salts = {part: salt for part, salt in entry.salts.items() if owners[part] == person}
            text = encrypted(cipher, sequence, salts, origin.known() if "who" in salts else {})
            sealed.append({"sequence": sequence, "key": key_id, "sealed": text})
    connection.execute(sa.insert(schema.audit_chain), links)
    connection.execute(sa.insert(schema.audit_values), sealed)
    connection.execute(sa.update(schema.audit_head).values(sequence=sequence, digest=digest))


def _owners(event: Event) -> dict[str, str]:
    """By part, the person whose key encrypts it; a key without a person outlives every author."""
    about = event.person
    return {"who": event.actor, "why": about or event.actor, "what": about, "name": about}


def _entry(sequence: int, event: Event, origin: Origin) -> Entry:
    """The entry of an event, without its digest, which needs the one before it."""
    about, name = event.subject
    parts = chain.parts_of(event.actor, event.reason, name, event.body, origin.known())
    plain = {"what"} if event.kind == chain.FORGOTTEN else set()
    if not event.person:
        plain.add("name")
    salts = {part: secrets.token_hex(_SALT_BYTES) for part in parts if part not in plain}
    digests = {part: chain.digest_of_value(salt, parts[part]) for part, salt in salts.items()}
    shown = {part: parts[part] for part in plain}
    return Entry(
        sequence, event.id or 0, event.at.isoformat(), event.kind, about, shown, digests, "", salts,
        {},
    )  # fmt: skip


def read_head(connection: sa.Connection, *, locks: bool = False) -> Head:
    """Where the chain stands; with `locks`, others wait until the end of the transaction."""
    table = schema.audit_head.c
    query = sa.select(table.chain, table.after_event, table.sequence, table.digest)
    return Head(*connection.execute(query.with_for_update() if locks else query).one())


def read(connection: sa.Connection) -> tuple[Head, Iterator[Entry]]:
    """The whole chain: its head, and its entries in their order, read in parts."""
    head = read_head(connection)
    links, events = schema.audit_chain, schema.events
    joined = events.outerjoin(links, links.c.event == events.c.id)
    unlinked = (links.c.event.is_(None), events.c.id > head.after_event)
    query = sa.select(events.c.id).select_from(joined).where(*unlinked).order_by(events.c.id)
    outside = tuple(connection.scalars(query.limit(1_000)))
    return msgspec.structs.replace(head, outside=outside), _entries(connection)


def verify(begin: Begin, anchors: Sequence[Anchor] = ()) -> Verified:
    """See `chain.verify`; `begin` is `Catalogue.read`."""
    with begin() as connection:
        return chain.verify(*read(connection), anchors)


def export(begin: Begin) -> Iterator[bytes]:
    """One JSON object a line: the head of the chain, then each entry with salts and values.

    It is one view of the catalogue, which stays open until the last line is taken.
    """
    encode = msgspec.json.Encoder().encode
    with begin() as connection:
        head, entries = read(connection)
        yield encode(head) + b"\n"
        for entry in entries:
            yield encode(entry) + b"\n"


def _entries(connection: sa.Connection) -> Iterator[Entry]:
    links, events = schema.audit_chain, schema.events
    # JSON as the texts that are stored: SQLAlchemy reads them at a third of the pace.
    query = sa.select(
        links.c.sequence, links.c.event, sa.cast(links.c.digests, sa.Text), links.c.digest,
        events.c.at, events.c.kind, events.c.subject_kind, events.c.subject, events.c.actor,
        events.c.reason, sa.cast(events.c.body, sa.Text),
    ).join_from(links, events, links.c.event == events.c.id, isouter=True)  # fmt: skip
    query, after = query.order_by(links.c.sequence).limit(_AT_ONCE), 0
    while rows := connection.execute(query.where(links.c.sequence > after)).all():
        where = links.c.sequence.between(after + 1, after := rows[-1].sequence)
        opened = defaultdict[int, tuple[dict[str, str], dict[str, str]]](lambda: ({}, {}))
        for part in unsealed(connection, where):
            salts, origin = opened[part.sequence]
            salts.update(part.salts)
            origin.update(part.origin)
        for sequence, event, texts, digest, at, kind, about, name, actor, reason, body in rows:
            salts, origin = opened[sequence]
            digests, parts = msgspec.json.decode(texts), dict[str, Any]()
            if kind is not None:  # the event is there
                parts = chain.parts_of(actor, reason, name, msgspec.json.decode(body), origin)
            yield Entry(
                sequence, event, at.isoformat() if at else "", kind or "", about or "",
                {part: value for part, value in parts.items() if part not in digests}, digests,
                digest, salts, {part: value for part, value in parts.items() if part in salts},
            )  # fmt: skip


class Unsealed(NamedTuple):
    """Salts and origin of an entry, as far as one key encrypts them; empty where it is gone."""

    event: int
    sequence: int
    key: str
    cipher: Any
    salts: dict[str, str]
    origin: dict[str, str]


def unsealed(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Iterator[Unsealed]:
    """What is sealed of the entries that a condition on `audit_chain` or `audit_values` finds."""
    links, values, keys = schema.audit_chain, schema.audit_values, schema.audit_keys
    query = sa.select(
        links.c.event, links.c.sequence, values.c.key, values.c.sealed, keys.c.key.label("secret")
    ).select_from(
        links.outerjoin(values, values.c.sequence == links.c.sequence)
        .outerjoin(keys, keys.c.id == values.c.key)
    ).where(where)  # fmt: skip
    from cryptography.exceptions import InvalidTag

    ciphers = dict[str, Any]()
    for event, sequence, key, sealed, secret in connection.execute(query).all():
        cipher, salts, origin = None, dict[str, str](), dict[str, str]()
        if secret is not None:
            cipher = ciphers.get(secret) or ciphers.setdefault(secret, _cipher(secret))
            # Of what was changed there is nothing, so that its salts are missing.
            with suppress(InvalidTag, ValueError):
                salts, origin = _decrypted(cipher, sequence, sealed)
        yield Unsealed(event, sequence, key, cipher, salts, origin)


def _keys(connection: sa.Connection, persons: set[str]) -> dict[str, tuple[str, Any]]:
    """Id and cipher of each person's key; made where they are new, under the lock of the head."""
    table = schema.audit_keys
    rows = connection.execute(sa.select(table).where(table.c.person.in_(persons))).all()
    keys = {row.person: (row.id, row.key) for row in rows}
    for person in sorted(persons - set(keys)):
        key_id, key = secrets.token_hex(8), secrets.token_hex(_KEY_BYTES)
        connection.execute(sa.insert(table).values(id=key_id, person=person, key=key))
        keys[person] = (key_id, key)
    return {person: (key_id, _cipher(key)) for person, (key_id, key) in keys.items()}


def _cipher(key: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(bytes.fromhex(key))


def encrypted(cipher: Any, sequence: int, salts: object, origin: object) -> str:
    """Salts and origin of an entry, by the key of a person."""
    nonce, content = os.urandom(_NONCE_BYTES), msgspec.json.encode((salts, origin))
    sealed = nonce + cipher.encrypt(nonce, content, str(sequence).encode())
    return binascii.b2a_base64(sealed, newline=False).decode()


def _decrypted(cipher: Any, sequence: int, sealed: str) -> tuple[dict[str, str], dict[str, str]]:
    data, about = binascii.a2b_base64(sealed), str(sequence).encode()
    return _decode_sealed(cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], about))
